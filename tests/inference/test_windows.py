"""The window cache against a list of items."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inference.windows import CHECKPOINTS_MAX, Reply, Window, WindowCache, checkpoint_items
from services.digest import EMPTY, chain

Item = tuple[bytes, int, list[int]]
ITEM = st.tuples(
    st.binary(min_size=16, max_size=16), st.integers(1, 2**62), st.lists(st.integers(0, 49_151), max_size=90)
)


def chain_of(items: list[Item]) -> bytes:
    digest = EMPTY
    for each, _, _ in items:
        digest = chain(digest, each)
    return digest


def add(window: Window, items: list[Item]) -> None:
    for digest, mark, ids in items:
        window.append(digest, mark, np.asarray(ids, dtype=np.int32))


@given(st.lists(st.one_of(ITEM, st.floats(0, 1)), max_size=40))
def test_appending_and_cutting_back_is_what_a_list_does(steps: list[Item | float]) -> None:
    window, items = Window(), list[Item]()
    shown: list[tuple[np.ndarray[tuple[int], np.dtype[np.int32]], list[int]]] = []
    for step in steps:
        if isinstance(step, float):
            del items[int(step * len(items)) :]
            window.truncate(len(items))
        else:
            items.append(step)
            add(window, [step])
        ids = [token for _, _, tokens in items for token in tokens]
        shown.append((window.ids, ids))
        assert window.end == (len(items), chain_of(items), len(ids))
        assert window.mark == (items[-1][1] if items else 0)
        assert window.holds(len(items), chain_of(items))
        assert not window.holds(len(items) + 1, chain_of(items))
    for view, ids in shown:
        assert view.tolist() == ids


@given(st.lists(ITEM, min_size=1, max_size=120))
def test_every_checkpoint_is_a_point_of_the_chain(items: list[Item]) -> None:
    window = Window()
    add(window, items)
    points = window.checkpoints()
    assert points[0] == window.end
    for point in points:
        assert point.digest == chain_of(items[: point.items])
        assert point.tokens == sum(len(ids) for _, _, ids in items[: point.items])


@given(st.integers(0, 2_000_000))
def test_checkpoints_are_few_and_dense_at_the_end(items: int) -> None:
    counts = checkpoint_items(items)
    assert len(counts) <= CHECKPOINTS_MAX
    assert counts == sorted(set(counts), reverse=True)
    assert counts[:20] == list(range(items, 0, -1))[:20]
    # Whatever prefix is common, at least about half of what it is short of the end is offered.
    for common in {items // 2, items // 3, items - items // 10, 1, 2}:
        if 0 < common <= items:
            nearest = max((count for count in counts if count <= common), default=0)
            assert nearest >= common - (items - common) - 24


SESSIONS = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.tuples(SESSIONS, st.integers(0, 400)), max_size=30), st.integers(0, 12_000))
def test_the_cache_keeps_to_its_bound_and_drops_the_oldest(puts: list[tuple[str, int]], most: int) -> None:
    cache = WindowCache(most)
    for session, tokens in puts:
        window = cache.take("t", session)
        add(window, [(bytes(16), 1, [7] * tokens)])
        cache.put("t", session, window)
        assert cache.held_bytes <= most
        if window.size_bytes <= most:
            assert cache.take("t", session) is window
            cache.put("t", session, window)
    held = {session: cache.take("t", session) for session in {session for session, _ in puts}}
    assert cache.held_bytes == 0
    for session, window in held.items():
        assert window.tokens <= sum(tokens for put, tokens in puts if put == session)


def test_tenants_do_not_share_a_session_id() -> None:
    cache = WindowCache(1 << 20)
    window = cache.take("t", "s")
    add(window, [(bytes(16), 1, [1, 2])])
    cache.put("t", "s", window)
    assert cache.take("u", "s").items == 0
    assert cache.take("t", "s") is window


def test_a_window_in_work_is_nobody_elses() -> None:
    cache = WindowCache(1 << 20)
    cache.put("t", "s", cache.take("t", "s"))
    mine = cache.take("t", "s")
    assert cache.take("t", "s") is not mine
    reply = Reply(b"d", np.asarray([1], dtype=np.int32))
    cache.remember_reply("t", "s", reply)
    assert cache.held_bytes == 0
    cache.put("t", "s", mine)
    cache.remember_reply("t", "s", reply)
    assert cache.take("t", "s").reply == reply
