"""The book of libraries' files in Valkey: which there are, in which state, and how far. One hash slot a library.

The text's truth is the library's log. The book knows also what is not there yet, and what came to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import structlog
from isthmus.errors.v1 import errors_pb2
from redis.exceptions import RedisError

from gateway.libraries.attachment import Attachment, AttachmentState, Batch, decode, encode
from services.config import LibrariesSettings
from services.errors import IsthmusError, QuotaViolation
from services.valkey import Acknowledger, Client, Script, command
from services.valkey.failover import expected

_SCRIPTS: Final = Path(__file__).parent / "scripts"
_ENTER, _CHANGE, _PAGE, _PUT_BATCH, _SUMS, _KEEP = (
    Script(_SCRIPTS / f"{name}.lua") for name in ("enter", "change", "page", "put_batch", "sums", "keep")
)
_STATES: Final = tuple(state.value for state in AttachmentState)
_RECORDS: Final = ("records", "all", *_STATES, "sums")
_ALL: Final = (*_RECORDS, "batches", "batch_order")
_log: Final = structlog.get_logger("libraries")

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class Place:
    """A library of a tenant."""

    tenant: str
    library: str


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Files of a library, or of a batch, by state; and the bytes of their texts."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    text_bytes: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.in_progress + self.completed + self.failed + self.cancelled


class Book:
    """Reads and writes. What is answered is held by replicas as the settings ask for it.

    Raises what Acknowledger raises, and UPSTREAM_UNAVAILABLE while Valkey is away.
    """

    def __init__(self, valkey: Client, acknowledger: Acknowledger, settings: LibrariesSettings) -> None:
        self._valkey = valkey
        self._acknowledger = acknowledger
        self._settings = settings

    async def enter(self, place: Place, attachment: Attachment, kept_ms: int = 0) -> tuple[Attachment, bool]:
        """The file's record, and whether it is this one; not where it is in progress, or completed, already.

        QUOTA_EXCEEDED where the library has as many as may be. `kept_ms` is how long the book lives, 0 for ever.
        """
        count_max = self._settings.library_files_count_max
        args = (attachment.file, encode(attachment), attachment.create_ms, count_max, attachment.state.value, kept_ms)
        outcome, stored = await self._run(_ENTER, place, _RECORDS, args)
        if outcome == b"count":
            raise _full(place, count_max)
        return decode(stored), outcome == b"entered"

    async def change(self, place: Place, before: Attachment, after: Attachment | None) -> bool:
        """Puts a record in the place of the one that was read, None takes it out; False where it is another by now."""
        state = "" if after is None else after.state.value
        args = (before.file, encode(before), b"" if after is None else encode(after), state, before.create_ms)
        return bool(await self._run(_CHANGE, place, _RECORDS, args))

    async def find(self, place: Place, file: str) -> Attachment | None:
        """The record of a file, None where the book knows none."""
        with _away():
            stored = await command(self._valkey, "HGET", *_keys(place, "records"), file)
        return None if stored is None else _read(stored)

    async def among(self, place: Place, files: Sequence[str]) -> list[Attachment]:
        """The records of those files that the book knows, in their order."""
        if not files:
            return []
        with _away():
            stored = await command(self._valkey, "HMGET", *_keys(place, "records"), *files)
        found = [_read(each) for each in stored if each is not None]
        return [each for each in found if each is not None]

    async def page(
        self, place: Place, *, after: str = "", count: int, order: Order, state: AttachmentState | None = None
    ) -> list[Attachment] | None:
        """At most `count` files by the time they were attached; None where `after` is none of them."""
        view = "all" if state is None else state.value
        with _away():
            found = await _PAGE(self._valkey, _keys(place, "records", "all", view), (after, count, order))
        if found is None:
            return None
        read = [_read(each) for each in found if each]
        return [each for each in read if each is not None]

    async def counts(self, place: Place) -> FileCounts:
        """How many files of each state."""
        with _away():
            return FileCounts(*map(int, await _SUMS(self._valkey, _keys(place, *_STATES, "sums"))))

    async def put_batch(self, place: Place, batch: Batch, kept_ms: int = 0) -> None:
        """Keeps a batch, in place of what it was; `kept_ms` is how long the book lives, 0 for as long as it does."""
        args = (batch.id, msgspec.json.encode(batch), batch.create_ms, self._settings.batches_count_max, kept_ms)
        await self._run(_PUT_BATCH, place, ("batches", "batch_order"), args)

    async def batch(self, place: Place, batch: str) -> Batch | None:
        """A batch; None where the book knows none, or none any more."""
        with _away():
            stored = await command(self._valkey, "HGET", *_keys(place, "batches"), batch)
        return None if stored is None else msgspec.json.decode(stored, type=Batch)

    async def keep(self, place: Place, kept_ms: int) -> None:
        """Lets the book live so long, 0 for ever."""
        await self._run(_KEEP, place, _ALL, (kept_ms,))

    async def erase(self, place: Place) -> None:
        """Takes the book away."""
        with _away():
            await command(self._valkey, "UNLINK", *_keys(place, *_ALL))

    async def _run(self, script: Script, place: Place, names: Sequence[str], args: Sequence[Any]) -> Any:
        with _away():
            answer, _ = await self._acknowledger.run(script, _keys(place, *names), args)
        return answer


def counted(attachments: Sequence[Attachment]) -> FileCounts:
    """The counts of these files."""
    states = [each.state.value for each in attachments]
    in_progress, completed, failed, cancelled = (states.count(state) for state in _STATES)
    return FileCounts(in_progress, completed, failed, cancelled, sum(each.text_bytes for each in attachments))


def _keys(place: Place, *names: str) -> list[str]:
    return [f"isthmus:{{library:{place.tenant}/{place.library}}}:{name}" for name in names]


def _read(stored: bytes) -> Attachment | None:
    try:
        return decode(stored)
    except msgspec.MsgspecError as error:
        # One that a later release wrote hinders nobody.
        _log.warning("a file's record cannot be read", error=str(error))
        return None


def _full(place: Place, count_max: int) -> IsthmusError:
    quota = QuotaViolation(f"libraries/{place.library}", f"library_files_count_max is {count_max}")
    message = (
        f"libraries/{place.library} has {count_max} files, which is the bound "
        "(gateway.libraries.library_files_count_max); delete some, or use another library"
    )
    return IsthmusError(errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, message, quotas=[quota])


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        away = expected(error)
        if away is None:
            raise
        raise away from error
