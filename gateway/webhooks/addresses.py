"""Which addresses events may go to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

# RFC 6052: the last 32 bits are the IPv4 address that a NAT64 sends to.
_NAT64: Final = IPv6Network("64:ff9b::/96")
_IPV4_MASK: Final = (1 << 32) - 1


class ForbiddenAddressError(Exception):
    """The host's address is none that events may go to, or it has none."""


def is_public(text: str) -> bool:
    """Whether the address is one of the internet's: not private, loopback, link-local, multicast or reserved.

    An IPv6 address that carries an IPv4 one has to be public in both.
    """
    address = ip_address(text.partition("%")[0])
    return all(each.is_global and not each.is_multicast and not each.is_reserved for each in _meant(address))


def chosen(host: str, addresses: Sequence[str], *, private_allowed: bool) -> str:
    """The address to connect to: the first. ForbiddenAddressError where any of them is not public, unless allowed."""
    if not addresses:
        raise ForbiddenAddressError(f"{host} has no address")
    if not private_allowed:
        for each in addresses:
            if not is_public(each):
                message = (
                    f"{host} has the address {each}, which is private, loopback, link-local, multicast or reserved; "
                    "expected public ones (gateway.webhooks.private_allowed lets others through)"
                )
                raise ForbiddenAddressError(message)
    return addresses[0]


def _meant(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    if isinstance(address, IPv4Address):
        return [address]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & _IPV4_MASK))
    carried = [each for each in inner if each is not None]
    # A mapped address is its IPv4 address, written otherwise.
    return list(carried) if address.ipv4_mapped else [address, *carried]
