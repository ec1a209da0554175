"""The engine `vllm` as the room uses it: its requests, and whole replies to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from isthmus.session.v1 import message_pb2, turn_pb2

from inference.engine import EngineContext, EngineOutput, EngineRequest, Sampling, create_engine
from inference.engines.vllm import VllmEngine
from inference.model_files import SMOLLM2, load_model_files
from inference.tokenizer import Tokenizer
from inference.windows import Window
from services.config import InferenceSettings, VllmSettings, load_settings

_NOTHING: Final = np.zeros(0, dtype=np.int32)
_LAYERS: Final = 30
_WIDTH: Final = 576


@dataclass(frozen=True, slots=True)
class Reply:
    """All outputs of one request as one."""

    ids: tuple[int, ...]
    text: str
    finish_reason: turn_pb2.FinishReason.ValueType
    cached_tokens: int | None
    resident: bool
    logprobs: tuple[message_pb2.TokenLogprob, ...]


class Asker:
    """Puts chats together and asks the engine, greedily unless told otherwise."""

    def __init__(self, engine: VllmEngine, tokenizer: Tokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer

    def said(self, text: str) -> list[int]:
        """A user's message, and the header of the reply to it."""
        return self._framed(self.tokenizer.encode(text).tolist())

    def story(self, tokens: int) -> list[int]:
        """A message of so many tokens."""
        text = " ".join(f"Item {index} costs {index * 7} coins." for index in range(tokens))
        return self._framed(self.tokenizer.encode(text).tolist()[:tokens])

    def closed(self, reply: Reply) -> list[int]:
        """A reply as it stands in the next window."""
        return [*reply.ids, self.tokenizer.special_id("<|im_end|>"), *self.tokenizer.encode("\n").tolist()]

    def request(self, ids: Sequence[int], tokens: int, **more: Any) -> EngineRequest:
        """A request for so many tokens; `more` are fields of EngineRequest and Sampling."""
        own = {name: more.pop(name) for name in ("session", "adapter", "priority") if name in more}
        return EngineRequest(
            window=np.asarray(ids, dtype=np.int32),
            header=_NOTHING,
            points=(Window().end,),
            cache_salt=more.pop("salt", "tenant"),
            sampling=Sampling(output_tokens_max=tokens, **{"temperature": 0.0, **more}),
            **own,
        )

    async def ask(self, ids: Sequence[int], tokens: int = 16, **more: Any) -> Reply:
        """A whole reply."""
        return self.whole([each async for each in self.engine.generate(self.request(ids, tokens, **more))])

    def whole(self, outputs: Sequence[EngineOutput]) -> Reply:
        ids = tuple(token for output in outputs for token in output.token_ids)
        return Reply(
            ids=ids,
            text=self.tokenizer.decode(ids),
            finish_reason=outputs[-1].finish_reason,
            cached_tokens=outputs[-1].cached_tokens,
            resident=outputs[-1].resident,
            logprobs=tuple(each for output in outputs for each in output.logprobs),
        )

    def _framed(self, message: list[int]) -> list[int]:
        start, end = self.tokenizer.special_id("<|im_start|>"), self.tokenizer.special_id("<|im_end|>")
        user, reply, line = (self.tokenizer.encode(each).tolist() for each in ("user\n", "assistant\n", "\n"))
        return [start, *user, *message, end, *line, start, *reply]


def context(vllm: VllmSettings | None = None, **settings: Any) -> EngineContext:
    """What an engine on the model that comes along is made from; its files are in the user's cache."""
    section = InferenceSettings(engine="vllm", cache_dir=load_settings().inference.cache_dir, **settings)
    files = load_model_files(SMOLLM2, section.cache_dir)
    return EngineContext(section, files, Tokenizer(files.tokenizer_json, files.vocabulary), vllm or VllmSettings())


@asynccontextmanager
async def asker(vllm: VllmSettings, **settings: Any) -> AsyncIterator[Asker]:
    """A started engine, stopped afterwards."""
    made = context(vllm, **settings)
    engine = create_engine(made)
    assert isinstance(engine, VllmEngine)
    await engine.start()
    try:
        yield Asker(engine, made.tokenizer)
    finally:
        await engine.stop()


def write_adapter(folder: Path, scale: float, rank: int = 8) -> Path:
    """A random LoRA adapter of the model that comes along; with a `scale` of 0 it changes nothing."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(1)
    weights = {}
    for layer in range(_LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        for side, shape in (("lora_A", (rank, _WIDTH)), ("lora_B", (_WIDTH, rank))):
            weights[f"{name}.{side}.weight"] = (random.standard_normal(shape) * scale).astype(np.float32)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": ["q_proj"]}), "utf-8")
    return folder
