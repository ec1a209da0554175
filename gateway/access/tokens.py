"""The gate for tokens of an OpenID Connect issuer, and the one for either these or API keys."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import jwt
from isthmus.errors.v1 import errors_pb2

from gateway.access.claims import Caller, UnusableClaimError, caller_of
from gateway.access.gate import Call, KeyGate, shown
from gateway.access.jwks import Jwks
from gateway.access.refusals import Refusal, RefusalLog
from services.access import MalformedKey
from services.access.key import PREFIX
from services.access.scopes import allows
from services.config import AccessSettings
from services.errors import IsthmusError

_REQUIRED: Final = ["exp", "iss", "aud"]
# What was wrong, in words that have nothing of the token; what is not here is told as malformed.
_WHY: Final[dict[type[Exception], tuple[str, str]]] = {
    jwt.ExpiredSignatureError: ("expired", "the token has expired"),
    jwt.ImmatureSignatureError: ("not_yet", "the token is not valid yet"),
    jwt.InvalidIssuedAtError: ("not_yet", "the token's iat is no time that has been"),
    jwt.InvalidAudienceError: ("audience", "the token is for another audience"),
    jwt.InvalidIssuerError: ("issuer", "the token is of another issuer"),
    jwt.InvalidSignatureError: ("signature", "the token's signature does not fit"),
}


class _Refused(Exception):  # noqa: N818
    """Why a token opens nothing: a word for the log, and a sentence for the caller."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class TokenGate:
    """Lets those in who show a token that the issuer signed for this audience, with the scope that the call needs.

    A token that was checked is gone by for `cache_ms_max`, and no longer than it is valid. `clock` is in seconds since
    1970, `ticks` in seconds that never go back. What the signature and times are worth is PyJWT's to say.
    """

    def __init__(
        self,
        jwks: Jwks,
        settings: AccessSettings,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jwks = jwks
        self._settings = settings
        self._jwt = settings.jwt
        self._clock = clock
        self._ticks = ticks
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._refusals = RefusalLog(settings.refusals_logged_count_max)

    async def tenant_of(self, call: Call) -> str:
        """The tenant that the token names. UPSTREAM_UNAVAILABLE while the issuer's keys cannot be had."""
        try:
            caller = await self._caller(_shown(call))
        except _Refused as refused:
            self._refusals.refused(Refusal(call.what, call.peer, f"token_{refused.reason}"))
            message = f"{refused}; expected `authorization: Bearer …` with a token of {self._jwt.issuer}"
            raise IsthmusError(errors_pb2.ERROR_REASON_UNAUTHENTICATED, message) from None
        if not allows(caller.scopes, call.needs):
            assert call.needs is not None
            self._refusals.refused(Refusal(call.what, call.peer, "scope", caller.user, caller.tenant))
            has = ", ".join(each.value for each in caller.scopes) or "none of this mesh's"
            message = f"{call.what} needs the scope {call.needs.value}; the token has {has}"
            metadata = {"scope": call.needs.value}
            raise IsthmusError(errors_pb2.ERROR_REASON_PERMISSION_DENIED, message, metadata=metadata)
        return caller.tenant

    def close(self) -> None:
        """Tells what is still untold."""
        self._refusals.close()

    async def _caller(self, token: str) -> Caller:
        if len(token) > self._jwt.token_bytes_max:
            raise _Refused(
                "malformed", f"the token has {len(token)} bytes, expected at most {self._jwt.token_bytes_max}"
            )
        digest = blake2b(token.encode(), digest_size=16).digest()
        known = self._known.get(digest)
        if known is not None and self._ticks() < known[1] and self._clock() < known[0].expires:
            self._known.move_to_end(digest)
            return known[0]
        caller = await self._checked(token)
        self._known[digest] = caller, self._ticks() + self._settings.cache_ms_max / 1000
        self._known.move_to_end(digest)
        while len(self._known) > self._settings.cache_count_max:
            self._known.popitem(last=False)
        return caller

    async def _checked(self, token: str) -> Caller:
        kid, algorithm = self._header(token)
        keys = await self._jwks.keys(kid)
        if not keys.has(kid):
            raise _Refused("key", "the token is signed by a key that its issuer does not list")
        key = keys.key(kid, algorithm)
        if key is None:
            raise _Refused("algorithm", f"the token's key is not one for {algorithm}")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._jwt.audience,
                issuer=self._jwt.issuer,
                leeway=self._jwt.leeway_ms / 1000,
                options={"require": _REQUIRED},
            )
            return caller_of(claims, self._jwt)
        except jwt.MissingRequiredClaimError as error:
            raise _Refused("claims", f"the token has no claim {error.claim!r}") from None
        except UnusableClaimError as error:
            raise _Refused("claims", f"the token cannot be used: {error}") from None
        except jwt.PyJWTError as error:
            raise _Refused(*_WHY.get(type(error), ("malformed", "the token cannot be read"))) from None

    def _header(self, token: str) -> tuple[str | None, str]:
        """The key's id, and an algorithm that is allowed: a token is not believed how it is to be checked."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _Refused("malformed", "the credential is no token") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._jwt.algorithms:
            allowed = ", ".join(self._jwt.algorithms)
            raise _Refused("algorithm", f"the token is not signed by an algorithm that is allowed here: {allowed}")
        return kid, str(algorithm)


class EitherGate:
    """Lets those in who show an API key, which is known by its beginning, or else a token."""

    def __init__(self, keys: KeyGate, tokens: TokenGate) -> None:
        self._keys = keys
        self._tokens = tokens

    async def tenant_of(self, call: Call) -> str:
        """The key's tenant, or the token's."""
        credentials = (each.partition(" ")[2].strip() for each in call.authorization)
        shows_key = any(each.startswith(f"{PREFIX}-") for each in credentials)
        return await (self._keys if shows_key else self._tokens).tenant_of(call)

    def close(self) -> None:
        """Tells what is still untold."""
        self._keys.close()
        self._tokens.close()


def _shown(call: Call) -> str:
    try:
        return shown(call.authorization, "token")
    except MalformedKey as error:
        raise _Refused("malformed" if call.authorization else "missing", str(error)) from None
