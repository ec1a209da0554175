"""`/healthz`, and `/health` for who expects it there: whether this gateway takes requests."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from services.lifecycle import Lifecycle, State


class Health(msgspec.Struct, frozen=True):
    """Where the process stands: starting, ready, draining or stopped."""

    status: str


@get(["/healthz", "/health"])
async def healthz(lifecycle: NamedDependency[Lifecycle]) -> Response[Health]:
    """200 while requests are taken, 503 otherwise."""
    status_code = 200 if lifecycle.state is State.READY else 503
    return Response(Health(lifecycle.state.value), status_code=status_code)
