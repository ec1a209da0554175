"""The audits' own rpcs: the hallucination rate, and the verdicts one by one."""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any, Final, TypeAlias

import grpc.aio
from google.protobuf import timestamp_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.gateway.v1 import audit_service_pb2 as contract
from isthmus.gateway.v1 import audit_service_pb2_grpc
from redis.exceptions import RedisError

from gateway.names import session_name
from gateway.tenancy import tenant
from services.audits.keeper import AuditKeeper
from services.audits.record import COUNTERS, AuditRecord
from services.errors import InvalidField, IsthmusError
from services.valkey.failover import expected

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_PAGE_SIZE: Final = 100


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Of the caller's tenant alone."""

    def __init__(self, keeper: AuditKeeper) -> None:
        self._keeper = keeper

    async def GetHallucinationRate(
        self, request: contract.GetHallucinationRateRequest, context: Context
    ) -> contract.HallucinationRate:
        first = _day(request.first_day, "first_day", date.min)
        last = _day(request.last_day, "last_day", date.max)
        if first > last:
            raise InvalidField("first_day", f"is {first}, expected none behind last_day, {last}")
        with _translated():
            found = await self._keeper.rates(tenant(), first, last)
        rows = {key: counts for key, counts in found.items() if request.model in ("", key[1])}
        whole = {name: sum(counts[name] for counts in rows.values()) for name in COUNTERS}
        return contract.HallucinationRate(
            rows=[
                contract.HallucinationRate.Row(day=day, model=model, counts=_counts(counts))
                for (day, model), counts in sorted(rows.items())
            ],
            total=_counts(whole),
        )

    async def ListAudits(self, request: contract.ListAuditsRequest, context: Context) -> contract.ListAuditsResponse:
        size = request.page_size or _PAGE_SIZE
        with _translated():
            page = await self._keeper.page(tenant(), _position(request.page_token), size)
        token = _token(page[-1][0]) if len(page) == size else ""
        return contract.ListAuditsResponse(audits=[_audit(record) for _, record in page], next_page_token=token)


def _counts(counts: Mapping[str, int]) -> contract.ClaimCounts:
    claims = counts["supported"] + counts["contradicted"] + counts["unsupported"]
    rate = (counts["contradicted"] + counts["unsupported"]) / claims if claims else None
    return contract.ClaimCounts(
        audits=counts["audits"],
        claims=claims,
        supported=counts["supported"],
        contradicted=counts["contradicted"],
        unsupported=counts["unsupported"],
        rate=rate,
    )


def _audit(record: AuditRecord) -> contract.Audit:
    return contract.Audit(
        turn=f"{session_name(record.session)}/turns/{record.turn}",
        model=record.model,
        end_time=_time(record.end_ms),
        audit_time=_time(record.audit_ms),
        method=record.method,
        fallback=record.fallback,
        claims=[
            contract.Claim(
                verdict=contract.Claim.Verdict.ValueType(each.verdict),
                start_byte=each.start_byte,
                end_byte=each.end_byte,
                score=each.score,
                sequences=each.sequences,
            )
            for each in record.claims
        ],
        claims_more=record.claims_more,
        window_cut=record.window_cut,
    )


def _time(ms: int) -> timestamp_pb2.Timestamp:
    time = timestamp_pb2.Timestamp()
    time.FromMilliseconds(ms)
    return time


def _day(text: str, field: str, default: date) -> date:
    try:
        return date.fromisoformat(text) if text else default
    except ValueError:
        raise InvalidField(field, f"is {text!r}, expected a day that there is, as 2026-11-30") from None


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _position(token: str) -> str:
    """The name of the last audit that the caller has. INVALID_PAGE_TOKEN for a token that no list gave."""
    try:
        name = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        if name:
            end_ms, _, turn = name.partition("/")
            if len(end_ms) != _END_DIGITS or not turn or not int(end_ms) < _END_MS_MAX:
                raise ValueError(name)
    except (binascii.Error, ValueError):
        message = "page_token: was not given by this list; expected the next_page_token of the page before, or none"
        raise IsthmusError(errors_pb2.ERROR_REASON_INVALID_PAGE_TOKEN, message) from None
    return name


# As names are written, and the end of the year 9999.
_END_DIGITS: Final = 15
_END_MS_MAX: Final = 253_402_300_800_000


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise expected(error) or error from error
