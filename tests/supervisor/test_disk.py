"""Bringing Valkey's log to the disk beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis

from services.supervisor.disk import sync
from tests.support.valkey_server import ValkeyServer


def test_the_log_that_valkey_writes_is_the_one_that_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    server = ValkeyServer(tmp_path, append_only=True)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        assert sync(tmp_path) == 1
        assert b"value" in synced[0].read_bytes()
    finally:
        server.kill()


def test_a_folder_without_a_log_has_nothing_to_sync(tmp_path: Path) -> None:
    assert sync(tmp_path) == 0
