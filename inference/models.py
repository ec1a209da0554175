"""Which model the configuration means, and where its files are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from inference.hub_files import read_model_folder
from inference.model_files import SMOLLM2, ModelFiles, ModelFilesError, load_model_files
from services.config import Settings


def configured_model(settings: Settings) -> ModelFiles:
    """The text side of the configured model. Blocks while files are converted. Raises ModelFilesError."""
    cache_dir = settings.inference.cache_dir
    engine = settings.inference.engine
    if engine == "vllm" and settings.vllm.model:
        files = read_model_folder(model_folder(settings.vllm.model), cache_dir)
        return dataclasses.replace(files, name=model_name(settings.vllm.model))
    if engine.partition(":")[0] in ("openai", "openai-chat") and settings.openai.tokenizer:
        return read_model_folder(settings.openai.tokenizer, cache_dir)
    return load_model_files(SMOLLM2, cache_dir)


def model_name(model: str) -> str:
    """What a model is served as: its folder's name, or its own on the hub."""
    return Path(model).absolute().name if Path(model).is_dir() else model


def model_folder(model: str) -> Path:
    """The folder of a path, or of a name on the hub, which is fetched unless its libraries are told not to."""
    if Path(model).is_dir():
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelFilesError(f"{model} is no folder; expected a model's folder, or a name such as Qwen/Qwen3-0.6B")
    from huggingface_hub import snapshot_download  # a third of a second, for this case alone
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.gguf", "*.pth", "original/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelFilesError(
            f"{model} could not be fetched: {error}; expected it on the hub or in its cache"
        ) from None
