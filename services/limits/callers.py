"""Who is limited, and by what: the tenant, the user it names, the address that calls. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from services.config.limits import CallerLimits

Limit: TypeAlias = Literal["requests_per_minute", "tokens_per_minute", "turns_concurrent", "budget_monthly_micros"]
LIMITS: Final[tuple[Limit, ...]] = (
    "requests_per_minute",
    "tokens_per_minute",
    "turns_concurrent",
    "budget_monthly_micros",
)
_DIGEST_BYTES: Final = 16
_NO_LIMITS: Final = CallerLimits()


class Kind(Enum):
    """What a caller is."""

    TENANT = "tenant"
    USER = "user"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Caller:
    """One that has limits. `name` is the tenant's id, the user's name, or the address."""

    kind: Kind
    name: str
    limits: CallerLimits

    @property
    def part(self) -> str:
        """Its part of a key: short, and without anything that a client chose."""
        if self.kind is Kind.TENANT:
            return str(self.kind.value)
        return f"{self.kind.value}:{blake2b(self.name.encode(), digest_size=_DIGEST_BYTES).hexdigest()}"

    @property
    def label(self) -> str:
        """Whose limit it is, as errors say it."""
        return {Kind.TENANT: "tenants", Kind.USER: "users", Kind.ADDRESS: "addresses"}[self.kind] + f"/{self.name}"


class OwnLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits in place of the configured ones: None is no limit, UNSET leaves the configured one."""

    requests_per_minute: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    turns_concurrent: int | UnsetType | None = UNSET
    budget_monthly_micros: int | UnsetType | None = UNSET

    def over(self, configured: CallerLimits) -> CallerLimits:
        """What is in force."""
        mine: dict[str, int | None] = {
            name: value for name in LIMITS if not isinstance(value := getattr(self, name), UnsetType)
        }
        return configured.model_copy(update=mine) if mine else configured


class Override(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tenant's own limits, those of each of its users, and those of each address that calls for it."""

    tenant: OwnLimits = OwnLimits()
    user: OwnLimits = OwnLimits()
    address: OwnLimits = OwnLimits()

    def of(self, kind: Kind) -> OwnLimits:
        """Those of a kind of caller."""
        own: OwnLimits = getattr(self, kind.value)
        return own

    def changed(self, kind: Kind, changes: Mapping[Limit, Any]) -> Override:
        """With some limits of a kind replaced."""
        own = msgspec.structs.replace(self.of(kind), **{str(name): value for name, value in changes.items()})
        return msgspec.structs.replace(self, **{kind.value: own})


class Defaults:
    """The configured limits of all kinds of callers."""

    def __init__(self, tenant: CallerLimits, user: CallerLimits, address: CallerLimits) -> None:
        self._of = {Kind.TENANT: tenant, Kind.USER: user, Kind.ADDRESS: address}

    def in_force(self, kind: Kind, override: Override | None) -> CallerLimits:
        """What such a caller of a tenant may use up."""
        configured = self._of[kind]
        return configured if override is None else override.of(kind).over(configured)

    def limited(self, tenant: str, user: str, address: str, override: Override | None) -> tuple[Caller, ...]:
        """Those whose meters have to be asked, the tenant first; none where no limit is in the way."""
        named = ((Kind.TENANT, tenant), (Kind.USER, user), (Kind.ADDRESS, address))
        callers = [Caller(kind, name, self.in_force(kind, override)) for kind, name in named if name]
        has_limits = [caller for caller in callers if caller.limits != _NO_LIMITS]
        if not has_limits:
            return ()
        return (callers[0], *(caller for caller in has_limits if caller.kind is not Kind.TENANT))


def encode(override: Override) -> bytes:
    """As it is stored: JSON; nothing where it changes nothing."""
    return b"" if override == Override() else msgspec.json.encode(override)


def decode(stored: bytes) -> Override:
    """What was stored. Raises msgspec.MsgspecError for bytes that are none."""
    return msgspec.json.decode(stored, type=Override) if stored else Override()
