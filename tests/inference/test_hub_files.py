"""A model folder as it comes from the hub: its tokenizer without a way to spell control tokens, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from inference.hub_files import read_model_folder
from inference.model_files import ModelFilesError
from inference.models import configured_model, model_folder
from inference.template import START, ChatTemplate
from inference.tokenizer import Tokenizer
from services.config import load_settings
from tests.inference.items import item

SPECIAL = ["<s>", "</s>", "<|turn|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TEXT = "A narrow strip of land, 12 miles wide: caf\u00e9 \U0001f642 <|turn|>system </s> <think>"


def write(folder: Path, *, byte_level: bool = True) -> Path:
    """A small model folder, its tokenizer trained on a few words."""
    folder.mkdir()
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=not byte_level))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    if byte_level:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        made.normalizer = normalizers.Replace(" ", "\u2581")
        made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet if byte_level else [], special_tokens=[] if byte_level else alphabet
    )
    made.train_from_iterator(["the narrow way between two lands of turn and system"], trainer)
    document = json.loads(made.to_str())
    size = made.get_vocab_size()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] = [
        {"id": size + at, "content": token, "special": token in SPECIAL, **flags}
        for at, token in enumerate([*SPECIAL, "<think>"])
    ]
    put(folder, "tokenizer.json", document)
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE}
    put(folder, "tokenizer_config.json", named)
    put(folder, "config.json", {"max_position_embeddings": 2_048, "eos_token_id": size + 2})
    return folder


def put(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("byte_level", [True, False], ids=["byte level", "SentencePiece"])
def test_any_text_comes_back_and_none_becomes_a_control_token(tmp_path: Path, byte_level: bool) -> None:
    files = read_model_folder(write(tmp_path / "small", byte_level=byte_level), tmp_path / "cache")
    tokenizer = Tokenizer(files.tokenizer_json, files.vocabulary)
    ids = tokenizer.encode(TEXT).tolist()
    assert tokenizer.decode(ids) == TEXT
    assert not tokenizer.special_ids & set(ids)
    assert files.vocabulary.byte_level is byte_level


def test_a_folder_says_all_that_is_wanted(tmp_path: Path) -> None:
    folder = write(tmp_path / "small")
    files = read_model_folder(folder, tmp_path / "cache")
    tokenizer, vocabulary = Tokenizer(files.tokenizer_json, files.vocabulary), files.vocabulary
    assert (files.name, vocabulary.context_tokens_max) == ("small", 2_048)
    assert set(vocabulary.control) == {*SPECIAL, "<think>"}
    assert vocabulary.end_ids == (tokenizer.special_id("</s>"), tokenizer.special_id("<|turn|>"))
    assert tokenizer.decode([tokenizer.special_id("</s>"), tokenizer.special_id("<think>")]) == "<think>"
    template = ChatTemplate(tokenizer, vocabulary.chat_template, vocabulary.variables)
    (encoded,) = template.encode([item("hi")], START)
    opening = [tokenizer.special_id("<s>"), tokenizer.special_id("<|turn|>")]
    assert encoded.ids.tolist() == [*opening, *tokenizer.encode("user\nhi").tolist()]
    assert read_model_folder(folder, tmp_path / "cache") == files


def test_a_template_beside_the_settings_goes_first_and_lists_name_theirs(tmp_path: Path) -> None:
    folder = write(tmp_path / "small")
    put(folder, "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "by name"}]})
    assert read_model_folder(folder, tmp_path).vocabulary.chat_template == "by name"
    (folder / "chat_template.jinja").write_text("beside")
    assert read_model_folder(folder, tmp_path).vocabulary.chat_template == "beside"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "config.json does not exist; expected the model's configuration"),
        ("config.json", [], "holds list"),
        ("config.json", {"eos_token_id": 1}, "expected max_position_embeddings"),
        ("tokenizer_config.json", {}, "has no chat template"),
        ("tokenizer.json", {"decoder": {"type": "WordPiece"}}, "decodes by"),
    ],
)
def test_what_is_missing_is_said_by_its_file(tmp_path: Path, name: str, content: Any, said: str) -> None:
    folder = write(tmp_path / "small")
    put(folder, name, content)
    if content is None:
        (folder / name).unlink()
    with pytest.raises(ModelFilesError, match=said):
        read_model_folder(folder, tmp_path / "cache")


def test_a_reply_must_end_somewhere(tmp_path: Path) -> None:
    folder = write(tmp_path / "small")
    put(folder, "config.json", {"max_position_embeddings": 2_048})
    put(folder, "tokenizer_config.json", {"chat_template": TEMPLATE})
    with pytest.raises(ModelFilesError, match="eos_token_id"):
        read_model_folder(folder, tmp_path / "cache")


@pytest.mark.parametrize("model", ["/nowhere", "./nowhere", "plain"])
def test_what_is_neither_a_folder_nor_a_name_is_refused(model: str) -> None:
    with pytest.raises(ModelFilesError, match="expected a model's folder"):
        model_folder(model)


def test_a_model_of_the_hub_has_its_name_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept, commit = tmp_path / "models--us--small", "0" * 40
    (kept / "snapshots").mkdir(parents=True)
    folder = write(kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit, encoding="utf-8")
    for model, name in {"us/small": "us/small", str(folder): commit}.items():
        settings = load_settings(
            inference={"engine": "vllm", "cache_dir": tmp_path / "cache"},
            vllm={"model": model},
            mesh={"home": tmp_path},
        )
        assert configured_model(settings).name == name


def test_a_name_that_no_cache_has_is_refused_without_a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelFilesError, match="nobody/nothing could not be fetched"):
        model_folder("nobody/nothing")
