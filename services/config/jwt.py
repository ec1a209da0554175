"""Tokens of an OpenID Connect issuer, as a way into the gateway."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from services.config.section import Section

# Asymmetric all: a key that may be published must not be one that signs.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class JwtSettings(Section):
    """Which tokens are taken, what their claims mean, and how the issuer's keys are kept."""

    # A token's `iss`, and one of its `aud`. Both have to be set for a mode with jwt.
    issuer: str | None = Field(default=None, min_length=1, max_length=2_048)
    audience: tuple[str, ...] = ()
    # Where the issuer's keys are: a JWK set by its URL or in a file; unless one is set, where the issuer's
    # /.well-known/openid-configuration says. URLs are https, or http on this machine.
    jwks_url: str | None = Field(default=None, max_length=2_048)
    jwks_file: Path | None = None
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256", "EdDSA"), min_length=1)
    # Claims by name, as they stand at the token's top level. The tenant is a text; scopes are a list, or a text with
    # spaces between them. Of a scope that begins with the prefix the rest counts, all others are not for this mesh.
    tenant_claim: str = Field(default="tenant", min_length=1, max_length=256)
    user_claim: str = Field(default="sub", min_length=1, max_length=256)
    scope_claim: str = Field(default="scope", min_length=1, max_length=256)
    scope_prefix: str = Field(default="", max_length=256)
    # How far the issuer's clock may be off.
    leeway_ms: int = Field(default=30_000, ge=0, le=600_000)
    token_bytes_max: int = Field(default=8_192, ge=256, le=16_384)
    # How often the keys are read, and how soon again for a token of a key that is not among them, or after a failure.
    refresh_ms: int = Field(default=600_000, ge=100)
    refetch_ms_min: int = Field(default=10_000, ge=10)
    # How long they are good for while the issuer is away.
    keys_kept_ms_max: int = Field(default=86_400_000, ge=1_000)
    fetch_ms_max: int = Field(default=5_000, ge=10)
    document_bytes_max: int = Field(default=1 << 20, ge=1_024)
    keys_count_max: int = Field(default=64, ge=1)

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _encrypted(cls, url: str | None) -> str | None:
        if url is not None and not is_trusted(url):
            raise ValueError("expected an https URL, or http on this machine")
        return url


def is_trusted(url: str) -> bool:
    """Whether what is read there is what was written there."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host)))


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
