"""The tokenizer is read from its file once for all tests of a process: each replica would take a fifth of a second."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import tokenizers

import inference.tokenizer

_read: dict[bytes, tokenizers.Tokenizer] = {}


def _from_file(path: str) -> tokenizers.Tokenizer:
    # By what is in the file: tests convert, damage and repair theirs.
    digest = hashlib.sha256(Path(path).read_bytes()).digest()
    if digest not in _read:
        _read[digest] = tokenizers.Tokenizer.from_file(path)
    return _read[digest]


@contextmanager
def read_once() -> Iterator[None]:
    """Replicas share what they read; nothing changes a tokenizer that was read."""
    shared = SimpleNamespace(Tokenizer=SimpleNamespace(from_file=_from_file))
    with mock.patch.object(inference.tokenizer, "tokenizers", shared):
        yield
