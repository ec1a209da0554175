"""A model as the folder that vLLM and Hugging Face's libraries read: converted once from its GGUF, and cached."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from safetensors import TensorSpec, serialize_file

from inference.model_files import ModelFiles, ModelFilesError, ModelSource, find_weights, load_model_files
from inference.weights import LlamaWeights

_FORMAT: Final = "1"  # of the folder; another one is another folder
_CHECKSUMS: Final = "checksums.json"


def load_model_folder(source: ModelSource, cache_dir: Path) -> Path:
    """A folder with `config.json`, `model.safetensors` and the tokenizer; made when absent or damaged.

    Its files are checked against the SHA-256 that they were written with. Raises ModelFilesError when the weights are
    not the pinned ones or the folder cannot be written.
    """
    folder = cache_dir / "models" / f"{source.sha256}-folder-{_FORMAT}"
    if not _intact(folder):
        _convert(source, cache_dir, folder)
    if not _intact(folder):
        raise ModelFilesError(f"{folder} cannot be written; expected a writable cache folder")
    return folder


def _intact(folder: Path) -> bool:
    try:
        checksums: dict[str, str] = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        return bool(checksums) and all(_sha256(folder / name) == checksum for name, checksum in checksums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _convert(source: ModelSource, cache_dir: Path, folder: Path) -> None:
    """Writes the folder beside its place and renames it there: another process sees all of it or nothing."""
    files = load_model_files(source, cache_dir)
    weights = LlamaWeights(find_weights(source))
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        _write_weights(fresh / "model.safetensors", weights)
        _write(fresh / "tokenizer.json", _tokenizer_json(files))
        _write(fresh / "tokenizer_config.json", _tokenizer_config(files, weights.ends()))
        _write(fresh / "config.json", weights.config())
        _write(fresh / "generation_config.json", weights.ends())
        _write(fresh / _CHECKSUMS, {path.name: _sha256(path) for path in sorted(fresh.iterdir())})
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, folder: Path) -> None:
    if folder.exists() and not _intact(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        fresh.rename(folder)
    except OSError:
        # Another process was faster; its result is the same.
        if not _intact(folder):
            raise


def _tokenizer_json(files: ModelFiles) -> dict[str, Any]:
    """The room's own tokenizer with its control tokens declared.

    Who reads this folder renders a template to text and encodes the whole, so here a text may spell control tokens.
    """
    tokenizer: dict[str, Any] = json.loads(files.tokenizer_json.read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = sorted(files.vocabulary.control.items(), key=itemgetter(1))
    tokenizer["added_tokens"] = [{"id": index, "content": token, **flags} for token, index in control]
    return tokenizer


def _tokenizer_config(files: ModelFiles, ends: dict[str, int]) -> dict[str, Any]:
    names = {index: token for token, index in files.vocabulary.control.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[ends["bos_token_id"]],
        "eos_token": names[ends["eos_token_id"]],
        "pad_token": names[ends["pad_token_id"]],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": files.vocabulary.context_tokens_max,
        "chat_template": files.vocabulary.chat_template,
    }


def _write_weights(path: Path, weights: LlamaWeights) -> None:
    tensors = dict(weights.tensors())
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=values.shape, data_ptr=values.ctypes.data, data_len=values.nbytes)
        for name, values in tensors.items()
    }
    serialize_file(specs, path, metadata={"format": "pt"})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
