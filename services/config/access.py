"""Who may call the gateway."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from services.config.jwt import JwtSettings
from services.config.section import Section


class AccessSettings(Section):
    """API keys and tokens at the gateway's two edges."""

    # `open`: everybody is the tenant `mesh.tenant_default`. `keys`: every call needs an API key, and its tenant is the
    # key's; health, reflection and /metrics stay open. `jwt`: the same with a token of an OpenID Connect issuer.
    # `keys+jwt`: either of the two.
    mode: Literal["open", "keys", "jwt", "keys+jwt"] = "open"
    jwt: JwtSettings = JwtSettings()
    # How long a gateway goes by what it has read of a key, so that a revocation is in force everywhere after this; and
    # how many keys it remembers, with as many ids besides that are no key's. The same for tokens that were checked.
    cache_ms_max: int = Field(default=5_000, ge=1, le=3_600_000)
    cache_count_max: int = Field(default=10_000, ge=1)
    # Keys that are read from Valkey at once; who invents ids waits in this line, and nobody else does.
    reads_concurrent_max: int = Field(default=16, ge=1)
    # Keys that there may be, those included that have ended; and how long these are still listed.
    keys_count_max: int = Field(default=10_000, ge=1)
    ended_kept_ms: int = Field(default=30 * 86_400_000, ge=0)
    # Refused calls that are logged one by one within a second; the others of that second are one line with their count.
    refusals_logged_count_max: int = Field(default=10, ge=0)

    @property
    def wants_keys(self) -> bool:
        """Whether an API key opens anything."""
        return self.mode in ("keys", "keys+jwt")

    @property
    def wants_tokens(self) -> bool:
        """Whether a token opens anything."""
        return self.mode in ("jwt", "keys+jwt")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.wants_tokens and not (self.jwt.issuer and self.jwt.audience):
            raise ValueError(f"mode {self.mode}: expected jwt.issuer and jwt.audience to be set")
        return self
