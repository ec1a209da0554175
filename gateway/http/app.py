"""The HTTP edge put together: routes, and around them tracing, measuring and admission."""

from __future__ import annotations

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from gateway.backend import Backend
from gateway.http import conversations, health, metrics, models, responses
from gateway.http.admission import Admitted
from gateway.http.body import BoundedRequest, StrictBody
from gateway.http.edge import Edge
from gateway.http.errors import answer
from gateway.http.metrics import HttpMetrics, Measured
from gateway.http.query import refuse_unknown
from gateway.http.tracing import Traced
from gateway.tenancy import tenant_of
from gateway.turns import TurnDriver
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
    models.list_models,
    models.get_model,
    health.healthz,
    metrics.metrics,
]


def create_app(backend: Backend, turns: TurnDriver, settings: Settings, lifecycle: Lifecycle) -> ASGIApp:
    """The ASGI application of a gateway."""
    measures = HttpMetrics(turns.metrics.registry)
    edge = Edge(backend, turns, settings.gateway, tenant_of(settings.mesh))
    litestar = Litestar(
        route_handlers=_HANDLERS,
        dependencies={
            "edge": Provide(lambda: edge, sync_to_thread=False),
            "lifecycle": Provide(lambda: lifecycle, sync_to_thread=False),
            "measures": Provide(lambda: measures, sync_to_thread=False),
        },
        request_class=BoundedRequest,
        dto=StrictBody,
        return_dto=None,
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
    return Traced(Measured(Admitted(litestar, settings.gateway, lifecycle), measures))
