"""From a planned window to what a replica is told of it: the manifest, its items, its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import DecodeError
from isthmus.context.v1 import summary_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import fragment_pb2, turn_pb2

from context_store.hot.hot_session import HotSession
from context_store.log.bodies import Bodies
from context_store.log.fragments import CorruptBodyError, unpack
from context_store.log.keys import Keys
from context_store.log.reads import LogReads
from context_store.log.stored import Meter
from context_store.window.summaries import SummaryRef, item
from context_store.window.window import Item, Window
from services.errors import IsthmusError

# A message's field of window items, to be added to.
Items: TypeAlias = "RepeatedCompositeFieldContainer[window_pb2.WindowItem]"


class Manifests:
    """Writes out windows. Texts come from the cache of recent ones or, in few reads, from Valkey."""

    def __init__(self, log: LogReads, bodies: Bodies, items_bytes_max: int) -> None:
        self._log = log
        self._bodies = bodies
        self._items_bytes_max = items_bytes_max

    async def manifest(self, hot: HotSession, turn: turn_pb2.Turn, meter: Meter) -> window_pb2.Manifest:
        """The manifest of the window that ends with the turn's messages."""
        window = hot.window
        count = window.count_to(turn.last_input_sequence)
        prefix = min(hot.prefix_count(), count)
        manifest = window_pb2.Manifest(
            epoch=window.base.epoch,
            end=window_pb2.Checkpoint(item_count=count, digest=window.digest(count)),
            tokens=window.tally(count).tokens(hot.scale),
            prefix=window_pb2.Checkpoint(item_count=prefix, digest=window.digest(prefix)),
            report=report(window, count),
        )
        if self._is_small(hot, prefix, count):
            await self.write(manifest.new_items, hot, list(window.items(prefix, count)), meter)
        return manifest

    def _is_small(self, hot: HotSession, start: int, stop: int) -> bool:
        size = 0
        for part in hot.window.items(start, stop):
            size += item_size(hot, part)
            if size > self._items_bytes_max:
                return False
        return True

    async def write(self, into: Items, hot: HotSession, parts: Sequence[Item], meter: Meter | None = None) -> None:
        """Adds the window items with their texts. CORRUPT where one cannot be read back.

        REVISION_CONFLICT where it is gone since, or of a past that may be going just now; NotFound with the session.
        """
        keys = Keys(hot.tenant, hot.session)
        sequences = sorted(part for part in parts if isinstance(part, int))
        found = await self._bodies.get(keys, hot.incarnation, sequences, meter, is_window=True)
        whole = {fragment.sequence: fragment for fragment in found}
        refs = [part for part in parts if isinstance(part, SummaryRef)]
        bodies = await self._log.summary_bodies(keys, [ref.name for ref in refs], meter)
        # What is missing may have been erased, or have gone with its session, since the copy was made.
        is_old = (len(found) < len(sequences) or None in bodies) and await self._log.version(keys) != hot.version
        if is_old:
            raise _changed(hot, "it has changed since its window was planned")
        summaries = {ref.name: body for ref, body in zip(refs, bodies, strict=True)}
        for part in parts:
            if isinstance(part, int):
                _add_fragment(into, hot, part, whole.get(part))
            else:
                into.append(_summary_item(hot, part, summaries[part.name]))


def item_size(hot: HotSession, part: Item) -> int:
    """UTF-8 bytes of an item's text."""
    return part.size if isinstance(part, SummaryRef) else hot.history.size(part)


def report(window: Window, count: int) -> turn_pb2.WindowReport:
    """What the first `count` items hold of the session, and what they leave out."""
    base = window.base
    return turn_pb2.WindowReport(
        epoch=base.epoch,
        item_count=count,
        verbatim_count=count - len(base.summaries),
        summary_count=len(base.summaries),
        digest=window.digest(count),
        left_out=[
            turn_pb2.LeftOut(
                first_sequence=span.first,
                last_sequence=span.last,
                tokens=span.tokens,
                reason=cast("turn_pb2.LeftOut.Reason.ValueType", span.reason),
            )
            for span in base.left_out
        ],
        left_out_more=base.left_out_more,
        left_out_tokens=base.left_out_tokens,
    )


def _add_fragment(into: Items, hot: HotSession, sequence: int, fragment: fragment_pb2.Fragment | None) -> None:
    if fragment is None:
        raise _lost(hot, f"fragments/{sequence}", "it is not in the log", sequence)
    # In its place from the beginning: an item that is made first and added then is copied with its text.
    into.add(
        kind=cast("window_pb2.WindowItemKind.ValueType", int(fragment.kind)),
        role=fragment.role,
        author=fragment.author,
        text=fragment.text,
        part=fragment.part,
        digest=fragment.digest,
        first_sequence=sequence,
        last_sequence=sequence,
        tokens=hot.history.tokens(sequence),
        tokens_exact=hot.history.is_exact(sequence),
    )


def _summary_item(hot: HotSession, ref: SummaryRef, body: bytes | None) -> window_pb2.WindowItem:
    try:
        shown = item(summary_pb2.Summary.FromString(unpack(body or b"")))
    except (CorruptBodyError, DecodeError) as error:
        raise _lost(hot, f"summary {ref.name}", str(error), ref.last) from error
    shown.tokens = ref.tokens
    return shown


def _lost(hot: HotSession, what: str, why: str, last: int) -> IsthmusError:
    """Why there is no text. A past that is shared may be going with its ancestor, which cuts the fork off just then."""
    if last <= hot.shared:
        return _changed(hot, f"{what} is of a past that it shares and that is not there")
    return IsthmusError(
        errors_pb2.ERROR_REASON_CORRUPT, f"sessions/{hot.session}: {what} cannot be read back for a window: {why}"
    )


def _changed(hot: HotSession, why: str) -> IsthmusError:
    return IsthmusError(
        errors_pb2.ERROR_REASON_REVISION_CONFLICT, f"sessions/{hot.session}: {why}; expected it at rest, try again"
    )
