"""Between the room's terms and vLLM's: how to sample, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from isthmus.session.v1 import message_pb2, turn_pb2
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from inference.engine import EngineOutput, Sampling
from inference.engines.vllm_grammar import guidance
from inference.forms import structural_tag
from inference.tokenizer import Tokenizer

# Fields of Sampling that vLLM knows by the same name.
_SAME: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logprobs",
)
# The contract's names for what vLLM calls otherwise, and the one for what it does not name.
FIELDS: Final[Mapping[str, str]] = {
    **{name: f"params.{name}" for name in (*_SAME, "seed")},
    "max_tokens": "params.max_output_tokens",
    "structured_outputs": "params.structured_output",
    "tools": "params.tools",
    "min_tokens": "params.min_output_tokens",
}
_FINISH: Final = {"stop": turn_pb2.FINISH_REASON_STOP, "length": turn_pb2.FINISH_REASON_LENGTH}
_SEED_BITS: Final = 63
# What is impossible has no logarithm, and JSON no infinity.
_LOGPROB_MIN: Final = -9_999.0


def sampling_params(
    sampling: Sampling, defaults: Mapping[str, Any], end_ids: Collection[int], tokens_max: int, forms: str = "guidance"
) -> Any:
    """vLLM's parameters; `defaults` are the model's own, one of `end_ids` ends the reply, `forms` keeps to its form.

    Raises vLLM's VLLMClientError for values that it does not take.
    """
    given = {name: value for name in _SAME if (value := getattr(sampling, name)) is not None}
    chosen = {name: value for name, value in defaults.items() if name in _SAME} | given
    return SamplingParams(
        **chosen,
        max_tokens=tokens_max,
        min_tokens=min(sampling.output_tokens_min, tokens_max),
        seed=None if sampling.seed is None else sampling.seed & ((1 << _SEED_BITS) - 1),
        stop_token_ids=sorted(end_ids),
        structured_outputs=_form(sampling, forms),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


@dataclass(frozen=True, slots=True)
class Outputs:
    """Makes vLLM's outputs of one request the engine's, without the token that ends the reply."""

    tokenizer: Tokenizer
    end_ids: Collection[int]
    logprobs: int | None

    def output(self, completion: Any, cached_tokens: int | None, *, resident: bool) -> EngineOutput:
        """One output: a completion's next tokens."""
        ids = [token for token in completion.token_ids if token not in self.end_ids]
        logprobs: tuple[message_pb2.TokenLogprob, ...] = ()
        if self.logprobs is not None:
            # An end would be the last of the ids, and its entry is left over.
            logprobs = tuple(map(self._logprob, ids, completion.logprobs or ()))
        finish = _FINISH.get(completion.finish_reason or "", turn_pb2.FINISH_REASON_UNSPECIFIED)
        return EngineOutput(tuple(ids), finish, cached_tokens, resident, logprobs)

    def _logprob(self, token: int, of: Mapping[int, Any]) -> message_pb2.TokenLogprob:
        """The token's own; vLLM has it in one table with the likeliest, of which it may be one."""
        likeliest = sorted(of, key=lambda each: of[each].rank)[: self.logprobs]
        return message_pb2.TokenLogprob(
            token=self.tokenizer.token_bytes(token),
            logprob=_finite(of[token].logprob),
            likeliest=[
                message_pb2.TokenLogprob(token=self.tokenizer.token_bytes(each), logprob=_finite(of[each].logprob))
                for each in likeliest
            ],
        )


def _finite(logprob: float) -> float:
    return max(logprob, _LOGPROB_MIN)


def _form(sampling: Sampling, forms: str) -> Any:
    form, tools = sampling.structured_output, sampling.tools
    if tools is not None and forms == "guidance" and (grammar := guidance(form, tools)) is not None:
        return StructuredOutputsParams(**grammar)
    if tools is not None and forms != "guidance" and (tag := structural_tag(form, tools)) is not None:
        return StructuredOutputsParams(structural_tag=tag)
    if form is None:
        return None
    if form.HasField("choices"):
        return StructuredOutputsParams(choice=list(form.choices.texts))
    if form.HasField("regex"):
        return StructuredOutputsParams(regex=form.regex)
    return StructuredOutputsParams(json=form.json_schema)
