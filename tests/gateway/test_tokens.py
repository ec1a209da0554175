"""Tokens of an OpenID Connect issuer at the gate: who is let in, as whom, and what the others are told."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from isthmus.errors.v1 import errors_pb2

from gateway.access.gate import Call
from gateway.access.jwks import Jwks
from gateway.access.key_set import Freshness, KeySet, UnusableKeysError
from gateway.access.tokens import TokenGate
from services.access import Scope
from services.config import AccessSettings, ConfigError, Settings, load_settings
from services.errors import IsthmusError
from tests.gateway.test_access import LIST, Door
from tests.support.api_keys import new_key
from tests.support.eventually import eventually
from tests.support.mesh import changed, running_mesh
from tests.support.oidc_issuer import AUDIENCE, Issuer, ec_key, issuing, jwk_of, rsa_key

RSA = rsa_key()
OTHER = rsa_key()


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as running:
        running.published = [jwk_of(RSA, "k1")]
        yield running


def access(issuer: Issuer, mode: str = "jwt", **more: Any) -> dict[str, Any]:
    own = {"issuer": issuer.url, "audience": [AUDIENCE], "leeway_ms": 0, "refetch_ms_min": 50, **more}
    return {"mode": mode, "jwt": own, "cache_ms_max": 50}


@asynccontextmanager
async def gate_of(issuer: Issuer, **more: Any) -> AsyncIterator[TokenGate]:
    settings = AccessSettings.model_validate(access(issuer, **more))
    jwks = Jwks(settings.jwt)
    await jwks.start()
    gate = TokenGate(jwks, settings)
    try:
        yield gate
    finally:
        gate.close()
        await jwks.stop()


def call(token: str, needs: Scope | None = Scope.TURNS) -> Call:
    return Call("RunTurn", needs, [f"Bearer {token}"], "peer")


async def refused(gate: TokenGate, token: str, needs: Scope | None = Scope.TURNS) -> IsthmusError:
    with pytest.raises(IsthmusError) as caught:
        await gate.tenant_of(call(token, needs))
    assert token not in caught.value.message
    return caught.value


async def test_a_token_says_whose_the_call_is(issuer: Issuer) -> None:
    curve, edwards = ec_key(), ed25519.Ed25519PrivateKey.generate()
    issuer.published += [jwk_of(curve, "k2"), jwk_of(edwards, "k3", alg="EdDSA")]
    async with gate_of(issuer) as gate:
        signed = {"k1": (RSA, "RS256"), "k2": (curve, "ES256"), "k3": (edwards, "EdDSA")}
        for kid, (key, algorithm) in signed.items():
            token = issuer.token(key, kid, algorithm, tenant=f"tenant-{kid}")
            assert await gate.tenant_of(call(token)) == f"tenant-{kid}"
            assert await gate.tenant_of(call(token)) == f"tenant-{kid}"


async def test_who_shows_no_token_that_is_valid_is_told_why(issuer: Issuer) -> None:
    now = int(time.time())
    told = {
        "another audience": issuer.token(RSA, aud="elsewhere"),
        "has expired": issuer.token(RSA, exp=now - 5),
        "not valid yet": issuer.token(RSA, nbf=now + 60),
        "another issuer": issuer.token(RSA, iss="https://elsewhere.example"),
        "no claim 'exp'": issuer.token(RSA, exp=None),
        "its claim 'tenant' names no tenant": issuer.token(RSA, tenant="../acme"),
        "its claim 'scope' lists no scopes": issuer.token(RSA, scope={"turns": True}),
        "signature does not fit": issuer.token(OTHER),
        "its issuer does not list": issuer.token(RSA, "unknown"),
        "is no token": "rubbish",
        "has 20000 bytes": "a" * 20_000,
        "no token came": "",
    }
    async with gate_of(issuer) as gate:
        for said, token in told.items():
            if not token:
                with pytest.raises(IsthmusError, match=said):
                    await gate.tenant_of(Call("RunTurn", None, [], "peer"))
                continue
            error = await refused(gate, token)
            assert error.reason == errors_pb2.ERROR_REASON_UNAUTHENTICATED
            assert said in error.message
            assert issuer.url in error.message


def _unsigned(issuer: Issuer) -> str:
    parts = ({"alg": "none", "kid": "k1"}, issuer.claims())
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def _signed_by_the_published_key(issuer: Issuer) -> str:
    """HS256, with what everybody can read as its secret."""
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "k1", "typ": "JWT"}, issuer.claims())
    ]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(b".".join(encoded), public)
    return b".".join([*encoded, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def test_a_token_does_not_choose_how_it_is_checked(issuer: Issuer) -> None:
    curve = ec_key()
    issuer.published += [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, jwk_of(curve, "k2")]
    tokens = {
        "algorithm that is allowed": [_unsigned(issuer), _signed_by_the_published_key(issuer)],
        # The key is there, and is one for something else.
        "not one for ES256": [issuer.token(curve, "k1", "ES256")],
        "not one for RS256": [issuer.token(RSA, "k2")],
    }
    async with gate_of(issuer) as gate:
        for said, made in tokens.items():
            for token in made:
                error = await refused(gate, token)
                assert error.reason == errors_pb2.ERROR_REASON_UNAUTHENTICATED
                assert said in error.message


async def test_scopes_are_the_issuers_to_give(issuer: Issuer) -> None:
    async with gate_of(issuer, scope_claim="scp", scope_prefix="isthmus:") as gate:
        token = issuer.token(RSA, scp=["isthmus:turns", "sessions.read", "isthmus:else"], scope=None)
        assert await gate.tenant_of(call(token)) == "acme"
        error = await refused(gate, token, Scope.SESSIONS_READ)
        assert error.reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED
        assert error.metadata["scope"] == "sessions.read"
        none = issuer.token(RSA, scope="turns")
        assert (await refused(gate, none)).reason == errors_pb2.ERROR_REASON_PERMISSION_DENIED
        assert await gate.tenant_of(call(none, None)) == "acme"


async def test_a_new_key_is_found_and_an_invented_one_asked_for_once_in_a_while(issuer: Issuer) -> None:
    async with gate_of(issuer, refetch_ms_min=60_000) as gate:
        assert await gate.tenant_of(call(issuer.token(RSA))) == "acme"
        visits = issuer.visits
        for number in range(20):
            await refused(gate, issuer.token(OTHER, f"invented-{number}"))
        assert issuer.visits == visits == 1

    async with gate_of(issuer, refetch_ms_min=10) as gate:
        assert await gate.tenant_of(call(issuer.token(RSA))) == "acme"
        issuer.published = [jwk_of(OTHER, "k2")]

        async def is_let_in() -> bool:
            try:
                return await gate.tenant_of(call(issuer.token(OTHER, "k2"))) == "acme"
            except IsthmusError:
                return False

        await eventually(is_let_in)
        # What the issuer has taken back opens nothing, once the token that was checked is forgotten.
        assert "does not list" in (await refused(gate, issuer.token(RSA, jti="another"))).message


async def test_an_issuer_that_is_away_keeps_nobody_out_whose_key_was_read(issuer: Issuer) -> None:
    async with gate_of(issuer, refresh_ms=100) as gate:
        assert await gate.tenant_of(call(issuer.token(RSA))) == "acme"
        issuer.away = True
        await eventually(lambda: issuer.turned_away > 0)
        assert await gate.tenant_of(call(issuer.token(RSA, jti="new"))) == "acme"
    async with gate_of(issuer) as gate:
        error = await refused(gate, issuer.token(RSA))
        assert error.reason == errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert error.retry_after_ms
        issuer.away = False

        async def is_let_in() -> bool:
            try:
                return await gate.tenant_of(call(issuer.token(RSA))) == "acme"
            except IsthmusError:
                return False

        await eventually(is_let_in)


async def test_keys_may_come_from_a_file(issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk_of(OTHER, "k1")]}))
    async with gate_of(issuer, jwks_file=str(file)) as gate:
        assert await gate.tenant_of(call(issuer.token(OTHER, None))) == "acme"
    assert issuer.visits == 0


async def test_both_edges_take_a_token_or_a_key(quick: Settings, issuer: Issuer) -> None:
    settings = changed(quick, "gateway", access=access(issuer, "keys+jwt"))
    async with running_mesh(settings, shards=1) as mesh, grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        door, key, token = Door(channel), await new_key(settings, "acme"), issuer.token(RSA)
        await door.of(token).create("mine")
        for credential in (token, key):
            listed = await door.of(credential).stub.ListSessions(LIST)
            assert [each.name for each in listed.sessions] == ["sessions/mine"]
        other = await door.of(issuer.token(RSA, tenant="other")).stub.ListSessions(LIST)
        assert not other.sessions
        async with httpx.AsyncClient(base_url=mesh.http_url) as client:
            for shown, status in ((token, 200), (key, 200), (issuer.token(OTHER), 401)):
                answer = await client.get("/v1/models", headers={"authorization": f"Bearer {shown}"})
                assert answer.status_code == status, answer.text


def test_a_mode_with_tokens_needs_issuer_and_audience() -> None:
    for jwt_settings in ({}, {"issuer": "https://id.example"}, {"audience": [AUDIENCE]}):
        with pytest.raises(ConfigError, match=r"jwt\.issuer and jwt\.audience"):
            load_settings(gateway={"access": {"mode": "jwt", "jwt": jwt_settings}})
    for url in ("http://id.example", "ftp://127.0.0.1", "https://", "id.example"):
        with pytest.raises(ConfigError, match="expected an https URL"):
            load_settings(gateway={"access": {"jwt": {"issuer": url}}})
    with pytest.raises(ConfigError, match="algorithms"):
        load_settings(gateway={"access": {"jwt": {"algorithms": ["HS256"]}}})


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": ["k"]}', b'{"keys": [{}, {}, {}]}'])
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(UnusableKeysError):
        KeySet.of(document, 2)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.booleans(), st.booleans()), max_size=60))
def test_keys_are_never_read_twice_within_the_bound_and_never_used_too_long(
    steps: list[tuple[float, bool, bool]],
) -> None:
    refresh_s, refetch_s, kept_s = 50.0, 5.0, 200.0
    freshness = Freshness(refresh_s, refetch_s, kept_s)
    now, tried, read = 0.0, -1e9, -1e9
    for passed, is_unknown, succeeds in steps:
        now += passed
        due = freshness.due_in(now) == 0.0
        if due or (is_unknown and freshness.may_read(now)):
            assert now - tried >= refetch_s * 0.999_999
            freshness.tried(now, read=succeeds)
            tried, read = now, now if succeeds else read
        assert freshness.are_good(now) == (now - read < kept_s)
        assert now - tried <= refresh_s or freshness.due_in(now) == 0.0
