"""The real tokenizer, converted once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.model_files import SMOLLM2, ModelFiles, load_model_files
from inference.template import ChatTemplate
from inference.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def cache_dir(tokenizer_cache: Path) -> Path:
    return tokenizer_cache


@pytest.fixture(scope="session")
def model_files(cache_dir: Path) -> ModelFiles:
    return load_model_files(SMOLLM2, cache_dir)


@pytest.fixture(scope="session")
def tokenizer(model_files: ModelFiles) -> Tokenizer:
    return Tokenizer(model_files.tokenizer_json, model_files.vocabulary)


@pytest.fixture(scope="session")
def template(tokenizer: Tokenizer, model_files: ModelFiles) -> ChatTemplate:
    return ChatTemplate(tokenizer, model_files.vocabulary.chat_template)
