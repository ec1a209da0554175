"""The queue against a list of what became of each request: bounds, order, deadlines, and nothing lost."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.queue import Line, QueueFull, RequestQueue, Ticket, TooLate
from inference.rate import ServiceRate
from services.config import InferenceSettings

RUNNING_MAX, WAITING_MAX, PULLS_MAX = 3, 5, 2
WAITING_TOKENS_MAX, RUNNING_TOKENS_MAX = 100, 60
STEP_S = 1.0
PRIORITIES = st.integers(-3, 3)
# Mostly some that fit together, at times one that fills all.
TOKENS = st.one_of(st.integers(0, 25), st.integers(0, 25), st.integers(0, 130))


def settings(**changed: int) -> InferenceSettings:
    values = {
        "requests_running_max": RUNNING_MAX,
        "requests_waiting_max": WAITING_MAX,
        "pulls_concurrent_max": PULLS_MAX,
        "waiting_tokens_max": WAITING_TOKENS_MAX,
        "running_tokens_max": RUNNING_TOKENS_MAX,
        "priority_step_ms": int(STEP_S * 1000),
        "overload_retry_ms": 50,
        "overload_retry_ms_max": 5_000,
    }
    return InferenceSettings.model_validate(values | changed)


class At(enum.Enum):
    ACCEPTED = enum.auto()
    PULL_LINE = enum.auto()
    PULLING = enum.auto()
    LINE = enum.auto()
    RUNNING = enum.auto()


@dataclass(eq=False)
class Request:
    """A request as the test knows it."""

    ticket: Ticket
    priority: int
    arrived_s: float
    deadline_s: float
    at: At = At.ACCEPTED
    new_tokens: int = 0
    held_tokens: int = 0

    @property
    def order(self) -> tuple[float, float]:
        return self.arrived_s + self.priority * STEP_S, self.arrived_s


class QueueMachine(RuleBasedStateMachine):
    """All that may happen to requests, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue(settings())
        self.now_s = 0.0
        self.requests: list[Request] = []

    def at(self, *places: At) -> list[Request]:
        return [each for each in self.requests if each.at in places]

    def tick(self, seconds: float) -> None:
        # Never the same moment twice, so that the order of arrival is one of the clock.
        self.now_s += seconds + 1e-6

    def advance(self) -> None:
        moves = self.queue.advance(self.now_s)
        known = {each.ticket: each for each in self.requests}
        for ticket in moves.late:
            request = known[ticket]
            assert request.at in (At.PULL_LINE, At.LINE)
            assert request.deadline_s <= self.now_s
            self.forget(request)
        for ticket in moves.placed:
            request = known[ticket]
            assert request.deadline_s > self.now_s, "who is too late never runs"
            self.placed(request)
        self.check_idle()

    def placed(self, request: Request) -> None:
        line, place = (At.PULL_LINE, At.PULLING) if request.at is At.PULL_LINE else (At.LINE, At.RUNNING)
        request.at = place
        for other in self.at(line):
            assert request.order < other.order, "nobody passes who is before him"
            passed_by_s = request.arrived_s - other.arrived_s
            assert passed_by_s <= max(0, other.priority - request.priority) * STEP_S

    def check_idle(self) -> None:
        """No place stays free that the first in line could have."""
        pulls = self.at(At.PULL_LINE)
        assert not pulls or len(self.at(At.PULLING)) == PULLS_MAX
        waiting, running = sorted(self.at(At.LINE), key=lambda each: each.order), self.at(At.RUNNING)
        if waiting and len(running) < RUNNING_MAX:
            assert running
            assert sum(each.held_tokens for each in (*running, waiting[0])) > RUNNING_TOKENS_MAX

    def forget(self, request: Request) -> None:
        self.queue.end(request.ticket)
        self.requests.remove(request)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.tick(seconds)
        self.advance()

    @rule(priority=PRIORITIES, patience_s=st.one_of(st.just(math.inf), st.floats(-1, 5)))
    def come(self, priority: int, patience_s: float) -> None:
        self.tick(0)
        deadline_s = self.now_s + patience_s
        try:
            ticket = self.queue.accept(priority, deadline_s, self.now_s)
        except QueueFull as full:
            assert len(self.requests) == RUNNING_MAX + WAITING_MAX
            check_retry(full)
        except TooLate:
            assert deadline_s <= self.now_s or (math.isfinite(deadline_s) and self.at(At.LINE, At.RUNNING))
        else:
            assert len(self.requests) < RUNNING_MAX + WAITING_MAX
            assert deadline_s > self.now_s
            self.requests.append(Request(ticket, priority, self.now_s, deadline_s))
        self.advance()

    @precondition(lambda self: self.at(At.ACCEPTED))
    @rule(data=st.data())
    def pull(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.at(At.ACCEPTED)))
        request.at = At.PULL_LINE
        if self.queue.pull(request.ticket):
            self.placed(request)
        self.advance()

    @precondition(lambda self: self.at(At.PULLING))
    @rule(data=st.data())
    def have_pulled(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.at(At.PULLING)))
        request.at = At.ACCEPTED
        self.queue.leave(request.ticket)
        self.advance()

    @precondition(lambda self: self.at(At.ACCEPTED))
    @rule(data=st.data(), new_tokens=TOKENS, more_tokens=TOKENS)
    def join(self, data: st.DataObject, new_tokens: int, more_tokens: int) -> None:
        request = data.draw(st.sampled_from(self.at(At.ACCEPTED)))
        waiting_tokens = sum(each.new_tokens for each in self.at(At.LINE))
        try:
            is_placed = self.queue.join(request.ticket, new_tokens, new_tokens + more_tokens, self.now_s)
        except QueueFull as full:
            assert self.at(At.LINE), "a single one may be larger than the bound"
            assert waiting_tokens + new_tokens > WAITING_TOKENS_MAX
            check_retry(full)
            self.forget(request)
        except TooLate:
            assert math.isfinite(request.deadline_s)
            self.forget(request)
        else:
            request.new_tokens, request.held_tokens = new_tokens, new_tokens + more_tokens
            request.at = At.LINE
            if is_placed:
                self.placed(request)
        self.advance()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A reply is whole, or a caller has gone: at any point."""
        self.forget(data.draw(st.sampled_from(self.requests)))
        self.advance()

    @invariant()
    def bounds_hold(self) -> None:
        running, waiting, pulling = self.at(At.RUNNING), self.at(At.LINE), self.at(At.PULLING)
        assert len(self.requests) <= RUNNING_MAX + WAITING_MAX
        assert len(running) <= RUNNING_MAX
        assert len(pulling) <= PULLS_MAX
        assert len(running) <= 1 or sum(each.held_tokens for each in running) <= RUNNING_TOKENS_MAX
        assert len(waiting) <= 1 or sum(each.new_tokens for each in waiting) <= WAITING_TOKENS_MAX

    @invariant()
    def the_queue_knows_as_much(self) -> None:
        engine, pulls = self.queue.engine, self.queue.pulls
        running, waiting = self.at(At.RUNNING), self.at(At.LINE)
        assert self.queue.accepted == len(self.requests)
        assert (engine.placed, engine.waiting) == (len(running), len(waiting))
        assert engine.placed_tokens == sum(each.held_tokens for each in running)
        assert engine.waiting_tokens == sum(each.new_tokens for each in waiting)
        assert (pulls.placed, pulls.waiting) == (len(self.at(At.PULLING)), len(self.at(At.PULL_LINE)))

    def teardown(self) -> None:
        """Whoever is in comes to his turn once others end, or is told that it is too late."""
        while self.at(At.LINE, At.RUNNING, At.PULL_LINE, At.PULLING):
            before = len(self.requests)
            for request in self.at(At.RUNNING, At.PULLING):
                self.forget(request)
            self.advance()
            assert len(self.requests) < before or self.at(At.RUNNING, At.PULLING)


def check_retry(full: QueueFull) -> None:
    assert 50 <= full.retry_ms <= 5_000


TestQueue = QueueMachine.TestCase


def ticket(rank: float, held_tokens: int = 0) -> Ticket:
    return Ticket((rank, 0), math.inf, held_tokens=held_tokens)


def test_nobody_passes_the_first_while_it_does_not_fit() -> None:
    line = Line(places_max=3, tokens_max=10)
    line.place(running := ticket(0, held_tokens=8))
    large, small = ticket(1, held_tokens=9), ticket(2, held_tokens=1)
    line.wait(large)
    line.wait(small)
    assert line.advance(0.0).placed == []
    assert not line.is_free_for(ticket(3, held_tokens=1))
    line.leave(running)
    assert line.advance(0.0).placed == [large, small]


def test_one_that_is_larger_than_the_batch_runs_alone() -> None:
    line = Line(places_max=3, tokens_max=10)
    assert line.is_free_for(ticket(0, held_tokens=50))
    line.place(ticket(0, held_tokens=50))
    assert not line.is_free_for(ticket(1))


@given(st.lists(st.tuples(st.floats(0, 4), PRIORITIES), min_size=1, max_size=40), st.floats(0.1, 3))
def test_nobody_waits_longer_than_his_place_in_line_and_the_urgent_behind_him(
    arrivals: list[tuple[float, int]], service_s: float
) -> None:
    """One place, replies of one length, and more urgent requests as often as one likes."""
    queue = RequestQueue(settings(requests_running_max=1, requests_waiting_max=1_000))
    now_s, came, free_s = 0.0, list[tuple[float, int, Ticket]](), 0.0
    running: Ticket | None = None

    def serve_until(until_s: float) -> None:
        nonlocal running, free_s
        while running is not None and free_s <= until_s:
            queue.end(running)
            moved = queue.advance(free_s).placed
            running, free_s = (moved[0], free_s + service_s) if moved else (None, free_s)
            if running is not None:
                begun[running] = free_s - service_s

    begun: dict[Ticket, float] = {}
    for gap_s, priority in arrivals:
        now_s += gap_s
        serve_until(now_s)
        arrived = queue.accept(priority, math.inf, now_s)
        came.append((now_s, priority, arrived))
        if queue.join(arrived, 0, 0, now_s):
            running, free_s, begun[arrived] = arrived, now_s + service_s, now_s
    serve_until(math.inf)
    assert len(begun) == len(came)
    for arrived_s, priority, own in came:
        rivals = [
            other
            for since_s, urgency, other in came
            if other is not own and since_s + urgency * STEP_S <= arrived_s + priority * STEP_S
        ]
        # Those that go first, and the one that was in the batch already.
        assert begun[own] - arrived_s <= (len(rivals) + 1) * service_s + 1e-6


def fill(queue: RequestQueue, count: int, now_s: float, new_tokens: int = 0) -> list[Ticket]:
    tickets = []
    for _ in range(count):
        tickets.append(queue.accept(0, math.inf, now_s))
        queue.join(tickets[-1], new_tokens, 0, now_s)
    return tickets


def served(queue: RequestQueue, running: list[Ticket], pace_s: float) -> float:
    """Ends one request every `pace_s` seconds, as long as there are any in `running`; the time by then."""
    now_s = 0.0
    for each in running:
        now_s += pace_s
        queue.end(each)
        queue.advance(now_s)
    return now_s


@pytest.mark.parametrize(("pace_s", "retry_ms"), [(0.3, 300), (0.001, 50), (60.0, 5_000)])
def test_a_refused_one_comes_back_when_there_is_room_by_the_pace_of_the_line(pace_s: float, retry_ms: int) -> None:
    queue = RequestQueue(settings(requests_running_max=1, requests_waiting_max=9, waiting_tokens_max=10_000))
    tickets = fill(queue, 10, 0.0)
    now_s = served(queue, tickets[:6], pace_s)
    fill(queue, 6, now_s)
    with pytest.raises(QueueFull, match="10 requests are in work") as full:
        queue.accept(0, math.inf, now_s)
    assert full.value.retry_ms == pytest.approx(retry_ms, rel=0.01)


def test_too_many_tokens_come_back_when_so_many_have_gone() -> None:
    queue = RequestQueue(settings(requests_running_max=1, requests_waiting_max=30))
    now_s = served(queue, fill(queue, 11, 0.0, new_tokens=10)[:6], 0.5)
    large = queue.accept(0, math.inf, now_s)
    with pytest.raises(QueueFull, match="40 tokens wait for the engine; these 80 are over 100") as full:
        queue.join(large, 80, 80, now_s)
    # 20 tokens too many, at 10 tokens in half a second.
    assert full.value.retry_ms == pytest.approx(1_000, rel=0.01)


def test_who_would_come_too_late_is_refused_at_once() -> None:
    queue = RequestQueue(settings(requests_running_max=1, requests_waiting_max=30))
    now_s = served(queue, fill(queue, 10, 0.0)[:6], 1.0)
    # Three wait since the first second, and one a second begins.
    queue.accept(0, now_s + 4.5, now_s)
    with pytest.raises(TooLate):
        queue.accept(0, now_s + 3.5, now_s)
    queue.accept(-7, now_s + 1.5, now_s)
    with pytest.raises(TooLate):
        queue.accept(-7, now_s, now_s)


def test_a_deadline_is_no_matter_while_the_pace_is_unknown() -> None:
    queue = RequestQueue(settings(requests_running_max=1))
    fill(queue, 3, 0.0)
    queue.accept(0, 0.001, 0.0)


@given(
    st.integers(2, 60),
    st.floats(0.01, 10),
    st.lists(st.floats(0, 1_000), max_size=5),
    st.integers(1, 20),
)
def test_the_rate_is_that_of_the_time_with_a_line(
    count: int, pace_s: float, idle_s: list[float], requests: int
) -> None:
    rate, now_s = ServiceRate(), 0.0
    for number in range(count):
        rate.see(now_s, has_line=True)
        now_s += pace_s
        rate.begin(now_s, tokens=7)
        if number < len(idle_s):
            rate.see(now_s, has_line=False)
            now_s += idle_s[number]
    assert rate.requests_s(now_s, requests) == pytest.approx(requests * pace_s, rel=1e-6)
    assert rate.tokens_s(now_s, requests * 7) == pytest.approx(requests * pace_s, rel=1e-6)


def test_a_line_that_stands_still_is_slower_by_the_second() -> None:
    rate = ServiceRate()
    rate.see(0.0, has_line=True)
    assert rate.requests_s(0.0, 1) is None
    for second in (1.0, 2.0, 3.0):
        rate.begin(second, tokens=0)
    assert rate.requests_s(3.0, 1) == pytest.approx(1.0)
    assert rate.requests_s(21.0, 1) == pytest.approx(10.0)
    assert rate.tokens_s(3.0, 1) is None
