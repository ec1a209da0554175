"""The HTTP edge put together: routes, and around them tracing, measuring and admission."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from gateway.access.gate import Gate
from gateway.backend import Backend
from gateway.http import conversations, embeddings, health, metrics, models, responses
from gateway.http.access import guarding
from gateway.http.admission import Admitted
from gateway.http.body import BoundedRequest, StrictBody
from gateway.http.chat import completions
from gateway.http.edge import Edge
from gateway.http.errors import answer
from gateway.http.files import routes as files
from gateway.http.limits import Told, limiting
from gateway.http.metrics import HttpMetrics, Measured
from gateway.http.query import refuse_unknown
from gateway.http.tracing import Traced
from gateway.http.vector_stores import batches as file_batches
from gateway.http.vector_stores import files as store_files
from gateway.http.vector_stores import stores
from gateway.jobs.jobs import TurnJobs
from gateway.libraries.libraries import Libraries
from gateway.turn.turns import TurnDriver
from services.config import Settings
from services.lifecycle import Lifecycle

_HANDLERS = [
    responses.create_response,
    responses.get_response,
    responses.delete_response,
    responses.cancel_response,
    responses.list_input_items,
    conversations.create_conversation,
    conversations.get_conversation,
    conversations.update_conversation,
    conversations.delete_conversation,
    conversations.create_items,
    conversations.list_conversation_items,
    conversations.get_item,
    conversations.delete_item,
    completions.create_chat_completion,
    embeddings.create_embeddings,
    files.create_file,
    files.list_files,
    files.get_file,
    files.get_file_content,
    files.delete_file,
    stores.create_vector_store,
    stores.list_vector_stores,
    stores.get_vector_store,
    stores.update_vector_store,
    stores.delete_vector_store,
    stores.search_vector_store,
    store_files.create_vector_store_file,
    store_files.list_vector_store_files,
    store_files.get_vector_store_file,
    store_files.update_vector_store_file,
    store_files.delete_vector_store_file,
    store_files.get_vector_store_file_content,
    file_batches.create_file_batch,
    file_batches.get_file_batch,
    file_batches.cancel_file_batch,
    file_batches.list_file_batch_files,
    models.list_models,
    models.get_model,
    health.healthz,
    metrics.metrics,
]


def create_app(
    backend: Backend,
    turns: TurnDriver,
    jobs: TurnJobs,
    libraries: Libraries,
    gate: Gate,
    settings: Settings,
    lifecycle: Lifecycle,
    *,
    shares_port: bool = False,
) -> ASGIApp:
    """The ASGI application of a gateway."""
    measures = HttpMetrics(turns.metrics.registry)
    edge = Edge(backend, turns, jobs, settings.gateway, libraries, tenant="")

    def edge_of(request: Request[Any, Any, Any]) -> Edge:
        return replace(edge, tenant=request.state.tenant)

    litestar = Litestar(
        route_handlers=_HANDLERS,
        dependencies={
            "edge": Provide(edge_of, sync_to_thread=False),
            "lifecycle": Provide(lambda: lifecycle, sync_to_thread=False),
            "measures": Provide(lambda: measures, sync_to_thread=False),
        },
        request_class=BoundedRequest,
        dto=StrictBody,
        return_dto=None,
        guards=[guarding(gate), limiting(turns.admission)],
        before_request=refuse_unknown,
        exception_handlers={Exception: answer},
        state=State({"settings": settings.gateway}),
        openapi_config=OpenAPIConfig(
            title="Isthmus",
            version="1",
            path="/schema",
            render_plugins=[JsonRenderPlugin()],
            use_handler_docstrings=True,
        ),
        logging_config=None,
    )
    told = Told(litestar, turns.admission.limiter)
    return Traced(Measured(Admitted(told, settings.gateway, lifecycle, shares_port=shares_port), measures))
