"""An OpenID Connect issuer on this machine: publishes keys over HTTP, signs tokens, can be away, counts its visits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
AUDIENCE = "isthmus"
_ALGORITHMS: dict[type, Any] = {
    rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
    ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
    ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
}


def rsa_key() -> Private:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def ec_key() -> Private:
    return ec.generate_private_key(ec.SECP256R1())


def jwk_of(key: Private, kid: str, **more: str) -> dict[str, Any]:
    """The public half, as a JWK set has it."""
    public = key.public_key()
    made = next(each for kind, each in _ALGORITHMS.items() if isinstance(public, kind))
    return {**made.to_jwk(public, as_dict=True), "kid": kid, "use": "sig", **more}


class Issuer:
    """`published` is what its JWK set has; it answers 503 while `away`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.published: list[dict[str, Any]] = []
        self.away = False
        self.visits = 0
        self.turned_away = 0

    def claims(self, **other: Any) -> dict[str, Any]:
        """Those of a good token; None leaves a claim out."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "tenant": "acme",
            "scope": "openid turns sessions.read sessions.write",
            "iat": now,
            "exp": now + 300,
        }
        return {name: value for name, value in {**good, **other}.items() if value is not None}

    def token(self, key: Any, kid: str | None = "k1", algorithm: str = "RS256", **claims: Any) -> str:
        """A token signed by this key."""
        headers = None if kid is None else {"kid": kid}
        return jwt.encode(self.claims(**claims), key, algorithm, headers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        self.visits += path == b"/keys"
        self.turned_away += self.away
        body, status = b"", b"503 Service Unavailable"
        if not self.away:
            status = b"200 OK"
            discovered = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
            body = json.dumps({"keys": self.published} if path == b"/keys" else discovered).encode()
        head = b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        writer.write(head % (status, len(body)) + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """An issuer that serves."""
    issuer = Issuer("")
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield issuer
