"""CompressionService.Compress over gRPC, with and without a replica to count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from isthmus.compression.v1 import compression_service_pb2 as contract
from isthmus.compression.v1.compression_service_pb2_grpc import CompressionServiceStub
from isthmus.errors.v1 import errors_pb2

from compressor.room import CompressorRoom
from services.config import Settings
from services.errors import from_rpc_error
from tests.compressor.texts import story
from tests.support.mesh import COMPRESSOR, Mesh, changed, running_mesh

if TYPE_CHECKING:
    from isthmus.compression.v1.compression_service_pb2_grpc import CompressionServiceAsyncStub

TEXT = story(300)


@pytest_asyncio.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    """A replica that counts, and no store: texts of callers need none."""
    settings = changed(settings, "inference", engine="scripted")
    async with running_mesh(settings, shards=0, replicas=1, gateways=0) as mesh:
        yield mesh


@asynccontextmanager
async def compressor(mesh: Mesh, settings: Settings) -> AsyncIterator[CompressionServiceAsyncStub]:
    """A compressor of these settings."""
    room = await mesh.add(CompressorRoom, f"{COMPRESSOR}-0", settings)
    assert isinstance(room, CompressorRoom)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(room.address, options=options) as channel:
        yield CompressionServiceStub(channel)


@pytest_asyncio.fixture
async def stub(mesh: Mesh) -> AsyncIterator[CompressionServiceAsyncStub]:
    async with compressor(mesh, mesh.settings) as stub:
        yield stub


def assert_taken_from(text: str, response: contract.CompressResponse) -> None:
    """Every sentence stands in the text at its bytes, and they are in order."""
    data, position = text.encode(), 0
    for sentence in response.sentences:
        assert position <= sentence.start_byte < sentence.end_byte
        assert data[sentence.start_byte : sentence.end_byte].decode() == sentence.text
        position = sentence.end_byte


async def test_a_text_is_kept_to_a_number_of_tokens(stub: CompressionServiceAsyncStub) -> None:
    response = await stub.Compress(contract.CompressRequest(text=TEXT, target_tokens=200))

    assert_taken_from(TEXT, response)
    assert 180 <= response.output_tokens <= 200 < response.input_tokens
    assert (response.method, response.version) == ("extractive-coverage", 1)
    again = await stub.Compress(contract.CompressRequest(text=TEXT, target_tokens=200))
    assert again == response


async def test_a_text_is_kept_to_a_share_of_its_tokens(stub: CompressionServiceAsyncStub) -> None:
    whole = await stub.Compress(contract.CompressRequest(text=TEXT, target_ratio=1.0))
    tenth = await stub.Compress(contract.CompressRequest(text=TEXT, target_ratio=0.1))

    assert " ".join(sentence.text for sentence in whole.sentences).split() == TEXT.split()
    assert whole.output_tokens == whole.input_tokens
    assert 0.09 * tenth.input_tokens <= tenth.output_tokens <= 0.1 * tenth.input_tokens


async def test_bytes_are_counted_in_utf8(stub: CompressionServiceAsyncStub) -> None:
    text = "Größe zählt nicht. " * 3 + "東京は1869年から首都です。Über Öl ✓ sprach man in Zürich."
    response = await stub.Compress(contract.CompressRequest(text=text, target_ratio=0.9))

    assert response.sentences
    assert_taken_from(text, response)


async def test_a_text_without_words_leaves_nothing(stub: CompressionServiceAsyncStub) -> None:
    for text in ("   \n\n\t", "!!! ... ---"):
        response = await stub.Compress(contract.CompressRequest(text=text, target_ratio=0.9))

        assert not response.sentences
        assert response.output_tokens == 0 < response.input_tokens


async def test_the_longest_text_is_taken(stub: CompressionServiceAsyncStub) -> None:
    text = (story(20_000) * 4)[: 4 << 20]
    response = await stub.Compress(contract.CompressRequest(text=text, target_tokens=1_000), timeout=60)

    assert 900 <= response.output_tokens <= 1_000
    assert_taken_from(text, response)


BROKEN = [
    (contract.CompressRequest(text="", target_tokens=1), "text"),
    (contract.CompressRequest(text="x" * ((4 << 20) + 1), target_tokens=1), "text"),
    (contract.CompressRequest(text="a text"), "target"),
    (contract.CompressRequest(text="a text", target_tokens=0), "target_tokens"),
    (contract.CompressRequest(text="a text", target_ratio=1.5), "target_ratio"),
    (contract.CompressRequest(text="a text", target_ratio=float("nan")), "target_ratio"),
]


async def test_what_breaks_the_contract_is_refused_by_name(stub: CompressionServiceAsyncStub) -> None:
    for request, field in BROKEN:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Compress(request)

        error = from_rpc_error(refused.value)
        assert error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD
        assert {violation.field for violation in error.fields} == {field}


async def test_without_a_replica_the_target_is_kept_by_estimate(mesh: Mesh) -> None:
    await mesh.remove("inference-0")
    async with compressor(mesh, mesh.settings) as stub:
        response = await stub.Compress(contract.CompressRequest(text=TEXT, target_tokens=300))

    assert_taken_from(TEXT, response)
    assert response.input_tokens == response.output_tokens == 0
    assert 600 < sum(len(sentence.text) for sentence in response.sentences) <= 900


async def test_more_texts_than_there_are_places_for_are_refused(mesh: Mesh) -> None:
    async with compressor(mesh, changed(mesh.settings, "compressor", texts_concurrent_max=1)) as stub:
        request = contract.CompressRequest(text=TEXT * 20, target_ratio=0.5)
        calls = [stub.Compress(request) for _ in range(4)]
        codes = sorted([await call.code() for call in calls], key=lambda code: code.name)

    assert codes[0] is grpc.StatusCode.OK
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
