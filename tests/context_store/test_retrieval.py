"""The indexes by themselves: BM25 as a library computes it, however documents come; vectors; one score of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import bm25s  # type: ignore[import-untyped]
import numpy as np
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from isthmus.context.v1 import search_pb2

from context_store.retrieval.attribute_filter import predicate
from context_store.retrieval.english import stem
from context_store.retrieval.fusion import by_greatest, by_range, fused
from context_store.retrieval.library_index import LibraryIndex, Query
from context_store.retrieval.vectors import VectorIndex
from context_store.retrieval.words import Segment, bm25, merged_tiers, query_terms, terms, with_neighbours
from services.passages import Passage

WORDS = ("harbour", "lamp", "boat", "letter", "winter", "bread", "star")
texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=30)


def segments_of(passages: Sequence[str], cuts: Iterable[int]) -> list[Segment]:
    """The passages' words in segments that begin at these places, merged as they come."""
    bounds = sorted({0, *(cut % len(passages) for cut in cuts), len(passages)})
    segments: list[Segment] = []
    for first, last in pairwise(bounds):
        segments = merged_tiers([*segments, Segment.of([terms(one) for one in passages[first:last]], first)])
    return segments


def lengths_of(passages: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([len(terms(one)) for one in passages], np.float32)


@settings(deadline=None, max_examples=50)
@given(texts, st.lists(st.integers(0, 30), max_size=12), st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
def test_scores_are_those_of_bm25s_however_the_passages_came(
    passages: list[str], cuts: list[int], query: list[str]
) -> None:
    ours = bm25(
        segments_of(passages, cuts),
        query_terms(" ".join(query)),
        lengths_of(passages),
        np.zeros(len(passages), np.bool_),
        np.ones(len(passages), np.bool_),
    )
    oracle = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    tokens = [one.split() for one in passages]
    oracle.index(tokens, show_progress=False)
    known = sorted({word for word in query if any(word in one for one in tokens)})
    theirs = oracle.get_scores(known) if known else np.zeros(len(passages))
    assert ours.alone == pytest.approx(theirs, abs=1e-4)
    # Without neighbours, a passage with them is the passage alone.
    assert ours.around == pytest.approx(ours.alone, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(texts, st.data())
def test_a_filter_leaves_the_scores_of_a_smaller_collection(passages: list[str], data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(passages), max_size=len(passages))), np.bool_)
    query, joined = query_terms("harbour boat"), np.zeros(len(passages), np.bool_)
    filtered = bm25(segments_of(passages, [3, 7]), query, lengths_of(passages), joined, mask)
    left = [one for one, is_in in zip(passages, mask, strict=True) if is_in]
    assert not filtered.alone[~mask].any()
    if left:
        alone = bm25(segments_of(left, []), query, lengths_of(left), joined[mask], mask[mask])
        assert filtered.alone[mask] == pytest.approx(alone.alone, abs=1e-5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.data())
def test_neighbours_are_those_of_the_same_document(values: list[int], data: st.DataObject) -> None:
    joined = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    joined[-1] = False
    found = with_neighbours(np.array(values, np.float32), np.array(joined, np.bool_))
    for at, value in enumerate(values):
        before = values[at - 1] if at and joined[at - 1] else 0
        behind = values[at + 1] if joined[at] else 0
        assert found[at] == value + before + behind


def test_merged_segments_are_few() -> None:
    segments: list[Segment] = []
    for number in range(1_000):
        segments = merged_tiers([*segments, Segment.of([terms("a lamp and a boat")], number)])
    assert len(segments) < 40
    assert sum(map(len, segments)) == 1_000 * 4


def test_forms_of_a_word_are_one() -> None:
    for forms in ("make makes making", "study studies studied", "stop stops stopped stopping", "class classes"):
        assert len({stem(word) for word in forms.split()}) == 1, forms
    for word in ("bus", "this", "は", "1999", "s", "glass"):
        assert stem(word) == word


floats = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20).map(lambda one: np.array(one, np.float32))


@given(floats, floats)
def test_scores_lie_between_nothing_and_one(words: Any, cosines: Any) -> None:
    size = min(len(words), len(cosines))
    words, cosines = np.abs(words[:size]), cosines[:size]
    for has in (np.ones(size, np.bool_), np.arange(size) % 2 == 0, None):
        signals = None if has is None else (cosines[has], cosines[has])
        scores = fused((words, words), signals, has)
        assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
    assert by_greatest(words).max(initial=0) in (0, pytest.approx(1))
    assert by_range(cosines).max(initial=0) == pytest.approx(1)


def unit(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    made = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    found: np.ndarray[Any, np.dtype[np.float32]] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return found


def test_the_nearest_are_found_among_those_that_are_searched() -> None:
    vectors, query = unit(300, 1), unit(1, 2)[0]
    index = VectorIndex("e", 8)
    index.add(np.arange(100, 200), vectors[100:200])
    index.add(np.arange(200, 300), vectors[200:])
    searched = np.arange(300) % 3 == 0
    found = index.nearest(query, 10, searched)
    wanted = [one for one in np.argsort(-(vectors @ query)) if one >= 100 and searched[one]][:10]
    assert set(found) == set(wanted)
    assert index.has(np.array([0, 99, 100, 299, 300])).tolist() == [False, False, True, True, False]
    joined = np.ones(300, np.bool_)
    joined[299] = False
    own, around = index.cosines(query, np.array([150, 299]), joined)
    assert own == pytest.approx(vectors[[150, 299]] @ query, abs=2e-3)
    three, two = vectors[149:152].sum(0), vectors[298:300].sum(0)
    wanted_around = [one @ query / np.linalg.norm(one) for one in (three, two)]
    assert around == pytest.approx(wanted_around, abs=2e-3)


def add(index: LibraryIndex, key: str, passages: Sequence[str]) -> None:
    start = 0
    for number, text in enumerate(passages, 1):
        index.append(key, [Passage(start, 0, number, number, text)], [terms(text)])
        start += len(text.encode())
    index.complete(key, len(passages))


def test_documents_come_and_go() -> None:
    index = LibraryIndex()
    add(index, "a", ["a lamp in the harbour", "a boat"])
    index.append("broken", [Passage(0, 0, 1, 1, "a lamp")], [terms("a lamp")])
    index.begin()
    add(index, "b", ["bread", "a lamp"])
    answer = index.search(Query("lamp"), ["a", "b", "broken"], 10)
    # The boat and the bread have a lamp beside them.
    assert {(one.document, one.first_sequence) for one in answer.found} == {("a", 1), ("a", 2), ("b", 1), ("b", 2)}
    assert answer.words_only
    assert answer.found[0].score == max(one.score for one in answer.found)
    index.remove("a")
    assert {one.document for one in index.search(Query("lamp"), ["a", "b"], 10).found} == {"b"}
    assert index.wasted_count == 3
    assert index.memory_bytes > 0


def test_many_passages_are_found_as_exactly_as_few() -> None:
    index, rows = LibraryIndex(), 5_000
    vectors = unit(rows, 3)
    index.use_embedder("e", 8)
    passages = [Passage(number * 4, 0, number, number, "lamp") for number in range(1, rows + 1)]
    index.append("d", passages, [terms(one.text) for one in passages])
    index.complete("d", rows)
    index.add_vectors("d", vectors)
    query = vectors[4_321]
    best = index.search(Query("boat", query, "e"), ["d"], 3).found[0]
    sums = with_all_neighbours(vectors)
    wanted = np.argmax(by_range(vectors @ query) + by_range((sums @ query) / np.linalg.norm(sums, axis=1)))
    assert best.first_sequence == wanted + 1


def with_all_neighbours(vectors: Any) -> Any:
    sums = vectors.copy()
    sums[1:] += vectors[:-1]
    sums[:-1] += vectors[1:]
    return sums


values = st.one_of(st.booleans(), st.integers(-3, 3).map(float), st.sampled_from(["a", "b", ""]))
operators = st.sampled_from(["EQ", "NE", "GT", "GTE", "LT", "LTE", "IN", "NIN"])


def struct(**fields: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(fields)
    return made


@given(st.dictionaries(st.sampled_from("xyz"), values), st.sampled_from("xyz"), operators, values)
def test_a_comparison_is_pythons_within_one_type(own: dict[str, Any], key: str, name: str, value: Any) -> None:
    is_ordered = name in ("GT", "GTE", "LT", "LTE")
    if is_ordered and isinstance(value, bool):
        value = float(value)
    wanted = [value] if name in ("IN", "NIN") else value
    comparison = search_pb2.AttributeComparison(
        key=key,
        operator=getattr(search_pb2.AttributeComparison, f"OPERATOR_{name}"),
        value=struct(value=wanted).fields["value"],
    )
    takes = predicate(search_pb2.AttributeFilter(comparison=comparison))(struct(**own))
    is_same_type = key in own and type(own[key]) is type(value)
    is_equal = is_same_type and own[key] == value
    expected = {
        "EQ": is_equal,
        "IN": is_equal,
        "NE": not is_equal,
        "NIN": not is_equal,
        "GT": is_same_type and is_ordered and own[key] > value,
        "GTE": is_same_type and is_ordered and own[key] >= value,
        "LT": is_same_type and is_ordered and own[key] < value,
        "LTE": is_same_type and is_ordered and own[key] <= value,
    }
    assert takes == expected[name]
