"""`/v1/embeddings`: vectors of texts, by the model that the replicas have for that."""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from litestar import post
from litestar.params import JSONBody
from msgspec import Meta

from gateway.http.body import BoundedRequest
from gateway.http.connection import while_connected
from gateway.http.edge import Edge, GivenEdge
from gateway.http.errors import ERRORS, Refusal
from gateway.http.limits import user_of
from gateway.models.embedding import Embedded
from services.errors import InvalidField, IsthmusError
from services.limits.money import Tokens

TEXTS_COUNT_MAX: Final = 1_024
TEXT_BYTES_MAX: Final = 65_536
# Texts and, to be refused by their name, token ids.
_Input: TypeAlias = str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=TEXTS_COUNT_MAX)]


class CreateEmbeddings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/embeddings.

    - `input` is a text or a list of texts, each of at most 65,536 bytes of UTF-8; token ids are not taken.
    - `model` names the model that makes vectors, or one that /v1/models lists: then that which its replicas have.
    - `dimensions` may be those that the model has, and no others.
    - `user` is not kept; it says whose limits this counts against.
    """

    input: _Input
    model: str = ""
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class VectorOfText(msgspec.Struct, frozen=True):
    """A vector of unit length: numbers, or the base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True):
    """The vectors in the order of the texts."""

    data: list[VectorOfText]
    model: str
    usage: EmbeddingsUsage
    object: Literal["list"] = "list"


@post("/v1/embeddings", responses=ERRORS, status_code=200)
async def create_embeddings(
    data: JSONBody[CreateEmbeddings], request: BoundedRequest, edge: GivenEdge
) -> EmbeddingList:
    """A vector for each text, all or none."""
    found = await while_connected(request.receive, _embed(edge, data))
    encoded = [_encoded(vector, data.encoding_format) for vector in found.vectors]
    return EmbeddingList(
        data=[VectorOfText(index, vector) for index, vector in enumerate(encoded)],
        model=found.model,
        usage=EmbeddingsUsage(found.tokens, found.tokens),
    )


def texts_of(body: CreateEmbeddings) -> list[str]:
    """The texts; InvalidField or Refusal by the place of one that cannot be."""
    texts: list[str] = []
    for index, text in enumerate([body.input] if isinstance(body.input, str) else body.input):
        path = "input" if isinstance(body.input, str) else f"input[{index}]"
        if not isinstance(text, str):
            raise Refusal(400, "unsupported_parameter", "input", f"{path}: token ids are not supported; expected texts")
        size = len(text.encode())
        if not 1 <= size <= TEXT_BYTES_MAX:
            raise InvalidField(path, f"is {size} bytes of UTF-8, expected 1 to {TEXT_BYTES_MAX}")
        texts.append(text)
    return texts


async def _embed(edge: Edge, body: CreateEmbeddings) -> Embedded:
    texts = texts_of(body)
    size = sum(len(text.encode()) for text in texts)
    try:
        async with edge.turns.admission.embedding(edge.tenant, user_of(body.user), body.model, size) as entry:
            found = await edge.backend.embed(texts, body.model, body.dimensions)
            entry.settle(Tokens(found.tokens))
            return found
    except IsthmusError as error:
        path = error.fields[0].field if error.fields else ""
        if not path.startswith("texts"):
            raise
        name = "input" if isinstance(body.input, str) else path.replace("texts", "input", 1)
        raise InvalidField(name, error.fields[0].description) from error


def _encoded(vector: bytes, encoding: Literal["float", "base64"] | None) -> list[float] | str:
    if encoding == "base64":
        return b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
