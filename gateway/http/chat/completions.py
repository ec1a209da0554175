"""`/v1/chat/completions`: a turn of whichever session has the beginning of what the client sends.

Nothing but the store is needed to recognise it: any gateway does. The header `Idempotency-Key` makes a completion take
effect once, however often it is sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from litestar import Response as Answer
from litestar import post
from litestar.params import JSONBody

from gateway.http.body import BoundedRequest, refuse_unsupported
from gateway.http.caching import policy_of
from gateway.http.chat.history import history
from gateway.http.chat.objects import ChatCompletion
from gateway.http.chat.params import sampling
from gateway.http.chat.run import ChatRequest, ChatRun
from gateway.http.chat.shapes import UNSUPPORTED, CreateChatCompletion
from gateway.http.connection import EventStream, while_connected
from gateway.http.edge import GivenEdge
from gateway.http.errors import ERRORS
from gateway.http.messages import labels
from gateway.http.responses import idempotency_key
from services.errors import InvalidField


@post("/v1/chat/completions", responses=ERRORS, status_code=200)
async def create_chat_completion(
    data: JSONBody[CreateChatCompletion], request: BoundedRequest, edge: GivenEdge
) -> Answer[ChatCompletion]:
    """Runs a turn on what is new in the messages and answers with it, whole or as server-sent events."""
    # A history of megabytes takes its time to digest: what other turns say goes out meanwhile.
    asked = await asyncio.to_thread(chat_request, data, idempotency_key(request))
    asked = replace(asked, cache=policy_of(request))
    run = ChatRun(edge, asked, request.state.received_at)
    if data.stream:
        return EventStream(run.stream(), lambda: run.headers)
    return Answer(await while_connected(request.receive, run.answer()), headers=run.headers)


def chat_request(body: CreateChatCompletion, key: str) -> ChatRequest:
    """Checks the body; InvalidField or Refusal by the parameter's name."""
    refuse_unsupported(body, UNSUPPORTED)
    if body.stream_options is not None and not body.stream:
        raise InvalidField("stream_options", "is set without a stream; expected stream: true with it")
    metadata = None if body.metadata is None else labels(body.metadata)
    return ChatRequest(body, sampling(body), history(body), metadata, key)
