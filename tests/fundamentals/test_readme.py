"""The README's first turns, as a reader would run them."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.mesh import Mesh

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


async def ran(*command: str) -> str:
    """What a command prints; fails with its errors if it does."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
async def test_each_python_example_runs(mesh: Mesh, number: int) -> None:
    example = blocks("python")[number]
    here = example.replace("http://127.0.0.1:8080", mesh.http_url).replace("127.0.0.1:8081", mesh.grpc_target)
    assert here != example, "the example names an address that this test does not know"
    assert await ran(sys.executable, "-c", here)


async def test_the_commands_run(mesh: Mesh, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    report.write_text("The isthmus is narrow here.\n" * 100)
    lines = [line.removeprefix("$ .venv/bin/isthmus ") for line in "".join(blocks("console")).splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith(("ask", "ingest", "sessions"))]
    assert len(commands) == 3
    for command in commands:
        known = [str(report) if word == "report.txt" else word for word in command]
        printed = await ran(sys.executable, "-m", "services.cli", *known, "--grpc", mesh.grpc_target, "--json")
        assert json.loads(printed)
