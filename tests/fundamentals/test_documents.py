"""The examples in the documents, as a reader would run them."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.config import Settings
from tests.support.mesh import Mesh, running_mesh

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    """A document's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
async def mesh(quick: Settings) -> AsyncIterator[Mesh]:
    """As `isthmus up` starts it: with a compressor, too."""
    async with running_mesh(quick, shards=2, replicas=1, compressors=1) as running:
        yield running


PYTHON = [pytest.param(block, id=document.name) for document in DOCUMENTS for block in blocks(document, "python")]


async def ran(*command: str) -> str:
    """What a command prints; fails with its errors if it does."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.parametrize("example", PYTHON)
async def test_each_python_example_runs(mesh: Mesh, example: str) -> None:
    here = example.replace("http://127.0.0.1:8080", mesh.http_url).replace("127.0.0.1:8081", mesh.grpc_target)
    assert here != example, "the example names an address that this test does not know"
    assert await ran(sys.executable, "-c", here)


async def test_the_readmes_commands_run(mesh: Mesh, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    report.write_text("The isthmus is narrow here.\n" * 100)
    lines = [
        line.removeprefix("$ .venv/bin/isthmus ") for line in "".join(blocks(DOCUMENTS[0], "console")).splitlines()
    ]
    commands = [shlex.split(line) for line in lines if line.startswith(("ask", "ingest", "sessions"))]
    assert len(commands) == 3
    for command in commands:
        known = [str(report) if word == "report.txt" else word for word in command]
        printed = await ran(sys.executable, "-m", "services.cli", *known, "--grpc", mesh.grpc_target, "--json")
        assert json.loads(printed)
