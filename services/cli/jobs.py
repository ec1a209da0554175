"""`jobs`: turns in the background, through the gateway's operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from isthmus.session.v1 import operation_pb2, turn_pb2

from services.cli.client import UNARY_S_MAX, translated
from services.cli.commands import calling
from services.cli.errors import EXIT_USAGE, CliError
from services.cli.output import console, print_json, table_of
from services.cli.plain import plain
from services.cli.target import Target
from services.errors import reason_name

_PAGE_COUNT_MAX: Final = 1_000
_NAMES: Final = re.compile(
    r"(?:resp_(?P<s1>[a-z0-9-]+)_(?P<t1>\d+)|(?:sessions/)?(?P<s2>[a-z0-9-]+)/(?:turns/)?(?P<t2>\d+)(?:/operation)?)"
)


def list_jobs(shelf: str, limit: int, target: Target, *, as_json: bool) -> None:
    """At most `limit` jobs of a shelf, LIVE, DEAD or ENDED, newest first."""
    found: list[operations_pb2.Operation] = []
    token = ""
    with calling(target) as client, translated():
        while len(found) < limit:
            request = operations_pb2.ListOperationsRequest(
                filter=f"state = {shelf}", page_size=min(limit - len(found), _PAGE_COUNT_MAX), page_token=token
            )
            page = client.operations.ListOperations(request, timeout=UNARY_S_MAX)
            found += page.operations
            token = page.next_page_token
            if not token:
                break
    if as_json:
        print_json({"jobs": [_document(each) for each in found]})
        return
    table = table_of("job", "state", ">attempt", "created", "why")
    for each in found:
        told = _metadata(each)
        created = told.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(_short(each.name), _state(told), str(told.attempt), created, _why(told))
    console().print(table if found else {"DEAD": "no dead letters"}.get(shelf, "no jobs"))


def show_job(name: str, target: Target, *, as_json: bool) -> None:
    """One job, with its turn once that is done."""
    request = operations_pb2.GetOperationRequest(name=_full(name))
    with calling(target) as client, translated():
        found = client.operations.GetOperation(request, timeout=UNARY_S_MAX)
    if as_json:
        print_json({"job": _document(found)})
        return
    told, out = _metadata(found), console()
    out.print(f"{_short(found.name)}: {_state(told)}, attempt {told.attempt}", markup=False)
    if told.output_bytes and not found.done:
        out.print(f"{told.output_bytes:,} bytes of its reply so far")
    if _why(told):
        out.print(_why(told), markup=False)
    turn = turn_pb2.Turn()
    if found.response.Unpack(turn):
        out.print(turn.output_text, markup=False)


def cancel_jobs(names: Sequence[str], target: Target, *, as_json: bool) -> None:
    """Cancels jobs."""
    full = [_full(name) for name in names]
    with calling(target) as client, translated():
        for name in full:
            client.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name), timeout=UNARY_S_MAX)
            if not as_json:
                console().print(f"{_short(name)} is cancelled", markup=False)
    if as_json:
        print_json({"cancelled": full})


def replay_jobs(names: Sequence[str], target: Target, *, as_json: bool) -> None:
    """Runs dead letters anew."""
    full = [_full(name) for name in names]
    replayed = []
    with calling(target) as client, translated():
        for name in full:
            request = operation_pb2.ReplayTurnRequest(name=name)
            again = client.stub.ReplayTurn(request, timeout=UNARY_S_MAX)
            replayed.append({"job": name, "replay": again.name})
            if not as_json:
                console().print(f"{_short(name)} runs anew as {_short(again.name)}", markup=False)
    if as_json:
        print_json({"replayed": replayed})


def _full(name: str) -> str:
    match = _NAMES.fullmatch(name)
    if match is None:
        message = f"JOB {name[:128]!r}: expected SESSION/TURN, resp_SESSION_TURN or sessions/…/turns/…/operation"
        raise CliError("USAGE", message, exit_code=EXIT_USAGE)
    return f"sessions/{match['s1'] or match['s2']}/turns/{match['t1'] or match['t2']}/operation"


def _short(name: str) -> str:
    _, session, _, turn, _ = name.split("/")
    return f"{session}/{turn}"


def _metadata(operation: operations_pb2.Operation) -> operation_pb2.TurnOperationMetadata:
    told = operation_pb2.TurnOperationMetadata()
    operation.metadata.Unpack(told)
    return told


def _state(told: operation_pb2.TurnOperationMetadata) -> str:
    state = operation_pb2.TurnOperationMetadata.State.Name(told.state).removeprefix("STATE_").lower()
    return "dead" if told.dead else state


def _why(told: operation_pb2.TurnOperationMetadata) -> str:
    if not told.HasField("last_error"):
        return ""
    return f"{reason_name(told.last_error.reason)}: {told.last_error.message}"


def _document(operation: operations_pb2.Operation) -> dict[str, Any]:
    document = {"name": operation.name, "done": operation.done, **plain(_metadata(operation))}
    turn = turn_pb2.Turn()
    if operation.response.Unpack(turn):
        document["response"] = plain(turn)
    return document
