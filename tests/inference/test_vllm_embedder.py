"""What is said of a model for vectors before vLLM starts, and one vLLM after another. vLLM itself is not needed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from isthmus.errors.v1 import errors_pb2

from inference.embedders.vllm import is_silent
from inference.engines.vllm_living import Living
from services.config import ConfigError
from services.errors import IsthmusError, UpstreamUnavailable


def folder(path: Path, *, modules: bool = False, **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    if modules:
        (path / "modules.json").write_text("[]", "utf-8")
    return path


def test_only_a_model_that_generates_is_silent_about_its_vectors(tmp_path: Path) -> None:
    assert is_silent(folder(tmp_path / "llm", architectures=["LlamaForCausalLM"]))
    assert not is_silent(folder(tmp_path / "trained", modules=True, architectures=["Qwen3ForCausalLM"]))
    assert not is_silent(folder(tmp_path / "bert", architectures=["BertModel"]))


def test_a_folder_without_architectures_is_no_model(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {"none": {}, "null": {"architectures": None}, "numbers": {"architectures": [1]}}
    for name, config in wrong.items():
        with pytest.raises(ConfigError, match=r"^vllm.embedding_model: .*config.json has no architectures: .*expected"):
            is_silent(folder(tmp_path / name, **config))
    with pytest.raises(ConfigError, match=r"^vllm.embedding_model: .*config.json has no architectures: .*No such file"):
        is_silent(tmp_path)


class Made:
    """A core whose death and end can be seen."""

    def __init__(self) -> None:
        self.alive = True
        self.is_stopped = False

    async def stop(self) -> None:
        self.is_stopped = True


class Starts:
    """Starts that take until they are let go on."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.ended: list[Made] = []
        self.may_go_on = asyncio.Event()
        self.error: Exception | None = None
        self.living = Living(self.start, self.ended.append)

    def is_loading(self) -> bool:
        return self.living.is_loading

    async def start(self) -> Made:
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        self.made.append(Made())
        return self.made[-1]


async def test_who_waits_for_a_start_waits_for_the_same() -> None:
    starts = Starts()
    waiting = [asyncio.create_task(starts.living.get()) for _ in range(3)]
    await asyncio.sleep(0)
    assert starts.is_loading()
    waiting[0].cancel()
    starts.may_go_on.set()
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert {waiting[1].result(), waiting[2].result(), await starts.living.get()} == set(starts.made)
    assert (len(starts.made), starts.is_loading()) == (1, False)


async def test_one_that_has_died_is_followed_by_another_at_once() -> None:
    starts = Starts()
    starts.may_go_on.set()
    first = await starts.living.start()
    starts.living.lost(first)
    assert not starts.is_loading(), "it lives"
    first.alive = False
    starts.living.lost(first)
    assert starts.is_loading()
    second = await starts.living.get()
    assert (second is not first, first.is_stopped, starts.ended) == (True, True, [first])
    starts.living.lost(first)
    assert not starts.is_loading(), "it has a successor already"


async def test_requests_are_told_to_come_back_while_none_starts() -> None:
    starts = Starts()
    starts.may_go_on.set()
    starts.error = ConfigError("vllm.embedding_args.dtype: wrong")
    with pytest.raises(ConfigError):
        await starts.living.start()
    with pytest.raises(IsthmusError, match="does not start: vllm") as caught:
        await starts.living.get()
    assert caught.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert caught.value.retry_after_ms
    starts.error = None
    assert (await starts.living.get()).alive


async def test_a_stop_ends_the_start_and_whoever_waits_for_it() -> None:
    starts = Starts()
    waiting = asyncio.create_task(starts.living.get())
    await asyncio.sleep(0)
    await starts.living.stop()
    with pytest.raises(UpstreamUnavailable, match="stopped while it started"):
        await waiting
    starts.may_go_on.set()
    core = await starts.living.start()
    await starts.living.stop()
    assert (core.is_stopped, starts.living.core) == (True, None)
