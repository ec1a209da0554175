"""What the tests on vLLM's CPU build share. They run in an environment of their own: `make test-vllm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from inference.million_model import write_million_model
from inference.model_files import SMOLLM2
from inference.model_folder import load_model_folder
from tests.vllm.engines import ENVIRONMENT

_OURS: Final = ("benchmarks", "compressor", "context_store", "gateway", "inference", "services", "tests")


def pytest_configure(config: pytest.Config) -> None:
    """Warnings stay errors where they are ours; vLLM and what it imports warn in many places."""
    config.addinivalue_line("filterwarnings", rf"default:::(?!({'|'.join(_OURS)})\b)")
    # An engine takes half a minute to start, and longer on a busy machine.
    config.option.timeout = config.option.timeout or 600


@pytest.fixture(scope="session", autouse=True)
def vllm_environment() -> Iterator[None]:
    """Before vLLM is imported; the engine's process inherits it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cores_are_shared() -> Iterator[None]:
    """For a mesh's replicas: the threads that are set for the engines in this process would be the user's word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS")
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that comes along, converted for these tests."""
    return load_model_folder(SMOLLM2, tmp_path_factory.mktemp("isthmus-cache"))


@pytest.fixture(scope="session")
def million_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with a window of two million tokens."""
    folder = tmp_path_factory.mktemp("million")
    write_million_model(folder, model_folder)
    return folder
