"""A gateway is killed while it copies: another one copies on where it was, and the text is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from services.config import LibrariesSettings, Settings
from tests.support.eventually import eventually
from tests.support.mesh import Mesh, changed, running_mesh

pytestmark = pytest.mark.timeout(300)

TEXT = "".join(f"Line {number} of a long text, é.\n" for number in range(400_000))


def worker(mesh: Mesh, settings: Settings, folder: Path, number: int) -> subprocess.Popen[bytes]:
    """A gateway in a process of its own, to be killed."""
    config = folder / "worker.json"
    config.write_text(settings.model_dump_json())
    argv = [sys.executable, "-m", "gateway", "--member", f"gateway-{number}", "--listen", "127.0.0.1:0"]
    return subprocess.Popen(argv, env={**os.environ, "ISTHMUS_CONFIG": str(config)})


async def test_another_gateway_copies_on(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, "inference", engine="scripted")
    copying = changed(settings, "gateway", libraries=LibrariesSettings(redelivery_ms=1_000, copies_concurrent_max=1))
    # The mesh's own gateway takes files in, and copies none.
    front = changed(settings, "gateway", libraries=LibrariesSettings(copies_concurrent_max=0))
    async with (
        running_mesh(front, shards=1) as mesh,
        AsyncOpenAI(base_url=f"{mesh.http_url}/v1", api_key="none", max_retries=0) as sdk,
        httpx.AsyncClient(base_url=mesh.http_url) as http,
    ):
        file = await sdk.files.create(file=("long.txt", TEXT.encode()), purpose="assistants")
        store = await sdk.vector_stores.create(file_ids=[file.id])
        content = f"/v1/vector_stores/{store.id}/files/{file.id}/content"

        async def copied_bytes() -> int:
            answer = await http.get(content, timeout=60)
            return sum(len(part["text"].encode()) for part in answer.json()["data"]) if answer.is_success else 0

        doomed = worker(mesh, copying, tmp_path, 1)
        try:
            await eventually(copied_bytes, timeout_s=120)
        finally:
            doomed.kill()
            doomed.wait()
        kept = await copied_bytes()
        assert 0 < kept < file.bytes, "the text is too short for this test"
        assert (await sdk.vector_stores.files.retrieve(file.id, vector_store_id=store.id)).status == "in_progress"
        heir = worker(mesh, copying, tmp_path, 2)
        try:

            async def is_whole() -> bool:
                found = await sdk.vector_stores.files.retrieve(file.id, vector_store_id=store.id)
                return found.usage_bytes == file.bytes

            await eventually(is_whole, timeout_s=120)
        finally:
            heir.terminate()
            heir.wait()
        parts = (await http.get(content, timeout=60)).json()["data"]
        assert "".join(part["text"] for part in parts) == TEXT
