"""Whatever is sent, the answer is OpenAI's error with the right status and a place; and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from isthmus.session.v1 import session_service_pb2
from openai import AsyncOpenAI

from tests.gateway.client import connected
from tests.support.mesh import Mesh

CREATE = "/v1/responses"
CONVERSE = "/v1/conversations"
ITEMS = "/v1/conversations/conv_nobody/items"
ERROR_KEYS = {"message", "type", "param", "code"}

# Method, path, body; status, code, parameter; a part of the message.
RUBBISH: list[tuple[str, str, Any, int, str, str | None, str]] = [
    ("GET", "/v1/nowhere", None, 404, "not_found", None, "/schema/openapi.json"),
    ("PUT", CREATE, None, 405, "method_not_allowed", None, "PUT is not allowed"),
    ("POST", CREATE, b"", 400, "invalid_json", None, "expected one JSON object"),
    ("POST", CREATE, b'{"input":', 400, "invalid_json", None, "truncated"),
    ("POST", CREATE, b'{"input":"\xff"}', 400, "invalid_utf8", None, "byte 10 "),
    ("POST", CREATE, {"input": 3}, 400, "invalid_type", "input", "got `int`"),
    ("POST", CREATE, {"input": "a", "inputs": "b"}, 400, "unknown_parameter", "inputs", "unknown parameter"),
    ("POST", CREATE, {"input": "a", "tools": [{}]}, 400, "missing_required_parameter", "tools[0].type", "of your own"),
    ("POST", CREATE, {"input": "a" * 10_000_000}, 400, "invalid_field", "input", "isthmus ingest"),
    ("POST", CREATE, {"input": "a" * 17_000_000}, 413, "request_too_large", None, "16777216 bytes"),
    ("POST", CREATE, {"input": "a", "conversation": "conv_nobody"}, 404, "not_found", "conversation", "conv_nobody"),
    ("POST", CREATE, {"input": "a", "conversation": "nobody"}, 400, "invalid_field", "conversation", "conv_<session>"),
    (
        "POST",
        CREATE,
        {"input": "a", "previous_response_id": "resp_nobody_1"},
        404,
        "not_found",
        "previous_response_id",
        "resp_nobody_1",
    ),
    (
        "POST",
        CREATE,
        {"input": "a", "max_output_tokens": 1_000_000},
        400,
        "invalid_field",
        "max_output_tokens",
        "expected less than",
    ),
    (
        "POST",
        "/v1/conversations",
        {"items": [{"role": "user"}]},
        400,
        "missing_required_parameter",
        "items[0].content",
        "",
    ),
    ("POST", CONVERSE, {"metadata": {"isthmus.x": ""}}, 400, "invalid_field", "metadata.isthmus.x", "kept"),
    ("POST", ITEMS, {"items": []}, 400, "invalid_value", "items", "length >= 1"),
    ("GET", "/v1/responses/resp_nobody_1", None, 404, "not_found", "response_id", "resp_nobody_1"),
    ("GET", "/v1/responses/nobody", None, 400, "invalid_field", "response_id", "resp_<session>_<turn>"),
    ("DELETE", "/v1/conversations/conv_nobody", None, 404, "not_found", "conversation_id", "conv_nobody"),
    ("GET", ITEMS + "?limit=1000000", None, 400, "invalid_value", "limit", "<= 100"),
    ("GET", ITEMS + "?limit=0", None, 400, "invalid_value", "limit", ">= 1"),
    ("GET", ITEMS + "?limit=many", None, 400, "invalid_value", "limit", "int"),
    ("GET", ITEMS + "?order=random", None, 400, "invalid_value", "order", "random"),
    (
        "GET",
        ITEMS + "?page=2",
        None,
        400,
        "unknown_parameter",
        "page",
        "after, limit, order",
    ),
    (
        "GET",
        ITEMS + "?include[]=x",
        None,
        400,
        "unsupported_parameter",
        "include[]",
        "leave",
    ),
    ("GET", "/v1/responses/resp_nobody_1?stream=true", None, 404, "not_found", "response_id", "resp_nobody_1"),
    ("GET", "/v1/models/nobody", None, 404, "model_not_found", None, "/v1/models"),
]


@pytest.mark.parametrize("engine", [{"context_tokens_max": 8_192}])
async def test_rubbish_gets_its_status_and_a_message_that_helps(mesh: Mesh, http: httpx.AsyncClient) -> None:
    for method, path, body, status, code, param, says in RUBBISH:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        answer = await http.request(method, path, content=content)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), (path, error)
        assert says in error["message"], (path, error)
        assert error.keys() == ERROR_KEYS
        assert error["type"] == "invalid_request_error"
        assert answer.headers["content-type"] == "application/json"
    assert (await http.get("/healthz")).json() == {"status": "ready"}
    async with connected(mesh.grpc_target) as client:
        assert not (await client.stub.ListSessions(session_service_pb2.ListSessionsRequest())).sessions


async def exchange(mesh: Mesh, sent: bytes) -> bytes:
    """All that comes back over a bare connection until the gateway closes it."""
    address = urlsplit(mesh.http_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(sent)
    await writer.drain()
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return received


@pytest.mark.parametrize("bounds", [{"http_body_ms_max": 200}])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"this is no HTTP\r\n\r\n", b"400 Bad Request", "invalid_http"),
        (
            b'POST /v1/responses HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\n{"input": "ha',
            b"408 Request Timeout",
            "request_timeout",
        ),
    ],
)
async def test_half_a_request_is_answered_too(mesh: Mesh, sent: bytes, status: bytes, code: str) -> None:
    head, _, body = (await exchange(mesh, sent)).partition(b"\r\n\r\n")
    assert status in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == code


async def test_a_client_that_leaves_within_its_body_disturbs_nobody(mesh: Mesh, sdk: AsyncOpenAI) -> None:
    address = urlsplit(mesh.http_url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b'POST /v1/responses HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\n{"input": "ha')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await sdk.responses.create(model="scripted", input="hello")).status == "completed"
