"""CompressionService: an extract of a text of the caller's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from isthmus.compression.v1 import compression_service_pb2 as contract
from isthmus.compression.v1 import compression_service_pb2_grpc
from isthmus.errors.v1 import errors_pb2

from compressor.counting import TokenCounter
from compressor.extract import METHOD, VERSION, Extractor, Piece, Source, estimate_tokens
from compressor.fit import Extract, fit
from compressor.sentences import SentenceSplitter
from services.config import CompressorSettings
from services.errors import IsthmusError
from services.router import Router

# Texts of callers belong to no session; the ring needs a name all the same.
_TENANT = "compressor"


class CompressionServicer(compression_service_pb2_grpc.CompressionServiceServicer):
    """Counts are exact while a replica answers. Without one they are 0, and the target is kept by a safe estimate."""

    def __init__(self, router: Router, settings: CompressorSettings, member_id: str) -> None:
        self._router = router
        self._settings = settings
        self._member_id = member_id
        self._splitter = SentenceSplitter(settings.sentence_chars_max)
        self._open = 0

    async def Compress(self, request: contract.CompressRequest, context: Any) -> contract.CompressResponse:  # noqa: N802
        with self._admitted():
            counter = TokenCounter(self._router, self._settings, _TENANT, self._member_id)
            try:
                tokens = await counter.text(request.text)
                extract = await self._extract(request, tokens, counter)
            except IsthmusError as error:
                if error.reason != errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE:
                    raise
                tokens = 0
                extract = await self._extract(request, estimate_tokens(request.text), None)
        return contract.CompressResponse(
            sentences=_sentences(request.text, extract.pieces),
            input_tokens=tokens,
            output_tokens=extract.tokens,
            method=METHOD,
            version=VERSION,
        )

    async def _extract(self, request: contract.CompressRequest, tokens: int, counter: TokenCounter | None) -> Extract:
        tokens_max = int(request.target_ratio * tokens) if request.HasField("target_ratio") else request.target_tokens
        extractor = await asyncio.to_thread(Extractor, [Source(request.text, tokens)], self._splitter)
        if tokens_max >= tokens:
            # One a line, the sentences could be more than the text was.
            return Extract(extractor.pieces, tokens if counter else 0)
        if counter is None:
            return Extract(await asyncio.to_thread(extractor.choose, tokens_max), 0)
        return await fit(extractor, tokens_max, counter.text, self._settings.fit_attempts_count_max)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._open >= self._settings.texts_concurrent_max:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_OVERLOADED,
                f"{self._open} texts are being compressed, which is all that this member does at once",
            )
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


def _sentences(text: str, pieces: Sequence[Piece]) -> Iterator[contract.CompressResponse.Sentence]:
    """The pieces, which are in order, with their places in bytes."""
    characters = size = 0
    for piece in pieces:
        start = size + len(text[characters : piece.start].encode())
        characters, size = piece.end, start + len(piece.text.encode())
        yield contract.CompressResponse.Sentence(text=piece.text, start_byte=start, end_byte=size)
