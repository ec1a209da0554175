"""A model's text side out of a folder in Hugging Face's layout.

Its control tokens are taken out of the tokenizer, so that no text, whatever it holds, encodes to one: the room's own
template places them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from inference.model_files import ModelFiles, ModelFilesError
from inference.vocabulary import Vocabulary

# Tokens that are marked as plain ones in some models, and that a template places all the same.
_MARKER: Final = re.compile(r"<[^<>\s]+>|\[[A-Z_/]+\]")
_CONTEXT_FIELDS: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_FORMAT: Final = "1"


def read_model_folder(folder: Path, cache_dir: Path) -> ModelFiles:
    """The files of a model folder; the changed tokenizer is kept in the cache. Raises ModelFilesError."""
    tokenizer = _json(folder / "tokenizer.json", "the model's fast tokenizer")
    settings = _json(folder / "tokenizer_config.json", "the tokenizer's settings")
    config = _json(folder / "config.json", "the model's configuration")
    added: list[dict[str, Any]] = tokenizer.get("added_tokens", [])
    control = {
        each["content"]: int(each["id"]) for each in added if each["special"] or _MARKER.fullmatch(each["content"])
    }
    text = json.dumps(
        {
            **tokenizer,
            "added_tokens": [each for each in added if each["content"] not in control],
            "post_processor": None,
            "truncation": None,
            "padding": None,
        },
        ensure_ascii=False,
    ).encode()
    digest = hashlib.sha256(text).hexdigest()
    vocabulary = Vocabulary(
        chat_template=_chat_template(folder, settings),
        context_tokens_max=_context_tokens_max(folder, config),
        control=control,
        silent_ids=tuple(int(each["id"]) for each in added if each["special"]),
        end_ids=_end_ids(folder, config, settings, control),
        tokenizer_sha256=digest,
        variables={name: token for name in ("bos_token", "eos_token") if (token := _token(settings.get(name)))},
        byte_level=_is_byte_level(folder, tokenizer.get("decoder")),
    )
    return ModelFiles(folder.name, _kept(cache_dir / "tokenizers" / f"{digest}-{_FORMAT}.json", text), vocabulary)


def _kept(path: Path, text: bytes) -> Path:
    """The cached file, written beside its place and renamed there: another process sees all of it or nothing."""
    try:
        if not path.is_file() or path.read_bytes() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(f".{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.writing")
            fresh.write_bytes(text)
            fresh.rename(path)
    except OSError as error:
        raise ModelFilesError(f"{path} cannot be written: {error}; expected a writable cache folder") from error
    return path


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFilesError(f"{path} does not exist; expected {what} in a folder of Hugging Face's layout") from None
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} cannot be read: {error}; expected {what} as JSON") from error
    if not isinstance(content, dict):
        raise ModelFilesError(f"{path} holds {type(content).__name__}; expected {what} as a JSON object")
    return content


def _chat_template(folder: Path, settings: dict[str, Any]) -> str:
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        # Several by name.
        template = {each["name"]: each["template"] for each in template}.get("default")
    if not isinstance(template, str):
        raise ModelFilesError(
            f"{folder} has no chat template; expected one in chat_template.jinja or tokenizer_config.json, as a model"
            " that is trained to converse has"
        )
    return template


def _context_tokens_max(folder: Path, config: dict[str, Any]) -> int:
    # Models that also see have those of their text side in a section of their own.
    for section in (config, config.get("text_config", {})):
        for name in _CONTEXT_FIELDS:
            if isinstance(section.get(name), int):
                return int(section[name])
    raise ModelFilesError(f"{folder / 'config.json'} does not say the model's context; expected {_CONTEXT_FIELDS[0]}")


def _end_ids(
    folder: Path, config: dict[str, Any], settings: dict[str, Any], control: dict[str, int]
) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    said = (_json(generation, "how to generate") if generation.is_file() else {}).get("eos_token_id")
    said = config.get("eos_token_id") if said is None else said
    ends = {int(each) for each in (said if isinstance(said, list) else [said]) if each is not None}
    named = control.get(_token(settings.get("eos_token")))
    if named is not None:
        ends.add(named)
    if not ends:
        raise ModelFilesError(f"{folder} does not say which token ends a reply; expected eos_token_id in config.json")
    return tuple(sorted(ends))


def _token(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _is_byte_level(folder: Path, decoder: Any) -> bool:
    kinds = set(_kinds(decoder))
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return False
    raise ModelFilesError(
        f"{folder / 'tokenizer.json'} decodes by {sorted(kinds) or 'nothing'}; expected a byte-level or SentencePiece"
        " tokenizer"
    )


def _kinds(decoder: Any) -> Iterator[str]:
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for each in decoder.get("decoders", ()):
            yield from _kinds(each)
