"""`isthmus.context.v1.ContextService`: each rpc and who serves it."""

# The names of the methods are those of the contract.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from google.protobuf import empty_pb2
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1.context_service_pb2_grpc import ContextServiceServicer
from isthmus.session.v1 import deletion_pb2, document_pb2, session_pb2, turn_pb2

from context_store.retrieval.indexes import Indexes
from context_store.retrieval.search_service import SearchService
from context_store.retrieval.vector_service import VectorService
from context_store.session.catalogues import Catalogues
from context_store.session.creating import Creator
from context_store.session.deletion import Deletions
from context_store.session.document_deletion import DocumentDeletions
from context_store.session.document_service import Announce, DocumentService
from context_store.session.documents import DocumentStreams
from context_store.session.erasing import Eraser
from context_store.session.exporting import Exporter
from context_store.session.forks import ForkService
from context_store.session.fragment_service import FragmentService
from context_store.session.importing import ImportService
from context_store.session.session_service import SessionService
from context_store.store import Store, keys_of
from context_store.turn.driving import Committing, Replanning
from context_store.turn.finding import Taking
from context_store.turn.opening import Opening
from context_store.turn.output import OutputService
from context_store.turn.turn_service import TurnService
from context_store.window.manifests import Manifests
from context_store.window.stream import WindowService
from context_store.window.summary_service import SummaryService

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ContextService(ContextServiceServicer):
    """A shard's door. Errors are raised as IsthmusError; the server's interceptor gives them their status."""

    def __init__(self, store: Store, deletions: Deletions, announce: Announce = lambda *_: None) -> None:
        """`announce` is told of documents that may want vectors."""
        self._store = store
        self._deletions = deletions
        self._manifests = Manifests(store.log, store.bodies, store.settings.manifest_bytes_max)
        creator = Creator(store, deletions)
        self._sessions = SessionService(store, creator)
        self._forks = ForkService(store, creator, deletions)
        self._exporter = Exporter(store)
        self._imports = ImportService(store, creator, deletions)
        self._turns = TurnService(store)
        self._output = OutputService(store)
        self._fragments = FragmentService(store)
        self._eraser = Eraser(store)
        self._document_deletions = DocumentDeletions(store, self._eraser)
        self._streams = DocumentStreams(store, self._document_deletions, announce)
        self._catalogues = Catalogues(store.log, store.settings.retrieval.documents_cached_count_max)
        self._documents = DocumentService(store, self._catalogues, announce)
        self.indexes = Indexes(store, self._catalogues)
        deletions.held |= {"documents": self._catalogues.forget, "passages": self.indexes.forget}
        self._searches = SearchService(store, self._catalogues, self.indexes, announce)
        self._vectors = VectorService(store)
        self._windows = WindowService(store, self._manifests)
        self._summaries = SummaryService(store)

    async def CreateSession(self, request: api.CreateSessionRequest, context: Context) -> session_pb2.Session:
        return await self._sessions.create(request)

    async def GetSession(self, request: api.GetSessionRequest, context: Context) -> session_pb2.Session:
        return await self._sessions.get(request)

    async def ListSessions(self, request: api.ListSessionsRequest, context: Context) -> api.ListSessionsResponse:
        return await self._sessions.list(request)

    async def UpdateSession(self, request: api.UpdateSessionRequest, context: Context) -> session_pb2.Session:
        return await self._sessions.update(request)

    async def DeleteSession(self, request: api.DeleteSessionRequest, context: Context) -> deletion_pb2.DeletionReceipt:
        return await self._deletions.delete(keys_of(request.key), request.etag)

    async def ForgetSession(self, request: api.ForgetSessionRequest, context: Context) -> api.ForgetSessionResponse:
        receipt = deletion_pb2.DeletionReceipt()
        await self._deletions.forget(keys_of(request.key), receipt)
        return api.ForgetSessionResponse(erasures=receipt.erasures)

    async def ForkSession(self, request: api.ForkSessionRequest, context: Context) -> session_pb2.Session:
        fork = await self._forks.fork(request)
        # Not with the sums of its past, which to read would take as long as the past is.
        return await self._sessions.made(fork) or session_pb2.Session(name=f"sessions/{fork.session}")

    async def ExportSession(
        self, request: api.ExportSessionRequest, context: Context
    ) -> AsyncIterator[api.ExportSessionResponse]:
        async for response in self._exporter.export(request):
            yield response

    async def ImportSession(
        self, request_iterator: AsyncIterator[api.ImportSessionRequest], context: Context
    ) -> session_pb2.Session:
        return await self._sessions.shown(await self._imports.load(request_iterator))

    async def OpenTurn(self, request: api.OpenTurnRequest, context: Context) -> api.OpenTurnResponse:
        self._store.check_size(request.messages)
        lease_ms = self._turns.lease_ms("lease", request.lease, queued=bool(request.resume_turn))
        return await Opening(self._store, self._manifests, request, lease_ms).run()

    async def TakeTurn(self, request: api.TakeTurnRequest, context: Context) -> api.OpenTurnResponse:
        lease_ms = self._turns.lease_ms("lease", request.lease)
        return await Taking(self._store, self._manifests, request, lease_ms).run()

    async def AppendOutput(self, request: api.AppendOutputRequest, context: Context) -> api.AppendOutputResponse:
        return await self._output.append(request)

    async def ReplanTurn(self, request: api.ReplanTurnRequest, context: Context) -> api.OpenTurnResponse:
        return await Replanning(self._store, self._manifests, request).run()

    async def RenewTurn(self, request: api.RenewTurnRequest, context: Context) -> empty_pb2.Empty:
        await self._turns.renew(request)
        return empty_pb2.Empty()

    async def CommitTurn(self, request: api.CommitTurnRequest, context: Context) -> api.CommitTurnResponse:
        return await Committing(self._store, request).run()

    async def FailTurn(self, request: api.FailTurnRequest, context: Context) -> turn_pb2.Turn:
        return await self._turns.fail(request)

    async def CancelTurn(self, request: api.CancelTurnRequest, context: Context) -> turn_pb2.Turn:
        return await self._turns.cancel(request)

    async def GetTurn(self, request: api.GetTurnRequest, context: Context) -> turn_pb2.Turn:
        return await self._turns.get(request)

    async def ListTurns(self, request: api.ListTurnsRequest, context: Context) -> api.ListTurnsResponse:
        return await self._turns.list(request)

    async def WaitTurn(self, request: api.WaitTurnRequest, context: Context) -> api.WaitTurnResponse:
        return await self._turns.wait(request)

    async def AppendMessages(self, request: api.AppendMessagesRequest, context: Context) -> api.AppendMessagesResponse:
        return await self._fragments.append(request)

    async def ListFragments(self, request: api.ListFragmentsRequest, context: Context) -> api.ListFragmentsResponse:
        return await self._fragments.list(request)

    async def DeleteFragment(self, request: api.DeleteFragmentRequest, context: Context) -> empty_pb2.Empty:
        await self._eraser.delete(request)
        return empty_pb2.Empty()

    async def WriteDocument(
        self, request_iterator: AsyncIterator[api.WriteDocumentRequest], context: Context
    ) -> document_pb2.Document:
        return await self._streams.write(request_iterator)

    async def GetDocument(self, request: api.GetDocumentRequest, context: Context) -> document_pb2.Document:
        return await self._documents.get(request)

    async def ListDocuments(self, request: api.ListDocumentsRequest, context: Context) -> api.ListDocumentsResponse:
        return await self._documents.list(request)

    async def UpdateDocument(self, request: api.UpdateDocumentRequest, context: Context) -> document_pb2.Document:
        return await self._documents.update(request)

    async def DeleteDocument(self, request: api.DeleteDocumentRequest, context: Context) -> empty_pb2.Empty:
        await self._document_deletions.delete(request)
        return empty_pb2.Empty()

    async def ReadDocument(
        self, request: api.ReadDocumentRequest, context: Context
    ) -> AsyncIterator[api.ReadDocumentResponse]:
        async for response in self._documents.read(request):
            yield response

    async def SearchDocuments(
        self, request: api.SearchDocumentsRequest, context: Context
    ) -> api.SearchDocumentsResponse:
        return await self._searches.search(request)

    async def CommitVectors(self, request: api.CommitVectorsRequest, context: Context) -> api.CommitVectorsResponse:
        return await self._vectors.commit(request)

    async def ReadWindow(
        self, request: api.ReadWindowRequest, context: Context
    ) -> AsyncIterator[api.ReadWindowResponse]:
        async for response in self._windows.read(request):
            yield response

    async def PreviewWindow(self, request: api.PreviewWindowRequest, context: Context) -> api.PreviewWindowResponse:
        return await self._windows.preview(request)

    async def ReadFragments(
        self, request: api.ReadFragmentsRequest, context: Context
    ) -> AsyncIterator[api.ReadFragmentsResponse]:
        async for response in self._fragments.read(request):
            yield response

    async def CommitSummary(self, request: api.CommitSummaryRequest, context: Context) -> api.CommitSummaryResponse:
        return await self._summaries.commit(request)
