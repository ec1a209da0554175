"""The bucket: objects of any size in a folder, and URLs that name no bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from isthmus.errors.v1 import errors_pb2

from context_store.tiering.objects import bucket
from services.config import ConfigError, Settings
from services.errors import IsthmusError
from tests.support.mesh import changed

NAME = "sessions/acme/s1/00-1-ab.zst"


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number]) * size


@pytest.mark.parametrize("count", [0, 1, 12])
async def test_an_object_comes_back_in_bounded_pieces_and_goes_without_a_trace(settings: Settings, count: int) -> None:
    """Twelve pieces of a mebibyte are more than one part."""
    objects = bucket(settings)
    await objects.put(NAME, pieces(count, 1 << 20))
    found = [piece async for piece in objects.get(NAME)]
    assert b"".join(found) == b"".join([piece async for piece in pieces(count, 1 << 20)])
    assert all(len(piece) <= 2 << 20 for piece in found)
    assert await objects.delete(NAME) == count << 20
    assert await objects.delete(NAME) == 0
    assert not list((settings.mesh.home / "objects").rglob("*"))


async def test_one_that_broke_off_is_not_there(settings: Settings) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces(8, 1 << 20):
            yield piece
        raise RuntimeError("gone")

    objects = bucket(settings)
    with pytest.raises(RuntimeError):
        await objects.put(NAME, broken())
    with pytest.raises(IsthmusError) as refused:
        [piece async for piece in objects.get(NAME)]
    assert refused.value.reason == errors_pb2.ERROR_REASON_CORRUPT
    # What a process that was killed leaves of one, goes with its name.
    await objects.put(NAME, pieces(1, 10))
    staged = settings.mesh.home / "objects" / (NAME + "#1")
    staged.write_bytes(b"half")
    await objects.delete(NAME)
    assert not staged.exists()


async def test_a_store_that_does_not_answer_is_upstream(settings: Settings) -> None:
    objects = bucket(settings)
    obstacle = settings.mesh.home / "objects" / "sessions"
    obstacle.write_text("in the way")
    with pytest.raises(IsthmusError) as refused:
        await objects.put(NAME, pieces(1, 10))
    assert refused.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert NAME in refused.value.message
    obstacle.unlink()


@pytest.mark.parametrize(
    ("status", "problem"),
    [("403 Forbidden", "refuses the environment's credentials"), ("404 Not Found", "is not there")],
)
async def test_a_bucket_that_refuses_is_told_with_its_setting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: str, problem: str
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        of_s3 = {"ENDPOINT": f"http://127.0.0.1:{port}", "ALLOW_HTTP": "true", "ACCESS_KEY_ID": "k"}
        for name, value in (of_s3 | {"SECRET_ACCESS_KEY": "s"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        objects = bucket(changed(settings, "tiering", url="s3://bucket/path"))
        with pytest.raises(IsthmusError) as refused:
            await objects.put(NAME, pieces(1, 10))
    assert refused.value.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert f"object {NAME}: the object store of tiering.url {problem}" in refused.value.message


@pytest.mark.parametrize("name", ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_s3_without_tls_has_to_be_allowed(settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = changed(settings, "tiering", url="s3://bucket/path")
    monkeypatch.setenv(name, "http://127.0.0.1:9000")
    with pytest.raises(ConfigError, match=rf"tiering\.url.*{name}.*expected https://, or AWS_ALLOW_HTTP=true"):
        bucket(own)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    bucket(own)


@pytest.mark.parametrize(
    "url", ["objects", "ftp://host/path", "file://", "file://host/path", "s3://", "az://", "memory:///"]
)
def test_a_url_that_names_no_bucket_is_refused_at_the_start(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigError, match=r"tiering\.url.*expected file:///path"):
        bucket(changed(settings, "tiering", url=url))


def test_buckets_of_the_clouds_are_known_by_their_urls(settings: Settings) -> None:
    for url in ("s3://bucket/path", "gs://bucket/path"):
        bucket(changed(settings, "tiering", url=url))
