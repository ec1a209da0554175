"""`/v1/models`: what the replicas serve now."""

from __future__ import annotations

from isthmus.errors.v1 import errors_pb2
from litestar import get
from litestar.params import FromPath

from gateway.http.edge import GivenEdge
from gateway.http.errors import ERRORS
from gateway.http.objects import Model, ModelList
from services.errors import IsthmusError

# Members tell what they serve, not since when it exists.
_CREATED = 0


@get("/v1/models", responses=ERRORS)
async def list_models(edge: GivenEdge) -> ModelList:
    """Every model that some replica serves."""
    return ModelList([Model(name, _CREATED) for name in edge.backend.models()])


@get("/v1/models/{model:path}", responses=ERRORS)
async def get_model(edge: GivenEdge, model: FromPath[str]) -> Model:
    """One of them; its name may hold slashes."""
    name = model.removeprefix("/")
    if name not in edge.backend.models():
        message = f"model: {name} is served by no replica now; expected one that /v1/models lists"
        raise IsthmusError(errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, message)
    return Model(name, _CREATED)
