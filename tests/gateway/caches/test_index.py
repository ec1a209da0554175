"""The index says what a scan over all entries would, whatever was put and removed before."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.caches.entry import Entry, decode, encode
from gateway.caches.index import Index, unit

IDS = st.sampled_from("abcdef")
VECTORS = st.lists(st.floats(-1, 1).filter(lambda each: abs(each) > 0.01), min_size=3, max_size=3)


def entry(entry_id: str, values: list[float], embedder: str = "e") -> Entry:
    """An entry with a vector in this direction."""
    return Entry(entry_id, "sessions/s/turns/1", 0, "Where?", embedder, unit(values))


@given(st.lists(st.tuples(IDS, VECTORS | st.none()), max_size=12), VECTORS)
def test_near_is_what_a_scan_finds(changes: list[tuple[str, list[float] | None]], asked: list[float]) -> None:
    index, held = Index(), dict[str, list[float]]()
    for entry_id, values in changes:
        if values is None:
            index.remove(entry_id)
            held.pop(entry_id, None)
        else:
            index.put(entry(entry_id, values))
            held[entry_id] = values
    found = {each.id: cosine for each, cosine in index.near(unit(asked), "e", 100, 0.5)}

    def as_kept(values: list[float]) -> np.ndarray:
        return np.frombuffer(unit(values), dtype="<f2").astype(np.float64)

    cosines = {entry_id: float(as_kept(values) @ as_kept(asked)) for entry_id, values in held.items()}
    assert len(index) == len(held)
    assert {each for each, cosine in cosines.items() if cosine > 0.501} <= set(found)
    assert all(abs(cosines[each] - cosine) < 1e-3 for each, cosine in found.items())


def test_vectors_of_another_embedder_are_never_compared() -> None:
    index = Index()
    index.put(entry("a", [1, 0, 0]))
    index.put(entry("b", [1, 0, 0], "another"))
    assert [each.id for each, _ in index.near(unit([1, 0, 0]), "e", 9, 0.5)] == ["a"]
    assert not list(index.near(unit([1, 0, 0]), "another", 9, 0.5))


def test_an_entry_is_read_as_it_was_written_and_rubbish_is_none() -> None:
    kept = entry("a", [1, 2, 3])
    assert decode(encode(kept)) == kept
    assert decode(b"rubbish") is None
