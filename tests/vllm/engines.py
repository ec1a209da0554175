"""AsyncLLM on two cores, as the tests use it: one engine at a time, its replies as lists of token ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

ENVIRONMENT: Final[Mapping[str, str]] = {
    # On a CPU the worker then shares the engine core's process, instead of being another one with all imports.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Two threads for a small model wait for each other, and on a machine with other work for most of the time.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # The first request for logprobs would otherwise compile for half a minute.
    "TORCHDYNAMO_DISABLE": "1",
}
_STOP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request gave. `logprobs` are those of the candidates by token id, one mapping a token."""

    ids: list[int]
    finish: str | None
    cached: int
    logprobs: list[dict[int, float]]


@asynccontextmanager
async def engine(folder: Path, **arguments: Any) -> AsyncIterator[AsyncLLM]:
    """An engine with half a gibibyte for keys and values, unless told otherwise; stopped afterwards."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from inference.engines.vllm_loading import end

    settings: dict[str, Any] = {
        "model": str(folder),
        "dtype": "float32",
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "block_size": 32,
        "max_num_batched_tokens": 2_048,
        "max_num_seqs": 8,
        "kv_cache_memory_bytes": 1 << 29,
        **arguments,
    }
    llm = await asyncio.to_thread(AsyncLLM.from_engine_args, AsyncEngineArgs(**settings))
    try:
        yield llm
    finally:
        await end(llm, _STOP_S)


def sampling(**settings: Any) -> SamplingParams:
    """Greedy, by token ids alone."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        **{"temperature": 0.0, "detokenize": False, "output_kind": RequestOutputKind.DELTA, **settings}
    )


async def generate(llm: AsyncLLM, ids: Sequence[int], request_id: str, salt: str = "", **settings: Any) -> Reply:
    """One request from its beginning to its end."""
    from vllm import TokensPrompt

    prompt = (
        TokensPrompt(prompt_token_ids=list(ids), cache_salt=salt) if salt else TokensPrompt(prompt_token_ids=list(ids))
    )
    reply: list[int] = []
    logprobs: list[dict[int, float]] = []
    async for output in llm.generate(prompt, sampling(**settings), request_id):
        completion = output.outputs[0]
        reply += completion.token_ids
        logprobs += [{index: each.logprob for index, each in step.items()} for step in completion.logprobs or ()]
        cached, finish = output.num_cached_tokens, completion.finish_reason
    return Reply(reply, finish, cached or 0, logprobs)
