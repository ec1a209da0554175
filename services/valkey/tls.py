"""The TLS of connections to Valkey: the context that a URL's options ask for."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from services.config import ConfigError

_VERIFIED: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_TRUTH: Final = {"true": True, "false": False}
# What a URL may say about TLS, each with what it may be; None for the path of a file.
OPTIONS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "ssl_ca_certs": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "ssl_cert_reqs": tuple(_VERIFIED),
    "ssl_check_hostname": tuple(_TRUTH),
}
_FILES: Final = tuple(name for name, choices in OPTIONS.items() if choices is None)

# Of each file, what changes when another one takes its name.
_Stamp: TypeAlias = tuple[tuple[int, int], ...]


class Tls:
    """Makes the context of a URL's `options` once, for that costs tens of milliseconds, and anew when its files change.

    With `ssl_ca_certs` only its authorities are trusted, else those of the system. Raises ConfigError for files that
    cannot be used.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = dict(options)
        self._stamp = self._look()
        self._context = self._make()

    def get(self) -> ssl.SSLContext:
        """The context for the next connection. Raises ConfigError where a file was exchanged for one of no use."""
        stamp = self._look()
        if stamp != self._stamp:
            self._context, self._stamp = self._make(), stamp
        return self._context

    def _look(self) -> _Stamp:
        stamps = []
        for name in _FILES:
            if path := self._options.get(name):
                try:
                    found = Path(path).stat()
                except OSError as error:
                    raise _unusable(name, path, error) from None
                stamps.append((found.st_mtime_ns, found.st_ino))
        return tuple(stamps)

    def _make(self) -> ssl.SSLContext:
        options = self._options
        authorities = options.get("ssl_ca_certs")
        try:
            context = ssl.create_default_context(cafile=authorities)
        except OSError as error:
            raise _unusable("ssl_ca_certs", f"{authorities}", error) from None
        verified = _VERIFIED[options.get("ssl_cert_reqs", "required")]
        checked = _TRUTH[options.get("ssl_check_hostname", "true")]
        context.check_hostname = checked and verified is not ssl.CERT_NONE
        context.verify_mode = verified
        certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
        if certificate:
            try:
                # Without a password of its own, OpenSSL would ask the terminal for the key's.
                context.load_cert_chain(certificate, key, password="")
            except (OSError, ValueError) as error:
                raise _unusable("ssl_keyfile" if key else "ssl_certfile", key or certificate, error) from None
        return context


def _unusable(name: str, path: str, error: Exception) -> ConfigError:
    expected = {
        "ssl_ca_certs": "certificates of authorities in PEM",
        "ssl_certfile": "a certificate in PEM, with its key where ssl_keyfile names none",
        "ssl_keyfile": "the key of ssl_certfile in PEM, without a password",
    }[name]
    what = getattr(error, "strerror", None) or error
    return ConfigError(f"valkey.url: {name}: {path!r} cannot be used: {what}; expected a file with {expected}")
