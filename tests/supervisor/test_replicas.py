"""What replicas on one machine are given: time for their engine, threads of their own, settings without defaults."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import Settings, load_settings
from services.supervisor.home import Home
from services.supervisor.local import plan_mesh
from services.supervisor.plan import Allowance
from services.supervisor.replicas import allowances, with_cores_shared


def settings_of(engine: str, replicas: int = 2, **sections: Any) -> Settings:
    inference = {"engine": engine, **sections.pop("inference", {})}
    return load_settings(mesh={"replicas": replicas}, inference=inference, **sections)


def test_replicas_with_vllm_have_what_vllm_may_take() -> None:
    vllm = {"start_ms_max": 7_000, "stop_ms_max": 3_000}
    assert allowances(settings_of("vllm", vllm=vllm)) == {"inference": Allowance(7_000, 3_000, "vllm")}
    assert allowances(settings_of("local", vllm=vllm)) == {}
    both = {**vllm, "embedding_model": "some"}
    assert allowances(settings_of("local", vllm=both)) == {"inference": Allowance(7_000, 3_000, "vllm")}
    assert allowances(settings_of("vllm", vllm=both)) == {"inference": Allowance(14_000, 6_000, "vllm")}


@given(st.integers(1, 64), st.integers(1, 256))
def test_the_cores_are_shared_out_to_vllms_replicas(replicas: int, cores: int) -> None:
    threads = with_cores_shared(settings_of("vllm", replicas), cores).inference.threads_count
    if replicas == 1:
        assert threads == 0, "the engine takes all that it finds"
    else:
        assert threads == 1 or threads * replicas <= cores < (threads + 1) * replicas


def test_who_has_said_how_many_threads_is_not_overruled() -> None:
    for said in (0, 3):
        settings = settings_of("vllm", inference={"threads_count": said})
        assert with_cores_shared(settings, 16) == settings
    other = settings_of("local")
    assert with_cores_shared(other, 16) == other


def test_rooms_read_what_was_set_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that is there by default is none on a GPU: the replica has to see that nobody set it."""
    for name in [each for each in os.environ if each.startswith("ISTHMUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ISTHMUS_VLLM__STOP_MS_MAX", "9000")
    sections: dict[str, Any] = {
        "mesh": {"home": tmp_path, "replicas": 2},
        "inference": {"engine": "vllm", "batch_tokens_max": 512},
        "vllm": {"engine_args": {"dtype": "float32"}},
    }
    settings = load_settings(**sections, supervisor={"http": "127.0.0.1:0", "grpc": "127.0.0.1:0"})
    home = Home(tmp_path)
    home.create()
    plan = plan_mesh(settings, home)
    monkeypatch.delenv("ISTHMUS_VLLM__STOP_MS_MAX")
    read = load_settings(home.settings)
    assert read.inference.model_fields_set == {"engine", "batch_tokens_max", "threads_count"}
    assert read.inference.threads_count >= 1
    assert read.vllm.model_fields_set == {"engine_args", "stop_ms_max"}
    assert read.valkey.url == plan.valkey.settings.url
    shared = settings.inference.model_copy(update={"threads_count": read.inference.threads_count})
    assert read == settings.model_copy(update={"valkey": plan.valkey.settings, "inference": shared})
