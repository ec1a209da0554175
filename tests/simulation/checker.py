"""Whether the log that is there at the end is one that the clients' history allows, with none of the store's code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby

from isthmus.session.v1 import fragment_pb2, turn_pb2

from tests.simulation.history import Answered, History, Opened, Renewed, Written
from tests.simulation.stored import Piece, Stored

_DONE = turn_pb2.Turn.STATE_DONE
_REPLY = fragment_pb2.FRAGMENT_KIND_REPLY


def violations(session: str, stored: Stored, history: History, *, is_lease_safe: bool) -> Iterator[str]:
    """What is wrong with one session. `is_lease_safe`: no primary was lost, and with it a renewal."""
    checks = [_gaps, _erasures, _turns, _answers, _once, _written, _interleaving, _order, _fences]
    for check in [*checks, _leases] if is_lease_safe else checks:
        for message in check(session, stored, history):
            yield f"{session}: {message}"


def _answered(session: str, history: History) -> list[Answered]:
    return [one for one in history.answered if one.session == session and history.is_of_now(session, one.began)]


def _written_in(session: str, history: History) -> list[Written]:
    return [one for one in history.written if one.session == session and history.is_of_now(session, one.began)]


def _gaps(session: str, stored: Stored, history: History) -> Iterator[str]:
    numbers = {*stored.pieces, *stored.erased} - set(range(1, stored.shared + 1))
    if numbers != set(range(stored.shared + 1, stored.revision + 1)):
        yield f"the log of revision {stored.revision} has the sequence numbers {sorted(numbers)}"


def _erasures(session: str, stored: Stored, history: History) -> Iterator[str]:
    for sequence in stored.erased:
        if sequence in stored.pieces:
            yield f"fragment {sequence} is erased and there"
        if sequence > stored.shared and (session, sequence) not in history.erasing:
            yield f"fragment {sequence} is erased and nobody asked for it"
    for (where, sequence), began in history.erased.items():
        if where == session and sequence in stored.pieces and history.is_of_now(session, began):
            yield f"fragment {sequence} is there, its erasure was acknowledged"


def _turns(session: str, stored: Stored, history: History) -> Iterator[str]:
    """The turns' table agrees with itself, with the log and with the requests."""
    count = int(stored.meta[b"turn_count"])
    first = count - len(stored.turns) + 1 if stored.is_fork else 1
    if sorted(stored.turns) != list(range(first, count + 1)):
        yield f"{count} turns, of which there are {sorted(stored.turns)}"
    open_turn = int(stored.meta[b"open_turn"])
    for number, turn in stored.turns.items():
        is_void = turn.state not in (turn_pb2.Turn.STATE_OPEN, _DONE)
        if is_void != (number in stored.void):
            yield f"turn {number} is {_state(turn.state)}, void turns are {sorted(stored.void)}"
        if (turn.state == turn_pb2.Turn.STATE_OPEN) != (number == open_turn):
            yield f"turn {number} is {_state(turn.state)}, the open turn is {open_turn}"
        said = "".join(_texts(stored, number, is_reply=False))
        asked = "".join(history.requests[turn.request_id])
        if not _is_part(said, asked, stored, turn.first_input_sequence, turn.last_input_sequence):
            yield f"turn {number} of {turn.request_id} holds {said!r}, asked was {asked!r}"
    for request, entry in stored.requests.items():
        if entry[0] != "A" and stored.turns[int(entry[1:])].request_id != request:
            yield f"request {request} has turn {entry[1:]}, which is of {stored.turns[int(entry[1:])].request_id}"


def _answers(session: str, stored: Stored, history: History) -> Iterator[str]:
    """What callers were told of a turn is what it is, and the same for each of them."""
    by_turn = defaultdict(set)
    for one in _answered(session, history):
        by_turn[one.turn].add((one.state, one.output))
        turn = stored.turns.get(one.turn)
        if turn is None or turn.state != one.state:
            there = _state(turn.state) if turn else "not there"
            yield f"turn {one.turn} was answered as {_state(one.state)} and is {there}"
        elif one.output is not None:
            said = "".join(_texts(stored, one.turn, is_reply=True))
            first, last = turn.first_output_sequence, turn.last_output_sequence
            if not _is_part(said, one.output, stored, first, last):
                yield f"turn {one.turn} was answered with {one.output!r} and holds {said!r}"
            if turn.request_id != one.request:
                yield f"turn {one.turn} was answered to {one.request} and is of {turn.request_id}"
    for number, told in by_turn.items():
        # An erased fragment shortens the text for those who ask later.
        outputs = {output for _, output in told}
        is_erased = any(where == session for where, _ in history.erasing)
        if len({state for state, _ in told}) > 1 or (len(outputs) > 1 and not is_erased):
            yield f"turn {number} was answered in {len(told)} ways: {sorted(map(str, told))}"


def _once(session: str, stored: Stored, history: History) -> Iterator[str]:
    """No request has taken effect twice."""
    done = defaultdict(list)
    for number, turn in stored.turns.items():
        if turn.state == _DONE:
            done[turn.request_id].append(number)
    for request, numbers in done.items():
        if len(numbers) > 1:
            yield f"request {request} was carried out as turns {numbers}"
    texts = [piece.text for piece in stored.live() if piece.kind != _REPLY and not piece.document]
    for key in history.requests:
        count = sum(text.startswith(f"{key}.0 ") for text in texts)
        if count > 1:
            yield f"the messages of {key} are in the log {count} times"


def _written(session: str, stored: Stored, history: History) -> Iterator[str]:
    """Appended messages are where their callers were told, documents are whole."""
    for one in _written_in(session, history):
        if one.key in history.documents:
            name = f"sessions/{session}/documents/{one.key}"
            there = "".join(piece.text for piece in stored.live() if piece.document == name)
            wanted = history.documents[one.key]
            first, last = min(one.sequences), max(one.sequences)
        else:
            # `A<first>-<last>`: a caller who asks again is not told of fragments that were erased since.
            first, last = (int(number) for number in stored.requests.get(one.key, "A0-0")[1:].split("-"))
            there = "".join(stored.pieces[at].text for at in range(first, last + 1) if at in stored.pieces)
            wanted = "".join(history.requests[one.key])
        if not _is_part(there, wanted, stored, first, last):
            yield f"{one.key} wrote {wanted!r} at {one.sequences}, there is {there!r}"


def _interleaving(session: str, stored: Stored, history: History) -> Iterator[str]:
    """Between a turn's first and last fragment there are only its own, and documents'."""
    order = [piece.turn for piece in stored.live() if not piece.document]
    blocks = [turn for turn, _ in groupby(order) if turn]
    if len(set(blocks)) != len(blocks):
        yield f"turns are interleaved: {order}"
    if [*dict.fromkeys(blocks)] != sorted(set(blocks)):
        yield f"turns are out of order: {order}"


def _order(session: str, stored: Stored, history: History) -> Iterator[str]:
    """What was acknowledged before something else began is in front of it."""
    spans = [
        (one.began, one.ended, one.first_input, one.last_sequence, f"turn {one.turn}")
        for one in _answered(session, history)
        if one.state == _DONE
    ]
    spans += [
        (one.began, one.ended, min(one.sequences), max(one.sequences), one.key)
        for one in _written_in(session, history)
        if one.key not in history.documents
    ]
    for _, ended, _, last, earlier in spans:
        for began, _, first, _, later in spans:
            if ended < began and last >= first:
                yield f"{earlier} was acknowledged before {later} began and is behind it"


def _fences(session: str, stored: Stored, history: History) -> Iterator[str]:
    """A turn that was taken over is not committed by the driver who lost it, and none that was opened is forgotten."""
    for one in history.opened:
        if one.session != session or not history.is_of_now(session, one.began):
            continue
        turn = stored.turns.get(one.turn)
        if turn is None or turn.request_id != one.request:
            yield f"turn {one.turn} was opened for {one.request} and is {turn.request_id if turn else 'not there'}"
        elif turn.state == _DONE and turn.attempt < one.attempt:
            yield f"turn {one.turn} is done by attempt {turn.attempt}, attempt {one.attempt} had taken it over"


def _leases(session: str, stored: Stored, history: History) -> Iterator[str]:
    """Nobody takes a turn over while its driver's lease lives."""
    holders: list[Opened | Renewed] = [*history.opened, *history.renewed]
    for later in history.opened:
        if later.session != session or not later.is_taken_over or not history.is_of_now(session, later.began):
            continue
        for earlier in holders:
            is_before = earlier.turn == later.turn and earlier.attempt < later.attempt
            is_held = later.at_s < earlier.until_s and history.is_of_now(session, earlier.began)
            if earlier.session == session and is_before and is_held:
                yield (
                    f"turn {later.turn} was taken over at {later.at_s * 1000:.1f} ms, attempt {earlier.attempt} had it"
                    f" until {earlier.until_s * 1000:.1f} ms"
                )


def _texts(stored: Stored, turn: int, *, is_reply: bool) -> list[str]:
    return [piece.text for piece in _of_turn(stored, turn) if (piece.kind == _REPLY) == is_reply]


def _of_turn(stored: Stored, turn: int) -> list[Piece]:
    return [piece for _, piece in sorted(stored.pieces.items()) if piece.turn == turn]


def _is_part(there: str, wanted: str, stored: Stored, first: int, last: int) -> bool:
    """Whether a text is there as it should be, but for fragments of it that were erased."""
    if any(first <= sequence <= last for sequence in stored.erased):
        letters = iter(wanted)
        return all(letter in letters for letter in there)
    return there == wanted


def _state(state: turn_pb2.Turn.State.ValueType) -> str:
    return turn_pb2.Turn.State.Name(state).removeprefix("STATE_")
