"""Exact token counts from whatever replica answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import grpc
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc
from isthmus.session.v1 import fragment_pb2, message_pb2

from services.config import CompressorSettings
from services.errors import IsthmusError, from_rpc_error
from services.router import INFERENCE, Router

COUNT_TOKENS: Final = "/isthmus.inference.v1.InferenceService/CountTokens"
# What the contract allows in one request.
_ITEMS_MAX: Final = 1_024


class TokenCounter:
    """Counts for one session, or for none: the ring sends the same key to the same replica.

    All counts of one counter are meant in `tokenizer`, which is empty before the first. Raises UPSTREAM_UNAVAILABLE
    while no replica answers.
    """

    def __init__(self, router: Router, settings: CompressorSettings, tenant: str, session: str) -> None:
        self._router = router
        self._settings = settings
        self._tenant = tenant
        self._session = session
        self.tokenizer = b""

    async def fragments(self, fragments: Sequence[fragment_pb2.Fragment]) -> list[int]:
        """The tokens of each fragment as the model sees it in a window."""
        return await self._items([_item(fragment) for fragment in fragments])

    async def text(self, text: str) -> int:
        """The tokens of a text by itself, without the frame that an item has in a window."""
        pieces = [_message(piece) for piece in _pieces(text, self._settings.count_bytes_max)]
        frame, *tokens = await self._items([_message(""), *pieces])
        return sum(tokens) - frame * len(pieces)

    async def _items(self, items: Sequence[window_pb2.WindowItem]) -> list[int]:
        counts: list[int] = []
        for batch in _batches(items, self._settings.count_bytes_max):
            response = await self._ask(contract.CountTokensRequest(items=batch))
            if self.tokenizer and response.tokenizer != self.tokenizer:
                # A rollout is under way: counts of two tokenizers would add up to nonsense.
                raise IsthmusError(
                    errors_pb2.ERROR_REASON_UPSTREAM_UNAVAILABLE, "the replica's tokenizer changed between two counts"
                )
            self.tokenizer = response.tokenizer
            counts += response.tokens
        return counts

    async def _ask(self, request: contract.CountTokensRequest) -> contract.CountTokensResponse:
        attempts = self._settings.count_attempts_count_max
        while True:
            member, channel = self._router.inference(self._tenant, self._session, {})
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            attempts -= 1
            try:
                response: contract.CountTokensResponse = await stub.CountTokens(
                    request, timeout=self._settings.call_ms_max / 1000
                )
                return response
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._router.suspect(INFERENCE, member.id)
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not attempts:
                    raise from_rpc_error(error) from error


def _item(fragment: fragment_pb2.Fragment) -> window_pb2.WindowItem:
    return window_pb2.WindowItem(
        kind=window_pb2.WindowItemKind.ValueType(fragment.kind),
        role=fragment.role,
        author=fragment.author,
        text=fragment.text,
        part=fragment.part,
    )


def _message(text: str) -> window_pb2.WindowItem:
    return window_pb2.WindowItem(kind=window_pb2.WINDOW_ITEM_KIND_MESSAGE, role=message_pb2.ROLE_USER, text=text)


def _batches(items: Sequence[window_pb2.WindowItem], bytes_max: int) -> Iterator[list[window_pb2.WindowItem]]:
    """The items in order, in requests of at most 1,024 items and about `bytes_max` bytes."""
    batch: list[window_pb2.WindowItem] = []
    size = 0
    for item in items:
        item_size = item.ByteSize()
        if batch and (len(batch) == _ITEMS_MAX or size + item_size > bytes_max):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_size
    if batch:
        yield batch


def _pieces(text: str, bytes_max: int) -> Iterator[str]:
    """A text in pieces of at most `bytes_max` bytes, cut in front of a line end where it has one.

    Tokenizers of the GPT-2 family never join the last line end in front of a word with what stands before it, so
    the pieces' counts add up to the whole's.
    """
    # No character has more than four bytes.
    step = bytes_max // 4
    start = 0
    while len(text) - start > step:
        cut = text.rfind("\n", start + 1, start + step)
        cut = cut if cut > start + step // 2 else start + step
        yield text[start:cut]
        start = cut
    yield text[start:]
