"""Anything at all sent to every rpc of the gateway: it answers or says what was wrong, and no error is ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isthmus.gateway.v1 import cache_service_pb2, pool_service_pb2
from isthmus.session.v1 import message_pb2, session_service_pb2

from services.cli.client import Client
from tests.support.processes import ProcessMesh

OURS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNIMPLEMENTED}
CALL_S_MAX = 2.0
PATIENCE_MS = 60_000
DEPTH_MAX = 4
NAMES = (
    "sessions/s1",
    "sessions/s1/turns/1",
    "sessions/s1/turns/999999999999999999",
    "sessions/s1/fragments/1",
    "sessions/s1/documents/d1",
    "sessions/nobody",
    "s1",
)
SERVICES = (
    session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
    operations_pb2.DESCRIPTOR.services_by_name["Operations"],
    pool_service_pb2.DESCRIPTOR.services_by_name["PoolService"],
    cache_service_pb2.DESCRIPTOR.services_by_name["CacheService"],
)
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]

texts = st.one_of(st.sampled_from(NAMES), st.text(max_size=20), st.just(""))
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 6),
}


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Anything that one value of the field may be."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type, depth - 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=20) if field.type == FieldDescriptor.TYPE_BYTES else texts
    return SCALARS[field.cpp_type]


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, depth: int = DEPTH_MAX) -> Message:
    """A message with any of its fields set to anything; maps stay empty."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map or (depth == 0 and field.message_type is not None) or not draw(st.booleans()):
            continue
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(values(field, depth), max_size=3)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values(field, depth)))
        else:
            setattr(message, field.name, draw(values(field, depth)))
    return message


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A mesh with one session, which has one turn."""
    mesh = ProcessMesh(Path(tmp_path_factory.mktemp("home")), "--shards", "1")
    mesh.start()
    with Client(mesh.grpc, PATIENCE_MS) as client:
        client.ensure_session("s1")
        said = message_pb2.Message(role=message_pb2.ROLE_USER, text="Hello.")
        assert list(client.stub.RunTurn(session_service_pb2.RunTurnRequest(session="sessions/s1", messages=[said])))
    with grpc.insecure_channel(mesh.grpc) as channel:
        yield channel
    assert mesh.stop() == 0, "no process fell over it"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_request_is_an_error_of_ours(channel: grpc.Channel, method: MethodDescriptor) -> None:
    shape = "_".join("stream" if one else "unary" for one in (method.client_streaming, method.server_streaming))
    answer = GetMessageClass(method.output_type)
    call = getattr(channel, shape)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(messages(method.input_type), min_size=1, max_size=3 if method.client_streaming else 1))
    def ask(requests: list[Message]) -> None:
        sent = iter(requests) if method.client_streaming else requests[0]
        try:
            heard = call(sent, timeout=CALL_S_MAX)
            for _ in heard if method.server_streaming else ():
                pass
        except grpc.RpcError as error:
            assert error.code() not in OURS, error  # noqa: PT017 - what it was is what is tested

    ask()
