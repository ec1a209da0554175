"""What is said against vLLM's arguments, by the keys that they come from: all of it before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from inference.engines.vllm_args import Use
from services.config import ConfigError, VllmSettings

_WORD: Final = re.compile(r"\w+")


def refuse_unknown(use: Use, vllm: VllmSettings, known: Sequence[str]) -> None:
    """Raises ConfigError with a line for each argument that vLLM does not have, or that is set elsewhere."""
    lines = []
    for name in use.given(vllm):
        if name == "model":
            lines.append(f"{use.own_key(name)}: is set elsewhere; expected it as {use.sources[name]}")
        elif name not in known:
            near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "expected a field of vLLM's AsyncEngineArgs"
            lines.append(f"{use.own_key(name)}: vLLM has no such argument; {hint}")
    if lines:
        raise ConfigError("\n".join(lines))


def explain(error: Exception, use: Use, vllm: VllmSettings) -> ConfigError:
    """What vLLM says against its arguments, by the keys that they come from."""
    if not isinstance(error, ValidationError):
        return ConfigError(f"{_mentioned(str(error), use, vllm)}: {_one_line(str(error))}")
    lines: dict[str, list[str]] = {}
    for each in error.errors():
        name = str(each["loc"][0]) if each["loc"] else ""
        message = _one_line(each["msg"]).removeprefix("Value error, ")
        if name:
            lines.setdefault(f"{use.key(name, vllm)}: got {each['input']!r}", []).append(message)
        else:
            lines.setdefault(_mentioned(message, use, vllm), []).append(message)
    return ConfigError("\n".join(f"{key}: {'; or: '.join(messages)}" for key, messages in lines.items()))


def refuse_small_cache(
    use: Use, vllm: VllmSettings, available_bytes: int, token_bytes: int, context_tokens: int
) -> None:
    """Raises ConfigError where keys and values of one context do not fit: vLLM says so only in its child's log."""
    needed_bytes = token_bytes * context_tokens
    if needed_bytes > available_bytes:
        raise ConfigError(
            f"{use.key('kv_cache_memory_bytes', vllm)}: {available_bytes / (1 << 30):.2f} GiB hold "
            f"{available_bytes // token_bytes} tokens of this model; expected {needed_bytes / (1 << 30):.2f} GiB for "
            f"the {context_tokens} of one context, or a smaller {use.key('max_model_len', vllm)}"
        )


def _mentioned(message: str, use: Use, vllm: VllmSettings) -> str:
    """The keys whose arguments a message names."""
    named = set(_WORD.findall(message)) - {"model"}
    keys = dict.fromkeys(use.key(name, vllm) for name in {**use.sources, **use.given(vllm)} if name in named)
    return ", ".join(keys) or f"vllm.{use.setting}"


def _one_line(message: str) -> str:
    return " ".join(message.split())
