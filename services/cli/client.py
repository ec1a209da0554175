"""A small synchronous client of the gateway's SessionService: what the commands and scripts need, with retries."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Final, TypeVar, cast

import grpc
from google.longrunning import operations_pb2_grpc  # type: ignore[import-untyped]
from isthmus.errors.v1 import errors_pb2
from isthmus.gateway.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    cache_service_pb2,
    cache_service_pb2_grpc,
    pool_service_pb2,
    pool_service_pb2_grpc,
)
from isthmus.session.v1 import (
    deletion_pb2,
    document_pb2,
    library_service_pb2_grpc,
    message_pb2,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    turn_pb2,
)

from services.cli.bearer import Bearer
from services.errors import IsthmusError, from_rpc_error

UNARY_S_MAX: Final = 30.0
TURN_S_MAX: Final = 600.0
CANCEL_S_MAX: Final = 5.0
PATIENCE_MS: Final = 15_000
_BACKOFF_MS_MIN: Final = 50
_BACKOFF_MS_MAX: Final = 2_000
_MESSAGE_BYTES_MAX: Final = 16 << 20

_Answer = TypeVar("_Answer")


class Patience:
    """How long a caller goes on trying: a bound on the time without any progress, and growing waits within it."""

    def __init__(self, patience_ms: int = PATIENCE_MS) -> None:
        self._patience_s = patience_ms / 1_000
        self.renew()

    def renew(self) -> None:
        """There was progress."""
        self._deadline = time.monotonic() + self._patience_s
        self._wait_ms = _BACKOFF_MS_MIN

    def wait(self, error: IsthmusError) -> None:
        """Waits before the next attempt; raises the error instead if waiting does not help or took too long."""
        if error.retry_after_ms is None:
            raise error
        wait_s = max(error.retry_after_ms, random.uniform(0.5, 1.0) * self._wait_ms) / 1_000  # noqa: S311
        if time.monotonic() + wait_s > self._deadline:
            raise error
        time.sleep(wait_s)
        self._wait_ms = min(2 * self._wait_ms, _BACKOFF_MS_MAX)


class Client:
    """One gateway. Errors are `IsthmusError`; calls that are safe to repeat are, while waiting helps.

    Every call shows the API key, if one is given.
    """

    def __init__(self, target: str, patience_ms: int = PATIENCE_MS, api_key: str = "") -> None:
        self.target = target
        self._patience_ms = patience_ms
        options = [
            ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        self._channel = grpc.insecure_channel(target, options=options)
        channel = grpc.intercept_channel(self._channel, Bearer(api_key)) if api_key else self._channel
        self.stub = session_service_pb2_grpc.SessionServiceStub(channel)
        self._pools = pool_service_pb2_grpc.PoolServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        self.caches = cache_service_pb2_grpc.CacheServiceStub(channel)
        self.audits = audit_service_pb2_grpc.AuditServiceStub(channel)
        self.libraries = library_service_pb2_grpc.LibraryServiceStub(channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; open calls end as cancelled."""
        self._channel.close()

    def pools(self) -> pool_service_pb2.ListPoolsResponse:
        """The pools as the gateway sees them."""
        request = pool_service_pb2.ListPoolsRequest()
        return self.repeat(lambda: self._pools.ListPools(request, timeout=UNARY_S_MAX))

    def pool(self, pool: str) -> pool_service_pb2.Pool:
        """One of them. Raises NOT_FOUND."""
        request = pool_service_pb2.GetPoolRequest(name=pool_name(pool))
        return self.repeat(lambda: self._pools.GetPool(request, timeout=UNARY_S_MAX))

    def drain_pool(self, pool: str) -> pool_service_pb2.Pool:
        """Has no gateway begin a reply there."""
        request = pool_service_pb2.DrainPoolRequest(name=pool_name(pool))
        return self.repeat(lambda: self._pools.DrainPool(request, timeout=UNARY_S_MAX))

    def resume_pool(self, pool: str) -> pool_service_pb2.Pool:
        """Takes it back into service."""
        request = pool_service_pb2.ResumePoolRequest(name=pool_name(pool))
        return self.repeat(lambda: self._pools.ResumePool(request, timeout=UNARY_S_MAX))

    def ensure_session(self, session_id: str | None) -> session_pb2.Session:
        """The session of this id, made if there is none; None makes one whose id the server chooses."""
        request = session_service_pb2.CreateSessionRequest(session_id=session_id or "")
        try:
            return self.repeat(lambda: self.stub.CreateSession(request, timeout=UNARY_S_MAX))
        except IsthmusError as error:
            if error.reason != errors_pb2.ERROR_REASON_ALREADY_EXISTS:
                raise
        return self.session(session_id or "")

    def session(self, session_id: str) -> session_pb2.Session:
        """The session. Raises NOT_FOUND."""
        request = session_service_pb2.GetSessionRequest(name=session_name(session_id))
        return self.repeat(lambda: self.stub.GetSession(request, timeout=UNARY_S_MAX))

    def sessions(
        self, page_size: int, page_token: str = "", filter_text: str = ""
    ) -> session_service_pb2.ListSessionsResponse:
        """One page of the sessions that the filter takes."""
        request = session_service_pb2.ListSessionsRequest(
            page_size=page_size, page_token=page_token, filter=filter_text
        )
        return self.repeat(lambda: self.stub.ListSessions(request, timeout=UNARY_S_MAX))

    def delete_session(self, session_id: str) -> deletion_pb2.DeletionReceipt:
        """Erases the session. Not repeated: the second time it would not be found."""
        request = session_service_pb2.DeleteSessionRequest(name=session_name(session_id))
        with translated():
            return self.stub.DeleteSession(request, timeout=UNARY_S_MAX)

    def fork_session(self, session_id: str, turn: int, fork_id: str) -> session_pb2.Session:
        """A new session that begins as this one was. Not repeated: the server may have made one by then."""
        request = session_service_pb2.ForkSessionRequest(name=session_name(session_id), turn=turn, session_id=fork_id)
        with translated():
            return self.stub.ForkSession(request, timeout=UNARY_S_MAX)

    def export_session(self, session_id: str) -> Iterator[session_service_pb2.ExportSessionResponse]:
        """The session's records as they come."""
        with translated():
            yield from self.stub.ExportSession(session_service_pb2.ExportSessionRequest(name=session_name(session_id)))

    def import_session(self, requests: Iterator[session_service_pb2.ImportSessionRequest]) -> session_pb2.Session:
        """Makes a session of records, once: a stream that breaks off leaves nothing."""
        with translated():
            return self.stub.ImportSession(requests)

    def turns(self, session_id: str, page_size: int, page_token: str = "") -> session_service_pb2.ListTurnsResponse:
        """One page of a session's turns, oldest first, without their text."""
        request = session_service_pb2.ListTurnsRequest(
            parent=session_name(session_id), page_size=page_size, page_token=page_token
        )
        return self.repeat(lambda: self.stub.ListTurns(request, timeout=UNARY_S_MAX))

    def preview_window(self, session_id: str) -> session_service_pb2.PreviewWindowResponse:
        """The window that the next turn would start from."""
        request = session_service_pb2.PreviewWindowRequest(session=session_name(session_id))
        return self.repeat(lambda: self.stub.PreviewWindow(request, timeout=UNARY_S_MAX))

    def hallucination_rate(self, first_day: str, last_day: str, model: str) -> audit_service_pb2.HallucinationRate:
        """What the critic has found by day and model."""
        request = audit_service_pb2.GetHallucinationRateRequest(first_day=first_day, last_day=last_day, model=model)
        return self.repeat(lambda: self.audits.GetHallucinationRate(request, timeout=UNARY_S_MAX))

    def list_audits(self, page_size: int, page_token: str = "") -> audit_service_pb2.ListAuditsResponse:
        """One page of audited turns, newest first."""
        request = audit_service_pb2.ListAuditsRequest(page_size=page_size, page_token=page_token)
        return self.repeat(lambda: self.audits.ListAudits(request, timeout=UNARY_S_MAX))

    def cache_report(self) -> cache_service_pb2.CacheReport:
        """What the tenant's cached answers were good for."""
        request = cache_service_pb2.GetCacheReportRequest()
        return self.repeat(lambda: self.caches.GetCacheReport(request, timeout=UNARY_S_MAX))

    def mark_wrong(self, turn: str) -> cache_service_pb2.MarkWrongResponse:
        """Tells that a turn was given a wrong cached answer; a second time changes nothing."""
        request = cache_service_pb2.MarkWrongRequest(turn=turn)
        return self.repeat(lambda: self.caches.MarkWrong(request, timeout=UNARY_S_MAX))

    def document(self, session_id: str, document_id: str) -> document_pb2.Document | None:
        """The document as far as it is durable, None if there is none."""
        request = session_service_pb2.GetDocumentRequest(name=f"{session_name(session_id)}/documents/{document_id}")
        try:
            return self.repeat(lambda: self.stub.GetDocument(request, timeout=UNARY_S_MAX))
        except IsthmusError as error:
            if error.reason == errors_pb2.ERROR_REASON_NOT_FOUND:
                return None
            raise

    def ingest(self, parts: Iterator[session_service_pb2.IngestDocumentRequest]) -> document_pb2.Document:
        """Streams a document once, from its header to its end; resuming is the caller's."""
        with translated():
            return self.stub.IngestDocument(parts)

    def run_turn(
        self, session_id: str, text: str, *, request_id: str | None = None, max_output_tokens: int | None = None
    ) -> Generator[session_service_pb2.RunTurnResponse, None, None]:
        """The events of one turn. When the stream breaks, the same request goes on, from a second `accepted`.

        Closing the generator before `done`, or a KeyboardInterrupt while it waits, cancels the turn on the server.
        """
        request = session_service_pb2.RunTurnRequest(
            session=session_name(session_id),
            request_id=request_id or str(uuid.uuid4()),
            messages=[message_pb2.Message(role=message_pb2.ROLE_USER, text=text)],
            params=message_pb2.SamplingParams(max_output_tokens=max_output_tokens),
        )
        patience = Patience(self._patience_ms)
        while True:
            try:
                for event in self._run_turn_once(request):
                    # That it was accepted again is none, nor is the way to a replica that fails each time.
                    if event.HasField("delta"):
                        patience.renew()
                    yield event
                return
            except IsthmusError as error:
                patience.wait(error)

    def _run_turn_once(
        self, request: session_service_pb2.RunTurnRequest
    ) -> Iterator[session_service_pb2.RunTurnResponse]:
        turn = ""
        call = self.stub.RunTurn(request, timeout=TURN_S_MAX)
        try:
            with translated():
                for event in call:
                    turn = "" if event.HasField("done") else event.accepted.turn or turn
                    yield event
        except (KeyboardInterrupt, GeneratorExit):
            if turn:
                self._cancel_turn(turn)
            raise
        finally:
            call.cancel()

    def _cancel_turn(self, name: str) -> turn_pb2.Turn | None:
        # It may be over by now, or the gateway gone; either way nothing is left to cancel.
        with contextlib.suppress(grpc.RpcError):
            return self.stub.CancelTurn(session_service_pb2.CancelTurnRequest(name=name), timeout=CANCEL_S_MAX)
        return None

    def repeat(self, attempt: Callable[[], _Answer]) -> _Answer:
        """The answer of a call that is safe to make again, while waiting helps."""
        patience = Patience(self._patience_ms)
        while True:
            try:
                with translated():
                    return attempt()
            except IsthmusError as error:
                patience.wait(error)


class Reply:
    """A reply's text as it comes, also when a retry tells it from the beginning: what was shown is not shown again."""

    def __init__(self) -> None:
        self._shown = ""
        self._parts: list[str] = []
        self._at = 0

    def begin(self) -> None:
        """The turn was accepted (again): its text comes from the first character."""
        self._shown += "".join(self._parts)
        self._parts.clear()
        self._at = 0

    def feed(self, text: str) -> str:
        """What of this delta is to be shown."""
        known = self._shown[self._at : self._at + len(text)]
        if not text.startswith(known):
            return self._begin_anew(text)
        self._at += len(text)
        self._parts.append(text[len(known) :])
        return text[len(known) :]

    def _begin_anew(self, text: str) -> str:
        retold = self._shown[: self._at] + text
        self._shown, self._parts, self._at = "", [retold], len(retold)
        return f"\n[the reply was lost on its way and begins anew]\n{retold}"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """gRPC's errors as the ones the server raised."""
    try:
        yield
    except grpc.RpcError as error:
        # A synchronous call's error has the same methods as an asynchronous one's.
        raise from_rpc_error(cast("grpc.aio.AioRpcError", error)) from None


def session_name(session_id: str) -> str:
    """`sessions/{id}`, also for a name that is one already."""
    return f"sessions/{session_id.removeprefix('sessions/')}"


def pool_name(pool: str) -> str:
    """`pools/{name}`, also for a name that is one already."""
    return f"pools/{pool.removeprefix('pools/')}"


def session_id(session: session_pb2.Session) -> str:
    """The id in a session's name."""
    return session.name.removeprefix("sessions/")
