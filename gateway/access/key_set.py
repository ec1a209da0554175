"""An issuer's public keys, and when they are to be read. Pure; times are in seconds and passed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from jwt import PyJWK
from jwt.exceptions import PyJWTError

# Of RFC 7518; a key of the type `oct` is a secret, and what is published is none.
_TYPES: Final = {"R": "RSA", "P": "RSA", "E": "EC"}
_EDWARDS: Final = "EdDSA"


class UnusableKeysError(ValueError):
    """What was read is no set of keys; the text says what it is."""


class KeySet:
    """Keys by their id. One without an id is found by a token without one, as long as it is the only key."""

    def __init__(self, keys: Mapping[str, Mapping[str, Any]]) -> None:
        self._keys = keys
        self._made: dict[tuple[str, str], PyJWK] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def of(cls, document: bytes, count_max: int) -> KeySet:
        """The keys of a JWK set that verify signatures; those that sign by a secret are left out.

        Raises UnusableKeysError.
        """
        try:
            found = msgspec.json.decode(document)
        except msgspec.DecodeError:
            raise UnusableKeysError("is not JSON; expected a JWK set") from None
        listed = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise UnusableKeysError("has no list `keys`; expected a JWK set")
        if len(listed) > count_max:
            raise UnusableKeysError(f"has {len(listed)} keys, expected at most {count_max}")
        usable = [
            each for each in listed if each.get("kty") in ("RSA", "EC", "OKP") and each.get("use", "sig") == "sig"
        ]
        return cls({str(each.get("kid", "")): each for each in usable})

    def has(self, kid: str | None) -> bool:
        """Whether there is a key for a token that names this one, or none."""
        return self._found(kid) is not None

    def key(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key, for this algorithm and no other; None where there is none, or where it is not for that algorithm."""
        found = self._found(kid)
        if found is None or found.get("alg", algorithm) != algorithm or found.get("kty") != _type(algorithm):
            return None
        place = (str(found.get("kid", "")), algorithm)
        if place not in self._made:
            try:
                self._made[place] = PyJWK.from_dict(dict(found), algorithm)
            except PyJWTError:
                return None
        return self._made[place]

    def _found(self, kid: str | None) -> Mapping[str, Any] | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)


def _type(algorithm: str) -> str | None:
    return "OKP" if algorithm == _EDWARDS else _TYPES.get(algorithm[:1])


class Freshness:
    """When keys are read: every `refresh_s`, and for a key that is not among them or after a failure sooner, but never
    twice within `refetch_s_min`. Those that were read are good for `kept_s_max`.
    """

    def __init__(self, refresh_s: float, refetch_s_min: float, kept_s_max: float) -> None:
        self._refresh_s = refresh_s
        self._refetch_s_min = refetch_s_min
        self._kept_s_max = kept_s_max
        self._tried: float | None = None
        self._read: float | None = None

    def tried(self, now: float, *, read: bool) -> None:
        """They were asked for at that time, and read or not."""
        self._tried = now
        if read:
            self._read = now

    def may_read(self, now: float) -> bool:
        """Whether a token of an unknown key is a reason to read them now: who invents ids is no reason each time."""
        return self._tried is None or now - self._tried >= self._refetch_s_min

    def due_in(self, now: float) -> float:
        """Seconds until they are to be read without any reason."""
        if self._tried is None:
            return 0.0
        is_fresh = self._read == self._tried
        wait_s = max(self._refresh_s, self._refetch_s_min) if is_fresh else self._refetch_s_min
        return max(0.0, self._tried + wait_s - now)

    def are_good(self, now: float) -> bool:
        """Whether tokens may be judged by what was read last."""
        return self._read is not None and now - self._read < self._kept_s_max
