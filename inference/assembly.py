"""From a manifest to the window's token ids: apply the delta, or read from the shard what is missing.

Every item's digest is computed from its content and chained; a window whose end is not the manifest's is never used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

import grpc
from isthmus.context.v1 import context_service_pb2, context_service_pb2_grpc, summary_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2

from inference.template import ChatTemplate, Encoded
from inference.tokenizer import TokenIds
from inference.windows import Point, Reply, Window, WindowCache
from services.config import InferenceSettings
from services.digest import EMPTY, chain, item_digest
from services.errors import IsthmusError
from services.router import STORE, Router

COUNTS_MAX: Final = 4_096

# Waits for its turn to read from a shard.
Pulling: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(slots=True)
class Work:
    """What it took to have the window, for the receipt."""

    encoded_tokens: int = 0
    pulled_items: int = 0
    pulled_bytes: int = 0
    pull_ms: float = 0.0
    tokenize_ms: float = 0.0
    # Of the fragments that came new, less those whose exact count the store has.
    counts: list[summary_pb2.TokenCount] = field(default_factory=list)


class Assembled(NamedTuple):
    """A whole window: its ids, its places on the digest chain (the end first), and the work."""

    ids: TokenIds
    points: tuple[Point, ...]
    work: Work


# Texts of so many characters are digested and tokenised in well under a millisecond.
_INLINE_CHARS_MAX: Final = 2_048


class WindowTooLong(Exception):  # noqa: N818
    """The window exceeds what is worth reading: `tokens` so far."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"the window has more than {tokens} tokens")
        self.tokens = tokens


class _Digested(NamedTuple):
    digest: bytes
    encoded: Encoded
    generated: bool


class WindowAssembler:
    """Completes windows from the cache. Hashing and tokenising run in `executor`, off the event loop, but for a few
    lines, which take less than the way there and back.
    """

    def __init__(
        self,
        router: Router,
        template: ChatTemplate,
        cache: WindowCache,
        executor: Executor,
        settings: InferenceSettings,
    ) -> None:
        self._router = router
        self._template = template
        self._cache = cache
        self._executor = executor
        self._attempts = settings.pull_attempts_count_max

    async def assemble(
        self, tenant: str, session: str, manifest: window_pb2.Manifest, tokens_max: int, pulling: Pulling
    ) -> Assembled:
        """The manifest's window, whole and verified; what is read from a shard is read within `pulling`.

        Raises WindowTooLong as soon as it has more than `tokens_max` tokens, CORRUPT when the shard's items do not add
        up to the manifest's digest, and what `ReadWindow` answers, WINDOW_CHANGED among it.
        """
        window = self._cache.take(tenant, session)
        work = Work()
        try:
            if not await self._apply(window, manifest, work):
                key = context_service_pb2.SessionKey(tenant=tenant, session=session)
                async with pulling():
                    await self._pull(window, manifest, key, work, tokens_max)
            if window.tokens > tokens_max:
                raise WindowTooLong(window.tokens)
            return Assembled(window.ids, tuple(window.checkpoints()), work)
        finally:
            # Also after an error: whatever it holds by now is a true prefix of some window, and verified as one.
            self._cache.put(tenant, session, window)

    async def _apply(self, window: Window, manifest: window_pb2.Manifest, work: Work) -> bool:
        """Brings the window to the manifest's end without the shard; False if that cannot be done."""
        end, prefix = manifest.end, manifest.prefix
        if window.holds(end.item_count, end.digest):
            window.truncate(end.item_count)
            return True
        whole = prefix.item_count + len(manifest.new_items) == end.item_count
        if not whole or not (prefix.item_count == 0 or window.holds(prefix.item_count, prefix.digest)):
            return False
        known = _known(window, prefix, manifest.new_items)
        window.truncate(prefix.item_count + known)
        await self._extend(window, manifest.new_items[known:], work)
        return window.holds(end.item_count, end.digest)

    async def _pull(
        self,
        window: Window,
        manifest: window_pb2.Manifest,
        key: context_service_pb2.SessionKey,
        work: Work,
        tokens_max: int,
    ) -> None:
        for attempt in range(1, self._attempts + 1):
            member, channel = self._router.store(key.tenant, key.session)
            try:
                await self._read(window, manifest, key, channel, work, tokens_max)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == self._attempts:
                    raise
                # Any shard can serve any session, and what was read until now need not be read again.
                self._router.suspect(STORE, member)
            else:
                break
        if not window.holds(manifest.end.item_count, manifest.end.digest) or window.items != manifest.end.item_count:
            raise _corrupt("the items read from the shard do not add up to the manifest's digest")

    async def _read(
        self,
        window: Window,
        manifest: window_pb2.Manifest,
        key: context_service_pb2.SessionKey,
        channel: grpc.aio.Channel,
        work: Work,
        tokens_max: int,
    ) -> None:
        have = [window_pb2.Checkpoint(item_count=point.items, digest=point.digest) for point in window.checkpoints()]
        request = context_service_pb2.ReadWindowRequest(key=key, epoch=manifest.epoch, end=manifest.end, have=have)
        started, tokenize_ms = time.perf_counter(), work.tokenize_ms
        call = context_service_pb2_grpc.ContextServiceStub(channel).ReadWindow(request)
        try:
            async for response in call:
                if response.HasField("from"):
                    _cut_back(window, getattr(response, "from"))
                work.pulled_items += len(response.items)
                work.pulled_bytes += response.ByteSize()
                await self._extend(window, response.items, work)
                if window.tokens > tokens_max:
                    raise WindowTooLong(window.tokens)
        finally:
            call.cancel()
            work.pull_ms += _ms_since(started) - (work.tokenize_ms - tokenize_ms)

    async def _extend(self, window: Window, items: Sequence[window_pb2.WindowItem], work: Work) -> None:
        started = time.perf_counter()
        if sum(len(item.text) for item in items) <= _INLINE_CHARS_MAX:
            digested = self._digest(items, window.mark, window.reply)
        else:
            loop = asyncio.get_running_loop()
            digested = await loop.run_in_executor(self._executor, self._digest, items, window.mark, window.reply)
        for item, (digest, encoded, generated) in zip(items, digested, strict=True):
            window.append(digest, encoded.mark, encoded.ids)
            work.encoded_tokens += 0 if generated else len(encoded.ids)
            unknown = item.kind != window_pb2.WINDOW_ITEM_KIND_SUMMARY and not item.tokens_exact
            if unknown and len(work.counts) < COUNTS_MAX:
                work.counts.append(summary_pb2.TokenCount(sequence=item.first_sequence, tokens=encoded.count))
        work.tokenize_ms += _ms_since(started)

    def _digest(self, items: Sequence[window_pb2.WindowItem], mark: int, reply: Reply | None) -> list[_Digested]:
        digests = [item_digest(item) for item in items]
        for item, digest in zip(items, digests, strict=True):
            if item.digest != digest:
                raise _corrupt(f"item {item.first_sequence}-{item.last_sequence} does not have the digest it claims")
        generated = {
            index: reply.ids for index, item in enumerate(items) if reply is not None and _is_reply(item, reply)
        }
        encoded = self._template.encode(items, mark, generated)
        return [
            _Digested(digest, each, index in generated)
            for index, (digest, each) in enumerate(zip(digests, encoded, strict=True))
        ]


def reply_digest(text: str) -> bytes:
    """The key under which a generated reply's ids are found again when its text comes back as an item."""
    return blake2b(text.encode(), digest_size=16).digest()


def _is_reply(item: window_pb2.WindowItem, reply: Reply) -> bool:
    whole = item.kind == window_pb2.WINDOW_ITEM_KIND_REPLY and item.part == 0
    return whole and reply_digest(item.text) == reply.text_digest


def _known(window: Window, prefix: window_pb2.Checkpoint, items: Sequence[window_pb2.WindowItem]) -> int:
    """How many of the items after the prefix the window has already."""
    digest = prefix.digest or EMPTY
    for count, item in enumerate(items):
        digest = chain(digest, item.digest)
        if not window.holds(prefix.item_count + count + 1, digest):
            return count
    return len(items)


def _cut_back(window: Window, start: window_pb2.Checkpoint) -> None:
    """Keeps the prefix that the shard continues from."""
    if start.item_count and not window.holds(start.item_count, start.digest):
        raise _corrupt(f"the shard continues from item {start.item_count}, which was not offered to it")
    window.truncate(start.item_count)


def _corrupt(message: str) -> IsthmusError:
    return IsthmusError(errors_pb2.ERROR_REASON_CORRUPT, message)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
