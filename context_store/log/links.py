"""The past that a fork shares: which part of whose log. A chain of forks is flat, so nothing follows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from context_store.log.keys import Keys


class Link(msgspec.Struct, frozen=True, array_like=True):
    """The fragments and turns, both ends included, that are read from the log of an ancestor.

    `incarnation` tells the ancestor from a later session of its name. `first_turn` > `last_turn` shares no turn.
    """

    session: str
    incarnation: bytes
    first: int
    last: int
    first_turn: int
    last_turn: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[Link, ...])


def links_of(stored: bytes | None) -> tuple[Link, ...]:
    """The links that were stored, oldest ancestor first; none for a session that is no fork."""
    return _decoder.decode(stored) if stored else ()


def pack_links(links: Iterable[Link]) -> bytes:
    return _encoder.encode(tuple(links))


def forked(parent: Iterable[Link], own: Link) -> tuple[Link, ...]:
    """The links of a fork that shares the log and the turns up to the ends of `own`.

    `parent` are those of its parent, `own` is the parent's own part, empty where the fork ends before it.
    """
    shared = [_cut(link, own.last, own.last_turn) for link in parent if link.first <= own.last]
    return (*shared, *([own] if own.first <= own.last else []))


def _cut(link: Link, last: int, last_turn: int) -> Link:
    return msgspec.structs.replace(link, last=min(link.last, last), last_turn=min(link.last_turn, last_turn))


def without(links: Iterable[Link], session: str, incarnation: bytes) -> tuple[Link, ...]:
    """The links to other ancestors than this one."""
    return tuple(link for link in links if (link.session, link.incarnation) != (session, incarnation))


def ancestor(keys: Keys, link: Link) -> Keys:
    """The keys of a link's session; forks never leave their tenant."""
    return Keys(keys.tenant, link.session)
