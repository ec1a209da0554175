"""One audit: the turn and its window are read, each claim of the reply is judged, and the verdict kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2
from redis.exceptions import RedisError

from compressor.critic.metrics import CriticMetrics
from compressor.critic.model import CriticModel
from compressor.critic.sources import Sources
from services.audits.keeper import AuditKeeper, Kept
from services.audits.record import AuditRecord, ClaimRecord
from services.claims.judge import Claims, Judged
from services.config import CompressorSettings
from services.errors import IsthmusError, UpstreamUnavailable, reason_name
from services.router import Router
from services.tool_calls import CLOSE, OPEN
from services.valkey.failover import expected

_LEXICAL: Final = "lexical"
_MODEL: Final = "model:"
# The audit has lost its object: nothing to do, and nothing to repair.
GONE: Final = frozenset({errors_pb2.ERROR_REASON_NOT_FOUND, errors_pb2.ERROR_REASON_WINDOW_CHANGED})
_log: Final = structlog.get_logger("critic")


@dataclass(frozen=True, slots=True)
class AuditedTurn:
    """Which turn is audited."""

    tenant: str
    session: str
    number: int


class Auditor:
    """Doing an audit again changes nothing: a turn has one verdict, the first one that is kept."""

    def __init__(
        self, router: Router, keeper: AuditKeeper, settings: CompressorSettings, metrics: CriticMetrics
    ) -> None:
        self._router = router
        self._keeper = keeper
        self._settings = settings
        self.metrics = metrics
        self._critic = CriticModel(router, settings.audits)

    async def audit(self, audited: AuditedTurn) -> None:
        """Judges the turn and keeps the verdict. Raises UPSTREAM_UNAVAILABLE or NOT_READY while a shard or Valkey is
        away, NOT_FOUND if the session is gone, and WINDOW_CHANGED if its window has begun anew since.
        """
        try:
            outcome = await self._audited(audited)
        except RedisError as error:
            raise expected(error) or UpstreamUnavailable(f"the audit cannot be kept: {error}") from error
        self.metrics.audited(outcome)

    async def _audited(self, audited: AuditedTurn) -> str:
        sources = Sources(self._router, self._settings, audited.tenant, audited.session)
        turn = await sources.turn(audited.number)
        if turn.state != turn_pb2.Turn.STATE_DONE or not turn.output_text:
            return "nothing"
        record = AuditRecord(
            session=audited.session,
            turn=audited.number,
            model=turn.receipt.model or turn.model,
            end_ms=turn.end_time.ToMilliseconds(),
            audit_ms=self._keeper.now_ms(),
            method=_LEXICAL,
        )
        if await self._keeper.has(audited.tenant, record):
            return "already"
        text = turn.output_text
        claims = await asyncio.to_thread(Claims, without_calls(text), self._settings.audits.claims_count_max)
        is_cut = await self._read(sources, turn.receipt.window, claims)
        judged, method, fallback = await self._judged(audited, claims)
        record = msgspec.structs.replace(
            record,
            method=method,
            fallback=fallback,
            claims=tuple(_claims(text, judged)),
            claims_more=claims.more,
            window_cut=is_cut,
        )
        kept = await self._keeper.keep(audited.tenant, record)
        if kept is Kept.NEW:
            self.metrics.judged(record)
            _log.info("reply judged", session=audited.session, turn=audited.number, **record.counts(), method=method)
        return kept.name.lower()

    async def _read(self, sources: Sources, report: turn_pb2.WindowReport, claims: Claims) -> bool:
        """Holds the claims against the window, as far as it may be read; whether there is more of it."""
        left = self._settings.audits.window_bytes_max
        if not len(claims) or not report.item_count:
            return False
        async with aclosing(sources.window(report)) as items:
            async for item in items:
                left -= len(item.text.encode())
                if left < 0:
                    return True
                text = f"{item.author}: {item.text}" if item.author else item.text
                await asyncio.to_thread(claims.read, text, item.first_sequence)
        return False

    async def _judged(self, audited: AuditedTurn, claims: Claims) -> tuple[Sequence[Judged], str, str]:
        """The verdicts, who gave them, and why it was not the critic model."""
        judged = await asyncio.to_thread(claims.judged)
        critic = self._settings.audits.critic
        if not critic or not judged:
            return judged, _LEXICAL, ""
        passages = [[passage.text for passage in each.passages] for each in judged]
        name = f"{audited.session}/{audited.number}"
        try:
            verdicts = await self._critic.verdicts(audited.tenant, name, claims.texts(), passages)
        except IsthmusError as error:
            _log.warning("critic model failed", turn=name, error=str(error))
            self.metrics.fell_back()
            return judged, _LEXICAL, reason_name(error.reason)
        told = [replace(each, verdict=verdict) for each, verdict in zip(judged, verdicts, strict=True)]
        return told, f"{_MODEL}{critic}", ""


def without_calls(text: str) -> str:
    """A reply with its calls blanked out, so that places in characters stay what they are: a call claims nothing."""
    begin = text.find(OPEN)
    while begin >= 0:
        end = text.find(CLOSE, begin)
        end = len(text) if end < 0 else end + len(CLOSE)
        text = text[:begin] + "\n" * (end - begin) + text[end:]
        begin = text.find(OPEN, end)
    return text


def _claims(text: str, judged: Sequence[Judged]) -> Sequence[ClaimRecord]:
    """The claims with their places in bytes."""
    found = []
    characters = size = 0
    for each in judged:
        start, end = each.span
        start_byte = size + len(text[characters:start].encode())
        characters, size = end, start_byte + len(text[start:end].encode())
        sequences = tuple(dict.fromkeys(passage.sequence for passage in each.passages))
        found.append(ClaimRecord(int(each.verdict), start_byte, size, each.score, sequences))
    return found
