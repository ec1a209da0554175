"""The benchmark in the gateway's place: it says which replica a turn goes to, and what its window holds."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import grpc
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import context_service_pb2_grpc, summary_pb2, window_pb2
from isthmus.inference.v1 import inference_service_pb2 as contract
from isthmus.inference.v1 import inference_service_pb2_grpc
from isthmus.session.v1 import message_pb2, turn_pb2

from services.cli.bench.timed import Stopwatch, TimedTurn, greedy
from services.config import RpcSettings
from services.digest import DIGEST_BYTES, EMPTY, chain, item_digest
from services.rpc import redirects
from services.rpc.channels import channel_options

if TYPE_CHECKING:
    from isthmus.context.v1.context_service_pb2_grpc import ContextServiceAsyncStub
    from isthmus.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

# More than any window here: an epoch never ends.
UNBOUNDED: Final = 1 << 40
_CALL_S_MAX: Final = 60.0
_TURN_S_MAX: Final = 900.0
_LEASE_MS: Final = 60_000
_REPLY: Final = window_pb2.WINDOW_ITEM_KIND_REPLY


@dataclass(frozen=True, slots=True)
class Reply:
    """What a replica has said to a window, and the counts that the store is to keep."""

    text: str
    finish_reason: turn_pb2.FinishReason.ValueType
    counts: Sequence[summary_pb2.TokenCount]
    turn: TimedTurn


class Driver:
    """Channels to a shard and to the replicas, whose numbers are places in `replicas`. Errors are grpc's own.

    Its sessions are of a tenant of their own, so that engines that keep tenants' caches apart keep these apart from
    what the gateway's sessions have left.
    """

    def __init__(self, shard: str, replicas: Sequence[str], tenant: str, output_tokens: int) -> None:
        rpc = RpcSettings()
        options = channel_options(rpc, rpc.message_bytes_max, ())
        self._channels = [grpc.aio.insecure_channel(target, options=options) for target in (shard, *replicas)]
        first, *others = self._channels
        self._store: ContextServiceAsyncStub = context_service_pb2_grpc.ContextServiceStub(first)
        self._replicas: list[InferenceServiceAsyncStub] = [
            inference_service_pb2_grpc.InferenceServiceStub(channel) for channel in others
        ]
        self._tenant = tenant
        self._params = greedy(output_tokens)
        self._model = contract.Model()
        self._sessions: list[str] = []

    async def __aenter__(self) -> Self:
        self._model = await self._replicas[0].GetModel(contract.GetModelRequest(), timeout=_CALL_S_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with AsyncExitStack() as stack:
            for channel in self._channels:
                stack.push_async_callback(channel.close)

    @property
    def model(self) -> contract.Model:
        """What the replicas serve."""
        return self._model

    async def create(self, session: str, texts: Sequence[str] = ()) -> None:
        """Makes the session with the messages in it."""
        made = api.CreateSessionRequest(tenant=self._tenant, session_id=session)
        await self._store.CreateSession(made, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
        self._sessions.append(session)
        for text in texts:
            request = api.AppendMessagesRequest(
                key=self._key(session),
                messages=[_user(text)],
                request_id=secrets.token_hex(8),
                body_digest=EMPTY,
            )
            await self._store.AppendMessages(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)

    async def clear(self) -> None:
        """Erases what `create` has made."""
        while self._sessions:
            request = api.DeleteSessionRequest(key=self._key(self._sessions.pop()))
            await self._store.DeleteSession(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)

    async def turn(self, session: str, text: str, replica: int, window_tokens_max: int = UNBOUNDED) -> TimedTurn:
        """A whole turn as the gateway runs it, at the replica of that number."""
        request = api.OpenTurnRequest(
            key=self._key(session),
            request_id=secrets.token_hex(8),
            body_digest=EMPTY,
            driver=secrets.token_hex(8),
            messages=[_user(text)],
            model=self._model.name,
            window_tokens_max=window_tokens_max,
            tokenizer=self._model.tokenizer,
        )
        request.lease.FromMilliseconds(_LEASE_MS)
        watch = Stopwatch()
        opened = await self._store.OpenTurn(request, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
        said = await self.generate(session, opened.manifest, replica, watch)
        turn = opened.turn
        lease = api.TurnLease(turn=turn.number, attempt=turn.attempt, incarnation=opened.incarnation)
        commit = api.CommitTurnRequest(
            key=self._key(session),
            lease=lease,
            output_text=said.text,
            finish_reason=said.finish_reason,
            tokenizer=self._model.tokenizer,
            counts=said.counts,
        )
        await self._store.CommitTurn(commit, metadata=redirects.METADATA, timeout=_CALL_S_MAX)
        return said.turn

    async def generate(self, session: str, manifest: window_pb2.Manifest, replica: int, watch: Stopwatch) -> Reply:
        """A reply to the manifest's window."""
        request = contract.GenerateRequest(
            tenant=self._tenant, session=session, manifest=manifest, params=self._params, model=self._model.name
        )
        pieces: list[str] = []
        started, finished = contract.GenerateResponse.Started(), contract.GenerateResponse.Finished()
        async for response in self._replicas[replica].Generate(request, timeout=_TURN_S_MAX):
            if response.HasField("started"):
                started = response.started
            elif response.HasField("delta"):
                watch.heard(response.delta.text)
                pieces.append(response.delta.text)
            else:
                finished = response.finished
        timed = TimedTurn(
            ttft_ms=watch.ttft_ms,
            wall_ms=watch.wall_ms,
            epoch=manifest.epoch,
            replica=started.replica,
            window_tokens=started.window_tokens,
            cached_tokens=finished.cached_tokens if finished.HasField("cached_tokens") else None,
            resident=finished.resident,
            legs={},
        )
        return Reply("".join(pieces), finished.finish_reason, finished.counts, timed)

    async def count(self, items: Sequence[window_pb2.WindowItem]) -> list[int]:
        """The items' tokens as the model sees them."""
        request = contract.CountTokensRequest(items=items)
        return list((await self._replicas[0].CountTokens(request, timeout=_CALL_S_MAX)).tokens)

    def _key(self, session: str) -> api.SessionKey:
        return api.SessionKey(tenant=self._tenant, session=session)


class SlidingWindow:
    """A conversation without a store: each turn drops the oldest messages until the rest fits, and sends it whole.

    What is left begins with a message of the user's, as chat templates want it.
    """

    def __init__(self, driver: Driver, session: str, tokens_max: int) -> None:
        self._driver = driver
        self._session = session
        self._tokens_max = tokens_max
        self._items: deque[window_pb2.WindowItem] = deque()
        self._tokens = 0
        self._sequence = 0

    async def turn(self, text: str) -> TimedTurn:
        """Says the text at the first replica."""
        await self._add(window_pb2.WINDOW_ITEM_KIND_MESSAGE, message_pb2.ROLE_USER, text)
        while len(self._items) > 1 and (self._tokens > self._tokens_max or self._items[0].kind == _REPLY):
            self._tokens -= self._items.popleft().tokens
        said = await self._driver.generate(self._session, manifest(self._items), 0, Stopwatch())
        await self._add(_REPLY, message_pb2.ROLE_ASSISTANT, said.text)
        return said.turn

    async def _add(
        self, kind: window_pb2.WindowItemKind.ValueType, role: message_pb2.Role.ValueType, text: str
    ) -> None:
        self._sequence += 1
        item = window_pb2.WindowItem(
            kind=kind, role=role, text=text, first_sequence=self._sequence, last_sequence=self._sequence
        )
        item.digest = item_digest(item)
        (item.tokens,) = await self._driver.count([item])
        item.tokens_exact = True
        self._items.append(item)
        self._tokens += item.tokens


def manifest(items: Sequence[window_pb2.WindowItem]) -> window_pb2.Manifest:
    """The manifest of a window that travels whole: it begins at nothing and has all its items with it."""
    digest = EMPTY
    for item in items:
        digest = chain(digest, item.digest)
    return window_pb2.Manifest(
        epoch=1,
        end=window_pb2.Checkpoint(item_count=len(items), digest=digest),
        tokens=sum(item.tokens for item in items),
        prefix=window_pb2.Checkpoint(item_count=0, digest=bytes(DIGEST_BYTES)),
        new_items=items,
    )


def _user(text: str) -> message_pb2.Message:
    return message_pb2.Message(role=message_pb2.ROLE_USER, text=text)
