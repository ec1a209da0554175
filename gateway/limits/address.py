"""From what a connection says to the address that limits go by. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import unquote

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

# One household or machine has as many addresses of IPv6 as it likes, all of them in such a network.
_V6_PREFIX: Final = 64


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as the configuration has them."""
    return tuple(ip_network(each, strict=False) for each in texts)


def caller_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Whose call it is: the peer, or the last one in `x-forwarded-for` that no trusted proxy is.

    `forwarded` has the values of all headers of that name. What comes before an address that is not trusted anybody may
    have made up. Empty for a peer without an address. An IPv6 address counts as its /64.
    """
    address = _parse(peer)
    if address is None:
        return ""
    chain = [each.strip() for value in forwarded for each in value.split(",")]
    while chain and _is_in(address, trusted):
        nearer = _parse(chain.pop())
        if nearer is None:
            break
        address = nearer
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _V6_PREFIX), strict=False))


def host_of(peer: str) -> str:
    """The host in gRPC's name of a peer, such as `ipv4:10.0.0.1:443` or `ipv6:[::1]:443`; empty where it has none."""
    scheme, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if scheme in ("ipv4", "ipv6") else ""


def _parse(text: str) -> Address | None:
    """An address, as some proxies write it with a port or in brackets, too."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_in(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address.version == each.version and address in each for each in trusted)
