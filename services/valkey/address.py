"""What a Valkey URL says: one node or a cluster, with TLS or without, and how it is shown without its secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from services.config import ConfigError
from services.valkey.tls import OPTIONS

_PORT: Final = 6379
_SCHEMES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster")
_EXPECTED: Final = (
    "expected redis://[user:password@]host:port[/db], rediss:// for TLS, or redis+cluster:// or rediss+cluster:// with "
    "host:port[,host:port...]"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where Valkey is. `hosts` has one (host, port) for one node, and one or more seeds for a cluster."""

    tls: bool
    cluster: bool
    hosts: tuple[tuple[str, int], ...]
    _credentials: str
    _path: str
    _query: str

    @property
    def options(self) -> Mapping[str, str]:
        """What the URL says about TLS; everything else has a key in the configuration."""
        return dict(parse_qsl(self._query))

    def node_url(self, host: str, port: int) -> str:
        """The plain `redis://` or `rediss://` URL of one of the nodes."""
        return self._url("rediss" if self.tls else "redis", host, port)

    def seed_url(self, host: str, port: int) -> str:
        """The same address with one of its hosts alone."""
        scheme = "rediss" if self.tls else "redis"
        return self._url(f"{scheme}+cluster" if self.cluster else scheme, host, port)

    def _url(self, scheme: str, host: str, port: int) -> str:
        named = f"[{host}]" if ":" in host else host
        return f"{scheme}://{self._credentials}{named}:{port}{self._path}" + (f"?{self._query}" if self._query else "")


def parse(url: str) -> Address:
    """The address in a URL. Raises ConfigError, without the password, for one that names no Valkey."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # What it says may repeat the password.
        raise _wrong(url, "a host that cannot be read; an IPv6 address stands in [ and ]") from None
    if parts.scheme not in _SCHEMES:
        raise _wrong(url, f"scheme {parts.scheme!r}")
    _check_escaped(url, parts)
    secret, at, places = parts.netloc.rpartition("@")
    cluster = parts.scheme.endswith("+cluster")
    hosts = tuple(_host(url, place) for place in places.split(","))
    if len(hosts) > 1 and not cluster:
        raise _wrong(url, "several hosts, which only a cluster has")
    _check_path(url, parts, cluster)
    _check_options(url, parts)
    return Address(parts.scheme.startswith("rediss"), cluster, hosts, secret + at, parts.path, parts.query)


def redacted(url: str) -> str:
    """The URL as it may be shown and logged: with `***` for the password, and for a whole URL that cannot be read."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return "***"
    # By the last `@`: a password that was not escaped may hold any other sign.
    secret, at, places = rest.rpartition("@")
    user, colon, _ = secret.partition(":")
    return f"{scheme}://{user}{colon}{'***' if colon else ''}{at}{places}"


def _host(url: str, place: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, _PORT if parts.port is None else parts.port
    except ValueError:
        raise _wrong(url, f"{place!r}, which is no host with a port up to 65535") from None
    if not host or not port:
        raise _wrong(url, f"{place!r}, which names no host" if not host else f"{place!r}, whose port is 0")
    return host, port


def _check_escaped(url: str, parts: SplitResult) -> None:
    """A / ? or # in the password ends what is in front of the hosts; what comes after would be shown as no secret."""
    known = all(name in OPTIONS for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    if "@" in parts.path + parts.fragment + ("" if known else parts.query):
        raise _wrong(url, "an @ behind the hosts; a password has / ? # % and @ escaped as %2F %3F %23 %25 and %40")


def _check_path(url: str, parts: SplitResult, cluster: bool) -> None:
    database = parts.path.removeprefix("/")
    if database and not database.isdecimal():
        raise _wrong(url, f"database {database!r}, which is not a number")
    if cluster and database not in ("", "0"):
        raise _wrong(url, f"database {database}; a cluster has only 0")


def _check_options(url: str, parts: SplitResult) -> None:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in OPTIONS:
            raise _wrong(url, f"option {name!r}, which is none of {', '.join(OPTIONS)}")
        if value not in (OPTIONS[name] or (value or None,)):
            raise _wrong(url, f"{name}={value}, which is not {' or '.join(OPTIONS[name] or ('a path',))}")
    if options and not parts.scheme.startswith("rediss"):
        raise _wrong(url, "options of TLS without TLS")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise _wrong(url, "ssl_keyfile without ssl_certfile")


def _wrong(url: str, what: str) -> ConfigError:
    return ConfigError(f"valkey.url: got {redacted(url)} with {what}; {_EXPECTED}")
