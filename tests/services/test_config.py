"""Configuration: what overrides what, and what is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.config import ConfigError, Settings, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ISTHMUS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "isthmus.toml"
    path.write_text('[mesh]\nname = "file"\nshards = 3\nreplicas = 3\n[telemetry]\nlog_level = "debug"\n')
    return path


def test_flags_over_environment_over_file_over_defaults(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_MESH__SHARDS", "4")
    monkeypatch.setenv("ISTHMUS_MESH__REPLICAS", "4")
    loaded = load_settings(toml, mesh={"replicas": 5}).mesh
    assert (loaded.name, loaded.shards, loaded.replicas) == ("file", 4, 5)
    assert loaded.tenant_default == "local"


def test_the_environment_names_a_file(tmp_path: Path, toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "isthmus.json"
    path.write_text(json.dumps({"mesh": {"name": "json"}}))
    monkeypatch.setenv("ISTHMUS_CONFIG", str(path))
    assert load_settings().mesh.name == "json"
    assert load_settings(toml).mesh.name == "file"


def test_settings_written_as_json_read_back_the_same(tmp_path: Path) -> None:
    settings = load_settings(mesh={"shards": 7}, valkey={"url": "redis://127.0.0.1:7000/0"})
    path = tmp_path / "isthmus.json"
    path.write_text(settings.model_dump_json())
    assert load_settings(path) == settings


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"mesh": {"shard": 2}}, r"mesh\.shard: unknown key; did you mean 'shards'\?"),
        ({"valkey": {"zzz": 2}}, r"valkey\.zzz: unknown key; expected one of url, .*"),
        ({"mash": {}}, r"mash: unknown key; did you mean 'mesh'\?"),
        ({"mesh": {"shards": 0}}, r"mesh\.shards: .*greater than or equal to 1; got 0"),
        ({"mesh": {"shards": "many"}}, r"mesh\.shards: .*valid integer.*; got 'many'"),
    ],
)
def test_what_is_wrong_is_named(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(**overrides)


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(mesh={"shards": 0, "replica": 1})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [("ISTHMUS_MESH__SHARD", r"mesh\.shard: unknown key"), ("ISTHMUS_MASH__SHARDS", "ISTHMUS_MASH__SHARDS: unknown")],
)
def test_a_mistyped_variable_is_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=said):
        load_settings()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", "[mesh", "a.toml: cannot be parsed"),
        ("a.json", "{", "a.json: cannot be parsed"),
        ("a.json", "[]", "expected sections at the top level, got list"),
        ("a.toml", "[mesh]\nshard = 1", r"mesh\.shard: unknown key"),
        ("missing.toml", None, "missing.toml: cannot be read: No such file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_settings(path)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().mesh.shards = 3
