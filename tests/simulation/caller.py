"""What everybody does who asks the store for something: in doubt asks again, and knows a refusal that must not be."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from google.protobuf import duration_pb2
from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.errors.v1 import errors_pb2

from services.errors import IsthmusError
from tests.simulation.history import History
from tests.simulation.network import Network
from tests.simulation.plan import Plan

Answer = TypeVar("Answer", bound=Message)

TENANT: Final = "acme"
TOKENIZER: Final = b"tokenizer-digest"
# How often one thing is begun anew, at most.
ROUNDS_MAX: Final = 200
# Longer than all faults of a run and what they leave behind.
_ANSWER_S_MAX: Final = 30.0

_LATER: Final = (errors_pb2.ERROR_REASON_TURN_IN_PROGRESS, errors_pb2.ERROR_REASON_REVISION_CONFLICT)


class StuckError(Exception):
    """A call has no answer long after all is well again."""


class Caller:
    """The way to the shards, with what is known of the run."""

    def __init__(self, plan: Plan, network: Network, history: History) -> None:
        self.plan = plan
        self.history = history
        self.loop = asyncio.get_running_loop()
        self._network = network

    async def ask(
        self, who: str, method: str, request: Message | list[Message], answer: type[Answer]
    ) -> Answer | IsthmusError:
        """What came of a call, once that is known; of an open turn in the way, it is asked again until it is gone."""
        while True:
            said = await self._network.settled(who, method, request, answer, _ANSWER_S_MAX)
            if said is None:
                raise StuckError(f"{who}: {method} has no answer after {_ANSWER_S_MAX} s")
            if not isinstance(said, IsthmusError) or said.reason not in _LATER:
                return said
            await asyncio.sleep((said.retry_after_ms or 1) / 1000)

    async def try_once(self, who: str, method: str, request: Message, seconds_max: float) -> None:
        """Asks for so long, whatever comes of it."""
        await self._network.settled(who, method, request, Message, seconds_max)

    def refused(self, who: str, method: str, session: str, error: IsthmusError) -> None:
        """A refusal that nobody expects, but where the session may be gone."""
        if error.reason == errors_pb2.ERROR_REASON_NOT_FOUND and self.history.may_be_gone(session):
            return
        self.history.violate(f"{who}: {method} was refused: {error}")


def key_of(session: str) -> api.SessionKey:
    return api.SessionKey(tenant=TENANT, session=session)


def milliseconds(count: int) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(count)
    return duration
