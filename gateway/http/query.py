"""Query parameters: those that a route knows, those that OpenAI has and we do not, and all others."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from litestar import Request
from litestar.params import FromQuery, QueryParameter

from gateway.http.errors import Refusal

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
Order = Literal["asc", "desc"]

Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX)]
Ordered: TypeAlias = FromQuery[Order]
After: TypeAlias = FromQuery[str | None]
StartingAfter: TypeAlias = Annotated[int | None, QueryParameter(ge=-1, le=999_999_999)]

_HARMLESS: Final = {
    "stream": ("false",),
    "include": (),
    "include[]": (),
    "include_obfuscation": ("false",),
    "starting_after": (),
    "before": (),
}


async def refuse_unknown(request: Request[Any, Any, Any]) -> None:
    """Refuses, by its name, a query parameter that the route does not take."""
    known = request.route_handler.parsed_fn_signature.parameters
    for name, value in request.query_params.multi_items():
        if name in _HARMLESS and name not in known:
            _refuse_unless(name, value)
        elif name not in known:
            expected = ", ".join(sorted(_QUERY & known.keys())) or "none"
            message = f"{name}: unknown query parameter; expected {expected}"
            raise Refusal(400, "unknown_parameter", name, message)


def _refuse_unless(name: str, value: str) -> None:
    if value.lower() not in _HARMLESS[name]:
        raise Refusal(400, "unsupported_parameter", name, f"{name}: is not supported here; leave it out")


_QUERY: Final = frozenset({"limit", "order", "after", "stream", "starting_after", "purpose", "filter"})
