"""Who stays open in the engine: never over a budget, never at the expense of a request, idle longest leaves first."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference.residents import Ask, Bounds, Place, Residents, Turn

ROOMY = Bounds(
    count_max=2, tokens_max=1_000, tokens_min=100, idle_s=60.0, slots_count=8, capacity_tokens=4_000, block_tokens=10
)


def ask(session: str, prompt_tokens: int = 200, **more: bool) -> Ask:
    return Ask(session, prompt_tokens, 40, **more)


def park(residents: Residents, session: str, now_s: float, prompt_tokens: int = 200) -> None:
    """Has the session seen twice, so that it is open and idle at `now_s`."""
    residents.end(residents.begin(ask(session, prompt_tokens), now_s), None, now_s)
    turn = residents.begin(ask(session, prompt_tokens), now_s)
    assert turn.place is Place.OPENED
    assert residents.end(turn, prompt_tokens, now_s)


def test_a_session_stays_from_its_second_turn_on_and_is_resumed_in_the_third() -> None:
    residents = Residents(ROOMY)
    first = residents.begin(ask("a"), 0.0)
    assert first.place is Place.ALONE
    assert not residents.end(first, 210, 1.0)
    second = residents.begin(ask("a"), 2.0)
    assert second.place is Place.OPENED
    assert residents.end(second, 215, 3.0)
    assert (residents.parked, residents.tokens) == (("a",), 220), "held in whole blocks"
    third = residents.begin(ask("a", 300, continues=True), 4.0)
    assert (third.place, third.tokens, third.leaving) == (Place.RESUMED, 340, ())
    assert residents.parked == ()


def test_turns_too_far_apart_do_not_make_a_session_hot() -> None:
    residents = Residents(ROOMY)
    for now_s in (0.0, 61.0, 122.0):
        turn = residents.begin(ask("a"), now_s)
        assert turn.place is Place.ALONE
        residents.end(turn, None, now_s)


def test_a_session_idles_from_the_end_of_its_turn_however_long_that_took() -> None:
    residents = Residents(ROOMY)
    first = residents.begin(ask("a"), 0.0)
    residents.end(first, None, 100.0)
    turn = residents.begin(ask("a"), 160.0)
    assert turn.place is Place.OPENED
    residents.end(turn, None, 300.0)
    assert residents.begin(ask("a"), 361.0).place is Place.ALONE


def test_a_session_forgotten_in_its_turn_is_not_seen_by_its_end() -> None:
    residents = Residents(ROOMY)
    turn = residents.begin(ask("a"), 0.0)
    residents.forget("a")
    residents.end(turn, None, 1.0)
    assert residents.begin(ask("a"), 2.0).place is Place.ALONE


def test_a_short_window_a_nameless_session_and_a_turn_of_its_own_kind_are_served_alone() -> None:
    residents = Residents(ROOMY)
    for each in (ask("a", 99), ask(""), ask("b", lasting=False)):
        for now_s in (0.0, 1.0):
            turn = residents.begin(each, now_s)
            assert turn.place is Place.ALONE
            residents.end(turn, None, now_s)


def test_a_turn_of_its_own_kind_leaves_the_resident_where_it_is() -> None:
    residents = Residents(ROOMY)
    park(residents, "a", 0.0)
    turn = residents.begin(ask("a", 300, lasting=False, continues=True), 1.0)
    assert (turn.place, turn.leaving, residents.parked) == (Place.ALONE, (), ("a",))


def test_a_window_that_began_anew_closes_its_session_and_opens_another() -> None:
    residents = Residents(ROOMY)
    park(residents, "a", 0.0)
    turn = residents.begin(ask("a", 150, continues=False), 1.0)
    assert (turn.place, turn.leaving) == (Place.OPENED, ("a",))


def test_a_window_that_outgrew_the_budget_leaves() -> None:
    residents = Residents(ROOMY)
    park(residents, "a", 0.0)
    turn = residents.begin(ask("a", 1_000, continues=True), 1.0)
    assert (turn.place, turn.leaving, residents.count) == (Place.ALONE, ("a",), 0)


def test_a_second_request_on_a_session_in_its_turn_is_served_alone() -> None:
    residents = Residents(ROOMY)
    park(residents, "a", 0.0)
    first = residents.begin(ask("a", continues=True), 1.0)
    second = residents.begin(ask("a", continues=True), 1.0)
    assert (first.place, second.place, second.leaving) == (Place.RESUMED, Place.ALONE, ())


def test_who_idles_longest_leaves_for_a_new_resident() -> None:
    residents = Residents(ROOMY)
    park(residents, "a", 0.0)
    park(residents, "b", 1.0)
    assert residents.end(residents.begin(ask("a", 210, continues=True), 2.0), 250, 2.0)
    residents.end(residents.begin(ask("c"), 3.0), None, 3.0)
    turn = residents.begin(ask("c"), 4.0)
    assert (turn.place, turn.leaving) == (Place.OPENED, ("b",))


def test_parked_sessions_leave_when_requests_need_their_places() -> None:
    residents = Residents(Bounds(2, 1_000, 100, 60.0, slots_count=3, capacity_tokens=4_000))
    park(residents, "a", 0.0)
    park(residents, "b", 1.0)
    assert residents.begin(ask(""), 2.0).leaving == ()
    assert residents.begin(ask(""), 2.0).leaving == ("a",)
    assert residents.begin(ask(""), 2.0).leaving == ("b",)
    assert residents.begin(ask(""), 2.0).leaving == ()


def test_parked_sessions_leave_when_requests_need_their_keys_and_values() -> None:
    residents = Residents(Bounds(2, 1_000, 100, 60.0, slots_count=8, capacity_tokens=1_500))
    park(residents, "a", 0.0)
    park(residents, "b", 1.0)
    assert residents.begin(ask("", 1_100), 2.0).leaving == ("a",)


def test_a_session_does_not_park_while_the_engine_is_over_full() -> None:
    residents = Residents(Bounds(2, 1_000, 100, 60.0, slots_count=2, capacity_tokens=4_000))
    residents.end(residents.begin(ask("a"), 0.0), None, 0.0)
    turn = residents.begin(ask("a"), 0.0)
    others = [residents.begin(ask(""), 1.0) for _ in range(2)]
    assert not residents.end(turn, 200, 2.0)
    assert all(not residents.end(each, None, 3.0) for each in others)


def test_an_idle_session_leaves_at_its_time() -> None:
    residents = Residents(ROOMY)
    assert residents.expire(1_000.0) == ()
    park(residents, "a", 0.0)
    park(residents, "b", 5.0)
    assert residents.expires_s == 60.0
    assert residents.expire(59.9) == ()
    assert residents.expire(60.0) == ("a",)
    assert residents.expires_s == 65.0


def test_a_forgotten_session_is_closed_at_once_or_after_its_turn() -> None:
    residents = Residents(ROOMY)
    park(residents, "a", 0.0)
    assert residents.forget("a")
    assert not residents.forget("a")
    park(residents, "b", 1.0)
    turn = residents.begin(ask("b", continues=True), 2.0)
    assert not residents.forget("b")
    assert not residents.end(turn, 200, 3.0)
    again = residents.begin(ask("b"), 4.0)
    assert again.place is Place.ALONE, "what is forgotten was never seen"


class Engine(RuleBasedStateMachine):
    """Requests that come and go at random, and what must hold after each."""

    @initialize(
        count_max=st.integers(1, 3),
        tokens_max=st.integers(20, 60),
        slots_count=st.integers(2, 5),
        capacity_tokens=st.integers(30, 60),
        block_tokens=st.sampled_from([1, 4]),
    )
    def load(self, count_max: int, tokens_max: int, slots_count: int, capacity_tokens: int, block_tokens: int) -> None:
        self.residents = Residents(Bounds(count_max, tokens_max, 4, 10.0, slots_count, capacity_tokens, block_tokens))
        self.now_s = 0.0
        self.running: list[tuple[Turn, int]] = []
        # What each open session holds, and since when nobody has used it.
        self.open: dict[str, int] = {}
        self.idle: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        self.forgotten: set[str] = set()

    def close(self, leaving: tuple[str, ...]) -> list[float]:
        """Closes sessions, which nobody may be using; since when each had idled."""
        for session in leaving:
            del self.open[session]
        return [self.idle.pop(session) for session in leaving]

    @rule(
        session=st.sampled_from(["a", "b", "c", "d", ""]),
        new_tokens=st.integers(1, 16),
        output_tokens_max=st.integers(1, 8),
        alone=st.sampled_from([False, False, False, True]),
        anew=st.sampled_from([False, False, False, True]),
    )
    def begin(self, session: str, new_tokens: int, output_tokens_max: int, alone: bool, anew: bool) -> None:
        continues = session in self.idle and not anew
        lasting = not alone
        prompt_tokens = new_tokens + (self.open[session] if continues else 0)
        turn = self.residents.begin(
            Ask(session, prompt_tokens, output_tokens_max, lasting=lasting, continues=continues), self.now_s
        )
        if turn.place is Place.RESUMED:
            assert continues
            del self.idle[session]
        self.close(tuple(each for each in turn.leaving if each == session))
        others = self.close(tuple(each for each in turn.leaving if each != session))
        assert others == sorted(others)
        bounds = self.residents.bounds
        seen_s = self.seen.get(session)
        hot = bool(session) and seen_s is not None and self.now_s - seen_s <= bounds.idle_s
        if turn.place is Place.OPENED:
            assert prompt_tokens >= bounds.tokens_min
            assert hot
            assert session not in self.open
        # Whoever is parked leaves for one that is hot, if the engine and the budgets have room for it alone.
        elif lasting and hot and prompt_tokens >= bounds.tokens_min and turn.tokens <= bounds.tokens_max:
            assert turn.place is Place.RESUMED or set(self.open) - set(self.idle)
        if turn.place is not Place.ALONE:
            assert lasting
            self.open[session] = prompt_tokens + output_tokens_max
        self.seen[session] = self.now_s
        self.running.append((turn, prompt_tokens + output_tokens_max))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        turn, tokens_max = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        held = data.draw(st.none() | st.integers(1, tokens_max))
        stays = self.residents.end(turn, held, self.now_s)
        if turn.place is Place.ALONE:
            assert not stays
        elif stays:
            assert held is not None
            assert turn.session not in self.forgotten
            self.open[turn.session] = held
            self.idle[turn.session] = self.now_s
        else:
            del self.open[turn.session]
        if turn.place is not Place.ALONE:
            self.forgotten.discard(turn.session)
        if turn.session in self.seen:
            self.seen[turn.session] = self.now_s

    @rule(session=st.sampled_from(["a", "b"]))
    def forget(self, session: str) -> None:
        assert self.residents.forget(session) == (session in self.idle)
        if session in self.idle:
            self.close((session,))
        elif session in self.open:
            self.forgotten.add(session)
        self.seen.pop(session, None)

    @rule(passes_s=st.floats(0.0, 6.0))
    def wait(self, passes_s: float) -> None:
        self.now_s += passes_s
        self.close(self.residents.expire(self.now_s))
        assert all(self.now_s < since_s + self.residents.bounds.idle_s for since_s in self.idle.values())

    @invariant()
    def the_budgets_hold(self) -> None:
        bounds, residents = self.residents.bounds, self.residents
        assert len(self.open) == residents.count <= bounds.count_max
        assert sum(self.open.values()) <= residents.tokens <= bounds.tokens_max

    @invariant()
    def nobody_is_parked_at_the_expense_of_a_request(self) -> None:
        alone = [tokens for turn, tokens in self.running if turn.place is Place.ALONE]
        places, tokens = len(self.open) + len(alone), sum(self.open.values()) + sum(alone)
        bounds = self.residents.bounds
        if places > bounds.slots_count or tokens > bounds.capacity_tokens:
            assert self.residents.parked == ()

    @invariant()
    def it_knows_who_is_parked(self) -> None:
        parked = self.residents.parked
        assert set(parked) == set(self.idle)
        assert [self.idle[each] for each in parked] == sorted(self.idle.values())


test_random_requests = Engine.TestCase
test_random_requests.settings = settings(max_examples=200)
