"""InferenceService: generate, embed, count, and say what model this is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, Final

from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc

from inference.embeddings import Embedder
from inference.generation import Generator
from inference.template import ChatTemplate
from services.errors import InvalidField, IsthmusError

Context = Any


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """The rpcs of a replica that is loaded; items are counted in `executor`, off the event loop."""

    def __init__(
        self,
        model: contract.Model,
        generator: Generator,
        template: ChatTemplate,
        embedder: Embedder,
        executor: Executor,
    ) -> None:
        self._model: Final = model
        self._served: Final = (model.name, *model.adapters)
        self._generator = generator
        self._template = template
        self._embedder = embedder
        self._executor = executor

    async def Generate(  # noqa: N802
        self, request: contract.GenerateRequest, context: Context
    ) -> AsyncGenerator[contract.GenerateResponse, None]:
        if request.model and request.model not in self._served:
            raise _no_model(request.model, *self._served)
        if request.manifest.end.item_count < 1:
            raise InvalidField("manifest.end", "expected the window's end, after at least one item")
        if request.HasField("emitted") and request.emitted.tokenizer != self._model.tokenizer:
            # Ids of another tokenizer mean something else here; the text means the same.
            del request.emitted.token_ids[:]
        async with aclosing(self._generator.generate(request)) as responses:
            async for response in responses:
                yield response

    async def Embed(self, request: contract.EmbedRequest, context: Context) -> contract.EmbedResponse:  # noqa: N802
        if request.model and request.model != self._embedder.model:
            raise _no_model(request.model, self._embedder.model)
        embedded = await self._embedder.embed(request.texts)
        return contract.EmbedResponse(
            vectors=embedded.vectors.astype("<f4").tobytes(),
            dimensions=self._embedder.dimensions,
            model=self._embedder.model,
            tokens=embedded.tokens,
        )

    async def CountTokens(  # noqa: N802
        self, request: contract.CountTokensRequest, context: Context
    ) -> contract.CountTokensResponse:
        if request.model == self._embedder.model:
            counts = await self._embedder.count([item.text for item in request.items])
            return contract.CountTokensResponse(tokens=counts, tokenizer=self._embedder.tokenizer)
        if request.model and request.model not in self._served:
            raise _no_model(request.model, *self._served, self._embedder.model)
        loop = asyncio.get_running_loop()
        counts = await loop.run_in_executor(self._executor, self._template.counts, request.items)
        return contract.CountTokensResponse(tokens=counts, tokenizer=self._model.tokenizer)

    async def GetModel(self, request: contract.GetModelRequest, context: Context) -> contract.Model:  # noqa: N802
        return self._model

    async def ForgetSession(  # noqa: N802
        self, request: contract.ForgetSessionRequest, context: Context
    ) -> contract.ForgetSessionResponse:
        erasures = await self._generator.forget(request.tenant, request.session)
        return contract.ForgetSessionResponse(erasures=erasures)


def _no_model(wanted: str, *served: str) -> IsthmusError:
    names = ", ".join(map(repr, served))
    return IsthmusError(
        errors_pb2.ERROR_REASON_MODEL_NOT_FOUND, f"model {wanted!r} is not served here; expected {names} or none"
    )
