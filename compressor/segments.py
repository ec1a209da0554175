"""Summaries of segments: read a span of a session's log, keep an eighth of it, commit that."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
from isthmus.context.v1 import context_service_pb2 as contract
from isthmus.context.v1 import context_service_pb2_grpc, summary_pb2
from isthmus.session.v1 import fragment_pb2

from compressor.counting import TokenCounter
from compressor.extract import METHOD, VERSION, Extractor, Source, estimate_tokens
from compressor.fit import Extract, fit
from compressor.sentences import SentenceSplitter
from services.config import CompressorSettings
from services.digest import source_digest
from services.errors import IsthmusError, from_rpc_error
from services.router import STORE, Router

_SERVICE: Final = "/isthmus.context.v1.ContextService/"
READ_FRAGMENTS: Final = f"{_SERVICE}ReadFragments"
COMMIT_SUMMARY: Final = f"{_SERVICE}CommitSummary"

_LEVEL: Final = 1
# What the contract allows in one commit.
_COUNTS_MAX: Final = 4_096

_log = structlog.get_logger("segments")


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a session's log, both ends included."""

    tenant: str
    session: str
    first: int
    last: int

    @property
    def key(self) -> contract.SessionKey:
        return contract.SessionKey(tenant=self.tenant, session=self.session)


class SegmentSummariser:
    """Makes level-1 summaries and commits them to the session's shard.

    Doing it again changes nothing: the same log gives the same summary, and the store keeps the one that stands.
    """

    def __init__(self, router: Router, settings: CompressorSettings) -> None:
        self._router = router
        self._settings = settings
        self._splitter = SentenceSplitter(settings.sentence_chars_max)

    async def summarise(self, segment: Segment, *, counted: bool) -> None:
        """Commits the segment's summary, with exact counts; without, if `counted` is false and no replica answers.

        Raises UPSTREAM_UNAVAILABLE or NOT_READY while the store is away, NOT_FOUND if the session is gone, and
        SUMMARY_SOURCE_CHANGED if its log moved under the work.
        """
        fragments = await self._read(segment)
        counter = TokenCounter(self._router, self._settings, segment.tenant, segment.session)
        try:
            tokens = await counter.fragments(fragments)
            extract = await self._extract(fragments, tokens, counter)
        except IsthmusError as error:
            if counted:
                raise
            _log.warning("summary without counts", session=segment.session, first=segment.first, error=error.message)
            counter.tokenizer = b""
            tokens = []
            extract = await self._extract(fragments, [estimate_tokens(each.text) for each in fragments], None)
        if not extract.pieces:
            _log.info("nothing to summarise", session=segment.session, first=segment.first, last=segment.last)
            return
        await self._commit(segment, _request(segment, fragments, tokens, extract, counter.tokenizer))

    async def _extract(
        self, fragments: Sequence[fragment_pb2.Fragment], tokens: Sequence[int], counter: TokenCounter | None
    ) -> Extract:
        sources = [Source(each.text, count) for each, count in zip(fragments, tokens, strict=True)]
        tokens_max = min(self._settings.summary_tokens_max, math.ceil(sum(tokens) * self._settings.summary_ratio))
        extractor = await asyncio.to_thread(Extractor, sources, self._splitter)
        if counter is None:
            return Extract(extractor.choose(tokens_max), 0)
        return await fit(extractor, tokens_max, counter.text, self._settings.fit_attempts_count_max)

    async def _read(self, segment: Segment) -> list[fragment_pb2.Fragment]:
        request = contract.ReadFragmentsRequest(
            key=segment.key, first_sequence=segment.first, last_sequence=segment.last
        )
        member, stub = self._stub(segment)
        try:
            return [
                fragment
                async for response in stub.ReadFragments(request, timeout=self._settings.call_ms_max / 1000)
                for fragment in response.fragments
            ]
        except grpc.aio.AioRpcError as error:
            raise self._failed(member, error) from error

    async def _commit(self, segment: Segment, request: contract.CommitSummaryRequest) -> None:
        member, stub = self._stub(segment)
        try:
            response = await stub.CommitSummary(request, timeout=self._settings.call_ms_max / 1000)
        except grpc.aio.AioRpcError as error:
            raise self._failed(member, error) from error
        _log.info(
            "summary committed",
            session=segment.session,
            first=segment.first,
            last=segment.last,
            tokens=request.summary.tokens,
            created=response.created,
        )

    def _stub(self, segment: Segment) -> tuple[str, context_service_pb2_grpc.ContextServiceAsyncStub]:
        member, channel = self._router.store(segment.tenant, segment.session)
        return member, context_service_pb2_grpc.ContextServiceStub(channel)

    def _failed(self, member: str, error: grpc.aio.AioRpcError) -> IsthmusError:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._router.suspect(STORE, member)
        return from_rpc_error(error)


def _request(
    segment: Segment,
    fragments: Sequence[fragment_pb2.Fragment],
    tokens: Sequence[int],
    extract: Extract,
    tokenizer: bytes,
) -> contract.CommitSummaryRequest:
    summary = summary_pb2.Summary(
        first_sequence=segment.first,
        last_sequence=segment.last,
        level=_LEVEL,
        method=METHOD,
        version=VERSION,
        sentences=[
            summary_pb2.Summary.Sentence(text=piece.text, sequence=fragments[piece.source].sequence)
            for piece in extract.pieces
        ],
        tokens=extract.tokens,
        tokenizer=tokenizer,
    )
    counts = [
        summary_pb2.TokenCount(sequence=fragment.sequence, tokens=count)
        for fragment, count in zip(fragments, tokens, strict=False)
    ]
    return contract.CommitSummaryRequest(
        key=segment.key,
        summary=summary,
        source_digest=source_digest(fragment.digest for fragment in fragments),
        counts=counts[:_COUNTS_MAX],
    )
