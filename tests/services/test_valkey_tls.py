"""How a Valkey behind TLS and an ACL is refused, or refuses: each error names the setting to correct."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest
import redis
import redis.exceptions
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from isthmus.errors.v1 import errors_pb2

from services.config import ConfigError, ValkeySettings, load_settings
from services.valkey import command, connect
from services.valkey.failover import expected, passes
from services.valkey.refusals import UntrustedError
from services.valkey.tls import Tls
from tests.support.tls_proxy import TlsProxy
from tests.support.valkey_server import ValkeyServer
from tests.support.valkey_tls import HOST, PASSWORD, USER, Paths, credentials, url_of, user, written

OTHER_HOST: Final = "valkey.example"
KEY: Final = "isthmus:{key}"
SCHEMES: Final = pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])

Hasty: TypeAlias = Callable[[str], ValkeySettings]
Listening: TypeAlias = Callable[..., TlsProxy]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def paths(authority: trustme.CA, tmp_path: Path) -> Paths:
    return written(authority, tmp_path)


@pytest.fixture
def listening(valkey_server: ValkeyServer, authority: trustme.CA) -> Callable[..., TlsProxy]:
    """A proxy of the test's Valkey, to be entered; its certificate is of `name`."""

    def proxy(name: str = HOST, clients: trustme.CA | None = None) -> TlsProxy:
        return TlsProxy(valkey_server.port, authority.issue_cert(name), clients)

    return proxy


@pytest.fixture
def hasty() -> Hasty:
    """Settings of a URL, in which nothing is waited for."""

    def of(url: str) -> ValkeySettings:
        bounds = {"retries_count_max": 0, "connect_ms_max": 300, "command_ms_max": 2_000, "failover_wait_ms_max": 0}
        return load_settings(valkey={"url": url, **bounds, "disk_wait_ms_max": 1_000}).valkey

    return of


async def refusal(valkey: ValkeySettings) -> redis.exceptions.RedisError:
    """What a command meets."""
    client = connect(valkey)
    with pytest.raises(redis.exceptions.RedisError) as refused:
        await command(client, "GET", KEY)
    await client.aclose()
    return refused.value


@SCHEMES
async def test_a_certificate_of_an_unknown_authority_is_refused(
    listening: Listening, hasty: Hasty, paths: Paths, scheme: str
) -> None:
    async with listening() as proxy:
        for query in (f"ssl_ca_certs={paths.stranger}", ""):
            error = await refusal(hasty(url_of(scheme, [proxy], query)))
            assert f"valkey.url: the certificate of {HOST}:{proxy.port} is not trusted" in str(error)
            assert "ssl_ca_certs" in str(error)
            assert not passes(error)
        assert proxy.count == 0


@SCHEMES
async def test_a_certificate_of_another_name_is_refused_unless_no_name_is_asked_for(
    listening: Listening, hasty: Hasty, paths: Paths, scheme: str
) -> None:
    async with listening(OTHER_HOST) as proxy:
        error = await refusal(hasty(url_of(scheme, [proxy], f"ssl_ca_certs={paths.authority}")))
        assert f"valkey.url: the certificate of {HOST}:{proxy.port} is of another name" in str(error)
        assert "ssl_check_hostname" in str(error)
        assert not passes(error)
        assert proxy.count == 0
        for query in (f"ssl_ca_certs={paths.authority}&ssl_check_hostname=false", "ssl_cert_reqs=none"):
            client = connect(hasty(url_of("rediss", [proxy], query)))
            assert await command(client, "PING")
            await client.aclose()


async def test_plain_text_at_a_port_of_tls_is_refused(listening: Listening, hasty: Hasty) -> None:
    async with listening() as proxy:
        for scheme in ("redis", "redis+cluster"):
            error = await refusal(hasty(f"{scheme}://{HOST}:{proxy.port}"))
            assert f"{HOST}:{proxy.port} closed the connection" in str(error)
            assert "valkey.url begins with rediss://" in str(error)


@SCHEMES
async def test_tls_at_a_port_of_plain_text_is_refused(valkey_server: ValkeyServer, hasty: Hasty, scheme: str) -> None:
    error = await refusal(hasty(f"{scheme}://{HOST}:{valkey_server.port}"))
    assert f"valkey.url: no TLS with {HOST}:{valkey_server.port}" in str(error)
    assert "redis:// is for one without" in str(error)


async def test_what_is_no_valkey_is_told_as_that(hasty: Hasty) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refusal(hasty(f"rediss://{HOST}:{port}"))
    assert f"valkey.url: no TLS with {HOST}:{port}" in str(error)


@SCHEMES
@pytest.mark.parametrize(("name", "password"), [(USER, "wrong"), ("nobody", PASSWORD)])
async def test_credentials_that_are_wrong_are_refused(
    listening: Listening, hasty: Hasty, paths: Paths, valkey_server: ValkeyServer, scheme: str, name: str, password: str
) -> None:
    with user([valkey_server.port]):
        async with listening() as proxy:
            url = url_of(scheme, [proxy], f"ssl_ca_certs={paths.authority}", credentials(name, password))
            error = await refusal(hasty(url))
    assert f"valkey.url: {HOST}:{proxy.port} refuses the user or the password" in str(error)
    assert password not in str(error)
    assert not passes(error)


async def test_credentials_that_are_missing_are_asked_for(hasty: Hasty, tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", PASSWORD)
        error = await refusal(hasty(server.url))
        assert f"valkey.url: {HOST}:{server.port} refuses the user or the password" in str(error)
        asking = connect(hasty(f"redis://{credentials('')}{HOST}:{server.port}"))
        assert await command(asking, "PING")
        await asking.aclose()
    finally:
        server.kill()


async def test_what_the_user_may_not_do_is_told_with_its_setting(
    listening: Listening, hasty: Hasty, paths: Paths, valkey_server: ValkeyServer
) -> None:
    with user([valkey_server.port]):
        async with listening() as proxy:
            url = url_of("rediss", [proxy], f"ssl_ca_certs={paths.authority}", credentials())
            client = connect(hasty(url))
            with pytest.raises(redis.exceptions.NoPermissionError) as refused:
                await command(client, "GET", "another's")
            await client.aclose()
    told = expected(refused.value)
    assert told is not None
    assert told.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert "valkey.url" in told.message


async def test_a_node_that_asks_for_a_certificate_gets_the_one_of_the_url(
    listening: Listening, hasty: Hasty, paths: Paths, authority: trustme.CA
) -> None:
    async with listening(clients=authority) as proxy:
        trusted = f"ssl_ca_certs={paths.authority}"
        for mine in (f"ssl_certfile={paths.client}", f"ssl_certfile={paths.certificate}&ssl_keyfile={paths.key}"):
            client = connect(hasty(url_of("rediss", [proxy], f"{trusted}&{mine}")))
            assert await command(client, "PING")
            await client.aclose()
        error = await refusal(hasty(url_of("rediss", [proxy], trusted)))
        assert f"{HOST}:{proxy.port} closed the connection" in str(error)
        assert "ssl_certfile" in str(error)


async def test_files_that_are_exchanged_count_from_the_next_connection_on(
    listening: Listening, hasty: Hasty, paths: Paths
) -> None:
    async with listening() as proxy:
        client = connect(hasty(url_of("rediss", [proxy], f"ssl_ca_certs={paths.stranger}")))
        with pytest.raises(UntrustedError):
            await command(client, "PING")
        paths.authority.replace(paths.stranger)
        assert await command(client, "PING")
        await client.aclose()


def test_one_context_serves_all_connections(paths: Paths) -> None:
    tls = Tls({"ssl_ca_certs": str(paths.authority)})
    context = tls.get()
    assert tls.get() is context
    # That authority alone, not those of the system beside it.
    assert len(context.get_ca_certs()) == 1
    paths.stranger.replace(paths.authority)
    assert tls.get() is not context


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("ssl_ca_certs={folder}/none.pem", "ssl_ca_certs: '{folder}/none.pem' cannot be used: No such file"),
        ("ssl_ca_certs={folder}/key.pem", "ssl_ca_certs: '{folder}/key.pem' cannot be used"),
        ("ssl_certfile={folder}/none.pem", "ssl_certfile: '{folder}/none.pem' cannot be used: No such file"),
        ("ssl_certfile={folder}/certificate.pem", "ssl_certfile: '{folder}/certificate.pem' cannot be used"),
        ("ssl_certfile={folder}/certificate.pem&ssl_keyfile={folder}/authority.pem", "ssl_keyfile: '{folder}/auth"),
        ("ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/locked.pem", "ssl_keyfile: '{folder}/locked.pem'"),
        ("ssl_keyfile={folder}/key.pem", "ssl_keyfile without ssl_certfile"),
        ("ssl_ca_certs=", "ssl_ca_certs=, which is not a path"),
        ("ssl_cert_reqs=maybe", "ssl_cert_reqs=maybe, which is not required or optional or none"),
        ("ssl_check_hostname=banana", "ssl_check_hostname=banana, which is not true or false"),
    ],
)
@SCHEMES
def test_what_is_no_use_to_tls_is_refused_at_the_start(paths: Paths, scheme: str, query: str, problem: str) -> None:
    folder = paths.key.parent
    key = load_pem_private_key(paths.key.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    (folder / "locked.pem").write_bytes(locked)
    url = f"{scheme}://{HOST}:1?{query.format(folder=folder)}"
    with pytest.raises(ConfigError, match=r"^valkey\.url: ") as refused:
        connect(load_settings(valkey={"url": url}).valkey)
    assert problem.format(folder=folder) in str(refused.value)
