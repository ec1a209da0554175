from __future__ import annotations

import asyncio
import math

from hypothesis import given
from hypothesis import strategies as st

from compressor.extract import Extractor, Source, estimate_tokens, render
from compressor.fit import fit
from compressor.sentences import SentenceSplitter
from tests.compressor.texts import story, texts


def extractor(*parts: str) -> Extractor:
    return Extractor([Source(part, estimate_tokens(part)) for part in parts], SentenceSplitter(512))


@given(st.lists(texts, max_size=4), st.integers(0, 400))
def test_every_piece_is_a_sentence_of_its_source_where_it_says(parts: list[str], tokens_max: int) -> None:
    pieces = extractor(*parts).choose(tokens_max)

    assert all(piece.text == parts[piece.source][piece.start : piece.end] for piece in pieces)
    places = [(piece.source, piece.start) for piece in pieces]
    assert places == sorted(set(places))
    assert pieces == extractor(*parts).choose(tokens_max)


@given(st.lists(texts, max_size=4), st.integers(0, 400))
def test_an_extract_costs_no_more_than_its_share_of_the_sources(parts: list[str], tokens_max: int) -> None:
    pieces = extractor(*parts).choose(tokens_max)

    assert len(render(pieces).encode()) / 3 <= tokens_max


@given(texts, st.integers(0, 60), st.integers(1, 4))
def test_a_fitted_extract_keeps_its_bound_by_exact_count(text: str, tokens_max: int, attempts_max: int) -> None:
    asked: list[str] = []

    async def words(extract: str) -> int:
        asked.append(extract)
        return len(extract.split())

    extract = asyncio.run(fit(extractor(text), tokens_max, words, attempts_max))

    assert len(render(extract.pieces).split()) == extract.tokens <= tokens_max
    assert len(asked) <= attempts_max + math.log2(len(text) + 2)


def test_fitting_uses_the_room_that_a_wrong_guess_left() -> None:
    async def words(extract: str) -> int:
        return len(extract.split())

    extract = asyncio.run(fit(extractor(story(400)), 200, words, 4))

    assert 180 <= extract.tokens <= 200


@given(texts.filter(lambda text: any(map(str.isalnum, text))), st.floats(1.0, 8.0))
def test_fitting_finds_something_however_wrong_the_guess(text: str, factor: float) -> None:
    async def many(extract: str) -> int:
        return math.ceil(factor * estimate_tokens(extract))

    # Room for any one sentence.
    extract = asyncio.run(fit(extractor(text), math.ceil(factor * estimate_tokens("x" * 4 * 512)), many, 2))

    assert extract.pieces
