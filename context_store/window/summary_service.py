"""Summaries as the compressor commits them, by compare-and-set against the log."""

from __future__ import annotations

from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2

from context_store.hot.hot_session import HotSession
from context_store.hot.sessions import Slot
from context_store.log.fragments import pack
from context_store.log.keys import Keys
from context_store.log.stored import tokenizer_of
from context_store.store import StaleError, Store, counts_of, keys_of
from context_store.window.summaries import ref
from services.digest import source_digest
from services.errors import InvalidField, IsthmusError


class SummaryService:
    """Serves the compressor."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def commit(self, request: api.CommitSummaryRequest) -> api.CommitSummaryResponse:
        """Adds a summary if the log still holds what it was made from. SUMMARY_SOURCE_CHANGED if it does not."""
        keys = keys_of(request.key)
        self._check(request)
        summary = ref(request.summary)
        body = pack(request.summary.SerializeToString())
        tokenizer = tokenizer_of(request.summary.tokenizer)

        async def change(slot: Slot, hot: HotSession) -> bool:
            if summary.name in hot.summaries:
                return False
            hot = await self._with_source(slot, hot, keys, request)
            # A session that had no turn yet takes the tokenizer of its first counts; later on, those by another one
            # would only be in the way of those it has.
            counts = counts_of(request.counts) if tokenizer and hot.tokenizer in (b"", tokenizer) else []
            reply = await self._store.log.commit_summary(keys, hot.version, summary, body, tokenizer, counts)
            if reply.outcome == "STALE":
                raise StaleError
            if reply.outcome == "EXISTS":
                return False
            hot.summarise(summary)
            if counts:
                hot.use_tokenizer(tokenizer)
            for sequence, tokens in counts:
                hot.count(sequence, tokens)
            hot.version = reply.version
            return True

        return api.CommitSummaryResponse(created=await self._store.write(keys, change))

    def _check(self, request: api.CommitSummaryRequest) -> None:
        summary = request.summary
        if summary.last_sequence < summary.first_sequence:
            raise InvalidField("summary.last_sequence", f"expected at least first_sequence, {summary.first_sequence}")
        size = sum(len(sentence.text.encode()) for sentence in summary.sentences)
        if size > self._store.settings.summary_bytes_max:
            raise InvalidField(
                "summary.sentences", f"{size} bytes of text; expected at most {self._store.settings.summary_bytes_max}"
            )

    async def _with_source(
        self, slot: Slot, hot: HotSession, keys: Keys, request: api.CommitSummaryRequest
    ) -> HotSession:
        if not _matches(hot, request):
            hot = await self._store.sessions.fresh(slot)
        if not _matches(hot, request):
            first, last = request.summary.first_sequence, request.summary.last_sequence
            raise IsthmusError(
                errors_pb2.ERROR_REASON_SUMMARY_SOURCE_CHANGED,
                f"sessions/{keys.session}: fragments {first} to {last} are not what the summary was made from;"
                " expected the digest of the log's own",
            )
        return hot


def _matches(hot: HotSession, request: api.CommitSummaryRequest) -> bool:
    """Whether the span is settled and holds what the digest says."""
    summary = request.summary
    settled = hot.open.first_input_sequence - 1 if hot.open else hot.history.revision
    if summary.last_sequence > settled:
        return False
    digests = (hot.history.digest(one) for one in hot.history.live(summary.first_sequence, summary.last_sequence))
    return source_digest(digests) == request.source_digest
