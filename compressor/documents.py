"""Vectors of libraries' documents: read one, cut its passages, have them embedded batch by batch, commit each batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
import structlog
from isthmus.context.v1 import context_service_pb2 as contract
from isthmus.context.v1 import context_service_pb2_grpc
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as inference
from isthmus.inference.v1 import inference_service_pb2_grpc
from isthmus.session.v1 import document_pb2, fragment_pb2

from services.config import CompressorSettings
from services.errors import IsthmusError, from_rpc_error
from services.passages import Passage, PassageCutter, PassageSource, cuts_of
from services.router import INFERENCE, STORE, Router

_SERVICE: Final = "/isthmus.context.v1.ContextService/"
GET_DOCUMENT: Final = f"{_SERVICE}GetDocument"
COMMIT_VECTORS: Final = f"{_SERVICE}CommitVectors"
EMBED: Final = "/isthmus.inference.v1.InferenceService/Embed"

# What the contract allows in one commit.
_VECTORS_BYTES_MAX: Final = 256 << 10
_MESSAGE_CHARS_MAX: Final = 1_000
_HALF_BYTES: Final = 2
# Why a document will have no vectors, as Document.error says it.
NO_EMBEDDER: Final = "no_embedder"
INVALID_TEXT: Final = "invalid_text"
# The embedder of what nobody embeds.
_NOBODY: Final = "none"
_FINAL: Final = {
    errors_pb2.ERROR_REASON_MODEL_NOT_FOUND: NO_EMBEDDER,
    errors_pb2.ERROR_REASON_INVALID_FIELD: INVALID_TEXT,
}

_log = structlog.get_logger("documents")


@dataclass(frozen=True, slots=True)
class DocumentPlace:
    """Which document of which session."""

    tenant: str
    session: str
    document: str

    @property
    def key(self) -> contract.SessionKey:
        return contract.SessionKey(tenant=self.tenant, session=self.session)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a document's vectors are made from, and how many passages it has."""

    digest: bytes
    passage_count: int


class DocumentEmbedder:
    """Gives documents vectors. It goes on where others have ended; doing it again changes nothing."""

    def __init__(self, router: Router, settings: CompressorSettings) -> None:
        self._router = router
        self._settings = settings

    async def embed(self, place: DocumentPlace) -> None:
        """Commits the vectors that the document lacks, or why it will have none.

        Raises UPSTREAM_UNAVAILABLE or NOT_READY while the store or all replicas are away, OVERLOADED where these are
        full, NOT_FOUND if the document is gone, and SUMMARY_SOURCE_CHANGED if it is another by now.
        """
        document = await self._document(place)
        embedder = self._embedder(document)
        is_done = embedder and document.embedded_count == document.passage_count
        if is_done or document.state != document_pb2.Document.STATE_COMPLETE:
            return
        # Twice through the text: what each commit says of all of it comes first, and no more than a batch is held.
        survey = await self._survey(place, document)
        if not survey.passage_count:
            # That it is done has to be said, too.
            await self._send(place, self._request(place, survey, _NOBODY, 1))
            return
        first = document.embedded_count if embedder else 0
        try:
            await self._embed_from(place, document, survey, embedder, first)
        except IsthmusError as error:
            if error.reason not in _FINAL:
                raise
            _log.warning("document without vectors", session=place.session, document=place.document, why=error.message)
            await self._give_up(place, survey, embedder, error)

    async def _embed_from(
        self, place: DocumentPlace, document: document_pb2.Document, survey: _Survey, embedder: str, first: int
    ) -> None:
        following = first
        async for texts in self._batches(place, document, first):
            answer = await self._vectors(place, texts, embedder)
            following = await self._commit(place, survey, answer, following, len(texts))
            embedder = answer.model
        _log.info("document embedded", session=place.session, document=place.document, passages=survey.passage_count)

    async def _survey(self, place: DocumentPlace, document: document_pb2.Document) -> _Survey:
        source, cutter = PassageSource(*cuts_of(document)), PassageCutter(*cuts_of(document))
        count = 0
        async for fragments in self._fragments(place, document):
            for fragment in fragments:
                source.add(fragment.digest)
            count += len(await asyncio.to_thread(_fed, cutter, fragments))
        return _Survey(source.digest(), count + len(list(cutter.end())))

    async def _batches(
        self, place: DocumentPlace, document: document_pb2.Document, first: int
    ) -> AsyncIterator[list[str]]:
        """The texts of the passages from number `first` on, so many together as one replica takes."""
        cutter = PassageCutter(*cuts_of(document))
        batch: list[str] = []
        count_max = self._settings.embed_texts_count_max
        # Of at most so many bytes: a passage has four at most for each character.
        chars_max = self._settings.embed_bytes_max // 4
        async for passages in self._passages(place, document, cutter):
            for passage in passages:
                first -= 1
                if first >= 0:
                    continue
                if batch and (len(batch) == count_max or sum(map(len, batch)) + len(passage.text) > chars_max):
                    yield batch
                    batch = []
                batch.append(passage.text)
        if batch:
            yield batch

    async def _passages(
        self, place: DocumentPlace, document: document_pb2.Document, cutter: PassageCutter
    ) -> AsyncIterator[list[Passage]]:
        async for fragments in self._fragments(place, document):
            yield await asyncio.to_thread(_fed, cutter, fragments)
        yield list(cutter.end())

    async def _fragments(
        self, place: DocumentPlace, document: document_pb2.Document
    ) -> AsyncIterator[list[fragment_pb2.Fragment]]:
        following, last = document.first_sequence, document.last_sequence
        while following and following <= last:
            # In calls that end: a stream that waits for a replica between two batches would outlive its deadline.
            until = min(last, following + self._settings.embed_read_count_max - 1)
            request = contract.ReadFragmentsRequest(key=place.key, first_sequence=following, last_sequence=until)
            member, stub = self._store(place)
            found: list[fragment_pb2.Fragment] = []
            try:
                async for response in stub.ReadFragments(request, timeout=self._settings.call_ms_max / 1000):
                    found += [one for one in response.fragments if one.document == document.name]
            except grpc.aio.AioRpcError as error:
                raise self._failed(STORE, member, error) from error
            yield found
            following = until + 1

    def _embedder(self, document: document_pb2.Document) -> str:
        """The model that the document's vectors are of, if one makes those still; empty takes any."""
        if document.embedder and self._router.embedders() >= {document.embedder}:
            return document.embedder
        return ""

    async def _vectors(self, place: DocumentPlace, texts: Sequence[str], embedder: str) -> inference.EmbedResponse:
        member, channel = self._router.embedding(place.tenant, f"{place.session}/{place.document}", embedder)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        request = inference.EmbedRequest(texts=texts, model=embedder)
        try:
            response: inference.EmbedResponse = await stub.Embed(request, timeout=self._settings.call_ms_max / 1000)
        except grpc.aio.AioRpcError as error:
            raise self._failed(INFERENCE, member.id, error) from error
        return response

    async def _commit(
        self, place: DocumentPlace, survey: _Survey, answer: inference.EmbedResponse, first: int, count: int
    ) -> int:
        """Where to go on. REVISION_CONFLICT where somebody else has come another way."""
        width = answer.dimensions
        vectors = np.frombuffer(answer.vectors, "<f4")[: count * width].astype("<f2")
        following = first
        per_commit = max(1, _VECTORS_BYTES_MAX // (_HALF_BYTES * width))
        for start in range(0, count, per_commit):
            part = vectors[start * width : (start + per_commit) * width]
            request = self._request(place, survey, answer.model, width)
            request.first_passage, request.vectors = following, part.tobytes()
            following += len(part) // width
            response = await self._send(place, request)
            if response.embedded_count != following:
                raise IsthmusError(
                    errors_pb2.ERROR_REASON_REVISION_CONFLICT,
                    f"{place.session}/{place.document} has vectors of {response.embedded_count} passages; expected"
                    f" {following}: another worker is at it",
                )
        return following

    async def _give_up(self, place: DocumentPlace, survey: _Survey, embedder: str, error: IsthmusError) -> None:
        request = self._request(place, survey, embedder or _NOBODY, 1)
        request.error.code, request.error.message = _FINAL[error.reason], error.message[:_MESSAGE_CHARS_MAX]
        await self._send(place, request)

    def _request(
        self, place: DocumentPlace, survey: _Survey, embedder: str, dimensions: int
    ) -> contract.CommitVectorsRequest:
        return contract.CommitVectorsRequest(
            key=place.key,
            document=place.document,
            source_digest=survey.digest,
            embedder=embedder,
            dimensions=dimensions,
            passage_count=survey.passage_count,
        )

    async def _send(
        self, place: DocumentPlace, request: contract.CommitVectorsRequest
    ) -> contract.CommitVectorsResponse:
        member, stub = self._store(place)
        try:
            response: contract.CommitVectorsResponse = await stub.CommitVectors(
                request, timeout=self._settings.call_ms_max / 1000
            )
        except grpc.aio.AioRpcError as error:
            raise self._failed(STORE, member, error) from error
        return response

    async def _document(self, place: DocumentPlace) -> document_pb2.Document:
        request = contract.GetDocumentRequest(key=place.key, document=place.document)
        member, stub = self._store(place)
        try:
            document: document_pb2.Document = await stub.GetDocument(request, timeout=self._settings.call_ms_max / 1000)
        except grpc.aio.AioRpcError as error:
            raise self._failed(STORE, member, error) from error
        return document

    def _store(self, place: DocumentPlace) -> tuple[str, context_service_pb2_grpc.ContextServiceAsyncStub]:
        member, channel = self._router.store(place.tenant, place.session)
        return member, context_service_pb2_grpc.ContextServiceStub(channel)

    def _failed(self, room: str, member: str, error: grpc.aio.AioRpcError) -> IsthmusError:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._router.suspect(room, member)
        return from_rpc_error(error)


def _fed(cutter: PassageCutter, fragments: Sequence[fragment_pb2.Fragment]) -> list[Passage]:
    return [passage for one in fragments for passage in cutter.feed(one.sequence, one.text)]
