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
_STORES: Final = "/v1/vector_stores"
_STORE: Final = f"{_STORES}/{{vector_store_id}}"
_STORE_FILE: Final = f"{_STORE}/files/{{file_id}}"
_BATCH: Final = f"{_STORE}/file_batches/{{batch_id}}"

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
            f"GET {_STORES}",
            f"GET {_STORE}",
            f"POST {_STORE}/search",
            f"GET {_STORE}/files",
            f"GET {_STORE_FILE}",
            f"GET {_STORE_FILE}/content",
            f"GET {_BATCH}",
            f"GET {_BATCH}/files",
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
            f"POST {_STORES}",
            f"POST {_STORE}",
            f"DELETE {_STORE}",
            f"POST {_STORE}/files",
            f"POST {_STORE_FILE}",
            f"DELETE {_STORE_FILE}",
            f"POST {_STORE}/file_batches",
            f"POST {_BATCH}/cancel",
        ),
    ),
    Row(None, (), ("GET /v1/models", "GET /v1/models/{model}")),
)

# Asked by probes, scrapers and generators of clients, who have no key; none of it is a tenant's.
OPEN_PATHS: Final = ("/healthz", "/health", "/metrics", "/schema")

_CACHES: Final = "/isthmus.gateway.v1.CacheService/"
_AUDITS: Final = "/isthmus.gateway.v1.AuditService/"
_LIBRARIES: Final = "/isthmus.session.v1.LibraryService/"
_LIBRARY_READS: Final = ("GetLibrary", "ListLibraries", "GetDocument", "ListDocuments", "SearchLibrary")
_LIBRARY_WRITES: Final = (
    "CreateLibrary",
    "UpdateLibrary",
    "DeleteLibrary",
    "IngestDocument",
    "UpdateDocument",
    "DeleteDocument",
)
_RPCS: Final = {
    **{
        (OPERATIONS if name.endswith(("Operation", "Operations")) else SERVICE) + name: row.scope
        for row in TABLE
        for name in row.rpcs
    },
    **{_LIBRARIES + name: Scope.SESSIONS_READ for name in _LIBRARY_READS},
    **{_LIBRARIES + name: Scope.SESSIONS_WRITE for name in _LIBRARY_WRITES},
    _CACHES + "GetCacheReport": Scope.SESSIONS_READ,
    _CACHES + "MarkWrong": Scope.TURNS,
    _AUDITS + "GetHallucinationRate": Scope.SESSIONS_READ,
    _AUDITS + "ListAudits": Scope.SESSIONS_READ,
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
