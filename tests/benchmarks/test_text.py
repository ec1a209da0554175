"""The texts have as many tokens as they say, by the model's own tokenizer, and are the same in every run."""

from __future__ import annotations

import pytest

from inference.model_files import SMOLLM2, load_model_files
from inference.tokenizer import Tokenizer
from services.cli.bench.text import delta, text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    files = load_model_files(SMOLLM2, tmp_path_factory.mktemp("cache"))
    return Tokenizer(files.tokenizer_json, files.vocabulary)


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 12_345])
def test_a_text_has_exactly_the_tokens_asked_for(tokenizer: Tokenizer, tokens: int) -> None:
    assert len(tokenizer.encode(text(tokens, seed=1))) == tokens


def test_a_text_depends_on_its_seed_alone() -> None:
    assert text(1_000, seed=1) == text(1_000, seed=1)
    assert text(1_000, seed=1) != text(1_000, seed=2)


def test_a_token_is_as_long_as_in_prose() -> None:
    assert 4.0 < len(text(50_000, seed=1)) / 50_000 < 5.0


def test_every_delta_is_as_long_as_another() -> None:
    assert len({len(delta(number)) for number in (0, 7, 999_999)}) == 1
