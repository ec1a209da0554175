"""Whether this machine has the engine that is wanted, and how it is told its model."""

from __future__ import annotations

import importlib.util
from typing import Final

from services.cli.errors import EXIT_USAGE, CliError

VLLM: Final = "vllm"
# Engines that a model can be chosen for, each by a section of the settings.
_WITH_MODELS: Final = {VLLM: VLLM, "openai": "openai", "openai-chat": "openai", "anthropic": "anthropic"}


def require_engine(engine: str, model: str | None = None) -> None:
    """Raises CliError if the engine cannot be started here, or takes no `model`."""
    if engine == VLLM and importlib.util.find_spec("vllm") is None:
        raise CliError(
            "ENGINE_NOT_INSTALLED",
            "--engine vllm needs vLLM: pip install 'isthmus[vllm]', or without a GPU make setup-vllm (docs/engines.md)",
            exit_code=EXIT_USAGE,
        )
    if model is not None and not model_section(engine, model):
        raise CliError(
            "USAGE",
            "--model goes with --engine vllm, openai:URL, openai-chat:URL or anthropic:URL",
            exit_code=EXIT_USAGE,
        )


def model_section(engine: str, model: str | None) -> dict[str, dict[str, object]]:
    """The settings by which the engine runs the model; none for the model that it has by itself."""
    name = engine.partition(":")[0]
    return {_WITH_MODELS[name]: {"model": model}} if model is not None and name in _WITH_MODELS else {}
