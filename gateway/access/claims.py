"""What a token's claims say of a caller. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.access import Scope
from services.config import JwtSettings

_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_USER_CHARS_MAX: Final = 256
_SCOPES: Final = {each.value: each for each in Scope}


class UnusableClaimError(ValueError):
    """A claim that is missing, or says nothing that can be used; the text names it and not its value."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who comes in by a token, until when (seconds since 1970)."""

    tenant: str
    user: str
    scopes: tuple[Scope, ...]
    expires: float


def caller_of(claims: Mapping[str, Any], settings: JwtSettings) -> Caller:
    """The caller by claims that were verified. Raises UnusableClaimError."""
    tenant = claims.get(settings.tenant_claim)
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise UnusableClaimError(
            f"its claim {settings.tenant_claim!r} names no tenant; expected 1 to 63 of a-z, 0-9 and '-'"
        )
    user = claims.get(settings.user_claim, "")
    if not isinstance(user, str) or len(user) > _USER_CHARS_MAX:
        raise UnusableClaimError(
            f"its claim {settings.user_claim!r} names no user; expected a text of at most {_USER_CHARS_MAX} characters"
        )
    return Caller(tenant, user, _scopes(claims.get(settings.scope_claim, ""), settings), float(claims["exp"]))


def _scopes(claim: object, settings: JwtSettings) -> tuple[Scope, ...]:
    """Those of the mesh; what else an issuer has given is for others."""
    listed = claim.split() if isinstance(claim, str) else claim
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise UnusableClaimError(
            f"its claim {settings.scope_claim!r} lists no scopes; expected a list, or a text with spaces between them"
        )
    prefix = settings.scope_prefix
    named = (each.removeprefix(prefix) for each in listed if each.startswith(prefix))
    return tuple(dict.fromkeys(_SCOPES[each] for each in named if each in _SCOPES))
