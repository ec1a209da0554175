"""A session as callers see it, made from what of it stays in Valkey whatever its tier. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf import duration_pb2
from isthmus.session.v1 import session_pb2

from context_store.hot.hot_session import HotSession

# Fields of meta; `version` is not there for a session that nobody sees.
LISTED: Final = (
    "own",
    "revision",
    "turn_count",
    "open_turn",
    "epoch",
    "touched_ms",
    "ttl_ms",
    "cold",
    "sums",
    "version",
)


def shown(meta: Mapping[str, bytes | None], summary_count: int) -> session_pb2.Session:
    """The session of these fields. Sums of the text are known without reading the log only of one that is an object."""
    session = session_pb2.Session.FromString(meta["own"] or b"")
    session.revision = _number(meta, "revision")
    session.turn_count = _number(meta, "turn_count")
    session.open_turn = _number(meta, "open_turn")
    session.epoch = _number(meta, "epoch")
    session.summary_count = summary_count
    stored = meta.get("sums")
    session.tier = session_pb2.TIER_OBJECT if meta.get("cold") else session_pb2.TIER_VALKEY
    if stored:
        session.MergeFrom(session_pb2.Session.FromString(stored))
    show_times(session, meta)
    return session


def sums(hot: HotSession) -> bytes:
    """What is kept of a session that becomes an object, so that it is shown as it was: fields of Session."""
    return session_pb2.Session(
        revision=hot.history.revision,
        turn_count=hot.turn_count,
        epoch=hot.window.base.epoch,
        text_bytes=hot.history.text_bytes,
        tokens=hot.tokens(),
        summary_count=len(hot.summaries),
    ).SerializeToString()


def show_times(session: session_pb2.Session, meta: Mapping[str, bytes | None]) -> None:
    """Sets when the session was last written and when it expires."""
    touched_ms, ttl_ms = _number(meta, "touched_ms"), _number(meta, "ttl_ms")
    session.touch_time.FromMilliseconds(touched_ms)
    if ttl_ms:
        session.expire_time.FromMilliseconds(touched_ms + ttl_ms)


def is_over(session: session_pb2.Session, now_ms: float) -> bool:
    """Whether it has expired, erased or not: lists go by this clock, everything else by Valkey's."""
    is_due = session.HasField("expire_time") and session.expire_time.ToMilliseconds() <= now_ms
    return is_due and not session.open_turn


def ttl_ms(session: session_pb2.Session) -> int:
    """The ttl as meta has it, 0 for none."""
    ttl: duration_pb2.Duration = session.ttl
    return ttl.ToMilliseconds() if session.HasField("ttl") else 0


def _number(meta: Mapping[str, bytes | None], field: str) -> int:
    return int(meta.get(field) or 0)
