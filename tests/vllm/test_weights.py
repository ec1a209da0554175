"""The converted model in vLLM, against the arithmetic of the GGUF that it was made of, and beside the local engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import pytest_asyncio
import tokenizers

from inference.model_files import SMOLLM2, find_weights
from tests.vllm.engines import engine, generate
from tests.vllm.llama import Llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTIONS: Final = (
    "What is the capital of France?",
    "Name three rivers of Europe.",
    "Write a haiku about the sea.",
    "What is 2 + 2?",
    "Tell me a story about a fox.",
    "Translate 'good morning' into French.",
    "def fibonacci(n):",
    "Why is the sky blue?",
)
_CANDIDATES: Final = 10


@pytest.fixture(scope="module")
def prompts(model_folder: Path) -> list[list[int]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    return [
        tokenizer.encode(
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
        ).ids
        for question in QUESTIONS
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(model_folder: Path) -> AsyncIterator[Any]:
    async with engine(model_folder) as started:
        yield started


@pytest.fixture(scope="module")
def llama() -> Llama:
    return Llama(find_weights(SMOLLM2))


async def test_every_candidate_is_as_likely_as_the_gguf_says(llm: Any, llama: Llama, prompts: list[list[int]]) -> None:
    differences = []
    for number, prompt in enumerate(prompts):
        reply = await generate(llm, prompt, f"likely-{number}", max_tokens=4, logprobs=_CANDIDATES, ignore_eos=True)
        expected = llama.logprobs([*prompt, *reply.ids])[len(prompt) - 1 : -1]
        for step, candidates in enumerate(reply.logprobs):
            found = np.asarray(list(candidates.values()))
            differences.append(np.abs(found - expected[step][list(candidates)]).max())
    # What the conversion rounds away, bfloat16 in place of float32, moves a logarithm by a few hundredths.
    assert len(differences) == 4 * len(QUESTIONS)
    assert max(differences) < 0.15, differences


async def test_the_local_engine_says_something_that_is_likely_here(llm: Any, prompts: list[list[int]]) -> None:
    """The local engine rounds the weights' offsets to whole steps, so it is close to this model and not the same."""
    for number, (prompt, first) in enumerate(zip(prompts, _local_first_tokens(prompts), strict=True)):
        reply = await generate(llm, prompt, f"beside-{number}", max_tokens=1, logprobs=_CANDIDATES)
        assert first in reply.logprobs[0], QUESTIONS[number]


def _local_first_tokens(prompts: list[list[int]]) -> list[int]:
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(find_weights(SMOLLM2)), scheduler, "CPU")
    greedy = openvino_genai.GenerationConfig()
    greedy.max_new_tokens = 1
    tensors = [openvino.Tensor(np.asarray([prompt], dtype=np.int64)) for prompt in prompts]
    return [result.m_generation_ids[0][0] for result in pipeline.generate(tensors, [greedy] * len(prompts))]
