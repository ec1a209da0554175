"""Which scope each call needs: one table of both edges. What no row names needs `admin`: nothing new is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.access import Scope

SERVICE: Final = "/isthmus.session.v1.SessionService/"
OPERATIONS: Final = "/google.longrunning.Operations/"


@dataclass(frozen=True, slots=True)
class Row:
    """Calls that need the same scope (None: any valid key). Routes are `METHOD template`."""

    scope: Scope | None
    rpcs: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


_RESPONSE: Final = "/v1/responses/{response_id}"
_CONVERSATION: Final = "/v1/conversations/{conversation_id}"
_FILE: Final = "/v1/files/{file_id}"

TABLE: Final = (
    Row(
        Scope.TURNS,
        ("RunTurn", "AttachTurn", "CancelTurn", "SubmitTurn", "ReplayTurn", "CancelOperation"),
        (
            "POST /v1/responses",
            f"POST {_RESPONSE}/cancel",
            "POST /v1/chat/completions",
            "POST /v1/embeddings",
        ),
    ),
    Row(
        Scope.SESSIONS_READ,
        (
            "GetSession",
            "ListSessions",
            "ExportSession",
            "GetTurn",
            "ListTurns",
            "ListFragments",
            "GetFragment",
            "GetDocument",
            "PreviewWindow",
            "GetOperation",
            "ListOperations",
            "WaitOperation",
        ),
        (
            f"GET {_RESPONSE}",
            f"GET {_RESPONSE}/input_items",
            f"GET {_CONVERSATION}",
            f"GET {_CONVERSATION}/items",
            f"GET {_CONVERSATION}/items/{{item_id}}",
            "GET /v1/files",
            f"GET {_FILE}",
            f"GET {_FILE}/content",
        ),
    ),
    Row(
        Scope.SESSIONS_WRITE,
        (
            "CreateSession",
            "UpdateSession",
            "DeleteSession",
            "ForkSession",
            "ImportSession",
            "AppendMessages",
            "DeleteFragment",
            "IngestDocument",
            "DeleteOperation",
        ),
        (
            f"DELETE {_RESPONSE}",
            "POST /v1/conversations",
            f"POST {_CONVERSATION}",
            f"DELETE {_CONVERSATION}",
            f"POST {_CONVERSATION}/items",
            f"DELETE {_CONVERSATION}/items/{{item_id}}",
            "POST /v1/files",
            f"DELETE {_FILE}",
        ),
    ),
    Row(None, (), ("GET /v1/models", "GET /v1/models/{model}")),
)

# Asked by probes, scrapers and generators of clients, who have no key; none of it is a tenant's.
OPEN_PATHS: Final = ("/healthz", "/health", "/metrics", "/schema")

_CACHES: Final = "/isthmus.gateway.v1.CacheService/"
_RPCS: Final = {
    **{
        (OPERATIONS if name.endswith(("Operation", "Operations")) else SERVICE) + name: row.scope
        for row in TABLE
        for name in row.rpcs
    },
    _CACHES + "GetCacheReport": Scope.SESSIONS_READ,
    _CACHES + "MarkWrong": Scope.TURNS,
}
_ROUTES: Final = {route: row.scope for row in TABLE for route in row.routes}


def of_rpc(method: str) -> Scope | None:
    """The scope that an rpc needs, by its full name `/package.Service/Method`."""
    return _RPCS.get(method, Scope.ADMIN)


def of_route(method: str, template: str) -> Scope | None:
    """The scope that an HTTP request needs, by its method and the template of its path."""
    # It says which methods a path has, and nothing else.
    return None if method == "OPTIONS" else _ROUTES.get(f"{method} {template}", Scope.ADMIN)


def is_open(template: str) -> bool:
    """Whether the path of this template is asked without a key."""
    return any(template == each or template.startswith(f"{each}/") for each in OPEN_PATHS)
