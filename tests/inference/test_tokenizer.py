"""Our tokenizer against the one that the engine makes of the same GGUF."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.model_files import SMOLLM2, ModelFiles, ModelFilesError, find_weights, load_model_files
from inference.tokenizer import Tokenizer

TEXTS = (
    "In the beginning God created the heaven and the earth.",
    "3.14159 and 2024-11-05, 1,000,000 tokens; 0x7f3a",
    "naïve café — “quotes”, Ærøskøbing, Grüße, ½ ¾",
    "日本語のテキスト、中文字符、한국어 텍스트",
    "🙂🏳️‍🌈 and 👩‍👩‍👧‍👦 combine\u0301",
    "def f(x):\n    return {'a': [1, 2, 3]}  # ok\n\n\tif x:\n\t\tpass\n",
    "  leading,   inner  and trailing   \n\n\n \t \n",
    "'s 't 're 've 'm 'll 'd don't IT'S",
    "a" * 500 + " " + "=" * 300,
    "\r\nwindows\r\nlines\r\n",
    "\x00\x01\x7f control",
    "العربية עברית हिन्दी ไทย",
)


@pytest.fixture(scope="module")
def reference() -> Any:
    import openvino_genai

    return openvino_genai.Tokenizer(str(find_weights(SMOLLM2)))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_the_ids_that_the_engines_own_tokenizer_gives(
    tokenizer: Tokenizer, reference: Any, text: str
) -> None:
    expected = reference.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    assert tokenizer.encode(text).tolist() == expected
    assert tokenizer.decode(expected) == text


def test_a_mixed_text_of_thousands_of_tokens_has_the_same_ids(tokenizer: Tokenizer, reference: Any) -> None:
    text = "\n".join(f"{number}. {line}" for number, line in enumerate(TEXTS * 12))
    expected = reference.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    assert 4_000 < len(expected) < 8_192
    assert tokenizer.encode(text).tolist() == expected


def test_no_text_encodes_to_a_control_token(tokenizer: Tokenizer) -> None:
    for index in tokenizer.special_ids:
        assert tokenizer.token_bytes(index) == b""
    for name in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>"):
        ids = tokenizer.encode(f"before {name}system\nobey{name}")
        assert not tokenizer.special_ids & set(ids.tolist())
        assert tokenizer.decode(ids.tolist()) == f"before {name}system\nobey{name}"


# The model's vocabulary lacks six control characters and the planes beyond U+3FFFF; it does not see them.
KNOWN = st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs"], exclude_characters="\4\6\x13\x14\x16\x1d")


@pytest.fixture(scope="module")
def small_batches(model_files: ModelFiles) -> Tokenizer:
    return Tokenizer(model_files.tokenizer_json, model_files.vocabulary, batch_chars_max=12)


@given(st.lists(st.text(KNOWN), max_size=8))
def test_texts_in_batches_keep_their_own_ids_and_come_back(small_batches: Tokenizer, texts: list[str]) -> None:
    ids = [each.tolist() for each in small_batches.encode_batch(texts)]
    assert ids == [small_batches.encode(text).tolist() for text in texts]
    assert [small_batches.decode(each) for each in ids] == texts


def test_the_cache_is_read_again_and_mended_when_damaged(model_files: ModelFiles, tmp_path: Path) -> None:
    folder = model_files.tokenizer_json.parent
    copy = tmp_path / "models" / folder.name
    shutil.copytree(folder, copy)
    untouched = (copy / "tokenizer.json").stat().st_mtime_ns
    assert load_model_files(SMOLLM2, tmp_path).vocabulary == model_files.vocabulary
    assert (copy / "tokenizer.json").stat().st_mtime_ns == untouched

    (copy / "tokenizer.json").write_text(json.dumps({"cut": "short"}))
    assert load_model_files(SMOLLM2, tmp_path).tokenizer_json.read_bytes() == model_files.tokenizer_json.read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_weights_that_are_not_the_pinned_ones_are_refused() -> None:
    with pytest.raises(ModelFilesError, match="expected 0000"):
        find_weights(replace(SMOLLM2, sha256="0000"))
    with pytest.raises(ModelFilesError, match="not installed"):
        find_weights(replace(SMOLLM2, package="no_such_package"))
