"""What a large upload costs the gateway, by the peak of a real process."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.cli.bench import memory
from services.cli.bench.mesh import with_mesh
from services.supervisor.plan import GATEWAY
from services.supervisor.state import MeshState

pytestmark = pytest.mark.timeout(180)

FILE_BYTES = 50_000_000
# Of the file's size: it is never held whole, nor a large part of it.
PEAK_SHARE_MAX = 0.5
_LINE = b"So it goes, and so it went, line after line of it.\n"
_PIECE = _LINE * 4_000


async def form(digest: hashlib.blake2b) -> AsyncIterator[bytes]:
    """An upload of FILE_BYTES or a little more, as it is sent."""
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="book.txt"\r\n\r\n'
    for _ in range(FILE_BYTES // len(_PIECE)):
        digest.update(_PIECE)
        yield _PIECE
    yield b"\r\n--b--\r\n"


async def test_fifty_megabytes_go_through_a_gateway_that_holds_none_of_them(tmp_path: Path) -> None:
    shares: dict[str, float] = {}

    async def work(mesh: MeshState) -> None:
        (pid,) = [each.pid for each in mesh.processes if each.room == GATEWAY]
        assert pid is not None
        headers = {"content-type": "multipart/form-data; boundary=b"}
        async with httpx.AsyncClient(base_url=mesh.http, timeout=120) as client:
            # What the first request of all loads stays.
            await client.post("/v1/files", files={"file": ("a.txt", b"a")}, data={"purpose": "assistants"})
            sent, read = hashlib.blake2b(), hashlib.blake2b()

            memory.forget_peak([pid])
            before = memory.resident_bytes([pid])
            made = await client.post("/v1/files", content=form(sent), headers=headers)
            assert made.status_code == 200, made.text
            shares["up"] = (memory.peak_bytes([pid]) - before) / FILE_BYTES

            memory.forget_peak([pid])
            before = memory.resident_bytes([pid])
            async with client.stream("GET", f"/v1/files/{made.json()['id']}/content") as answer:
                async for piece in answer.aiter_bytes():
                    read.update(piece)
            shares["down"] = (memory.peak_bytes([pid]) - before) / FILE_BYTES
            assert read.digest() == sent.digest()

    await with_mesh(tmp_path, work, {"mesh": {"shards": 1}})
    print(shares)
    assert max(shares.values()) < PEAK_SHARE_MAX, shares
