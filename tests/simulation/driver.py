"""Drivers of open turns, who may die, stall, fail them, or see another one take them over."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from google.protobuf.message import Message
from isthmus.context.v1 import context_service_pb2 as api
from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from services.digest import EMPTY, chain, item_digest
from services.errors import IsthmusError
from tests.simulation.caller import TOKENIZER, Caller, key_of, milliseconds
from tests.simulation.history import Answered, Renewed
from tests.simulation.plan import Op

_NOT_OURS: Final = (
    errors_pb2.ERROR_REASON_LEASE_LOST,
    errors_pb2.ERROR_REASON_TURN_CANCELLED,
    errors_pb2.ERROR_REASON_TURN_STATE,
)


class Driver:
    """Drives one turn, once."""

    def __init__(
        self, caller: Caller, op: Op, driver: str, opened: api.OpenTurnResponse, random: Random, began: int
    ) -> None:
        self._caller = caller
        self._op = op
        self._driver = driver
        self._opened = opened
        self._random = random
        self._began = began
        self._key = key_of(op.session)
        turn = opened.turn
        self._lease = api.TurnLease(turn=turn.number, attempt=turn.attempt, incarnation=opened.incarnation)
        self._lease_s = caller.plan.lease_ms / 1000

    async def run(self) -> bool:
        """Whether it is known how the turn ended, and its caller content with that."""
        manner = self._random.random()
        if self._random.random() < 0.3:
            await self._read_window()
        if self._random.random() < 0.15 and not await self._replan():
            return False
        if manner < 0.1:
            await asyncio.sleep(self._random.uniform(0, self._lease_s))
            return False
        if manner < 0.25:
            await asyncio.sleep(self._random.uniform(1.0, 2.0) * self._lease_s)
            return await self._commit()
        if manner < 0.32:
            return await self._fail()
        for _ in range(self._random.randint(0, 3)):
            await asyncio.sleep(self._random.uniform(0, self._lease_s / 3))
            if not await self._renew():
                return False
        return await self._commit()

    async def _renew(self) -> bool:
        request = api.RenewTurnRequest(
            key=self._key, lease=self._lease, duration=milliseconds(self._caller.plan.lease_ms)
        )
        sent_s = self._caller.loop.time()
        said = await self._caller.ask(self._driver, "RenewTurn", request, Message)
        if isinstance(said, IsthmusError):
            return self._lost("RenewTurn", said)
        until_s = sent_s + self._lease_s
        self._caller.history.renewed.append(
            Renewed(self._op.session, self._lease.turn, self._lease.attempt, until_s, self._began)
        )
        return True

    def _lost(self, method: str, error: IsthmusError) -> bool:
        if error.reason not in _NOT_OURS:
            self._caller.refused(self._driver, method, self._op.session, error)
        return False

    async def _replan(self) -> bool:
        request = api.ReplanTurnRequest(
            key=self._key,
            lease=self._lease,
            window_tokens_max=self._caller.plan.room_tokens,
            tokenizer=TOKENIZER,
            measured_tokens=self._random.randint(10, 2 * self._caller.plan.room_tokens),
        )
        said = await self._caller.ask(self._driver, "ReplanTurn", request, api.OpenTurnResponse)
        if not isinstance(said, IsthmusError):
            self._opened = said
            return True
        if said.reason == errors_pb2.ERROR_REASON_TURN_TOO_LARGE:
            return True
        return self._lost("ReplanTurn", said)

    async def _read_window(self) -> None:
        manifest = self._opened.manifest
        request = api.ReadWindowRequest(key=self._key, epoch=manifest.epoch, end=manifest.end)
        said = await self._caller.ask(self._driver, "ReadWindow", request, window_pb2.Manifest)
        if isinstance(said, IsthmusError):
            if said.reason != errors_pb2.ERROR_REASON_WINDOW_CHANGED:
                self._caller.refused(self._driver, "ReadWindow", self._op.session, said)
            return
        digest = EMPTY
        for item in said.new_items:
            digest = chain(digest, item_digest(item))
        if digest != manifest.end.digest or len(said.new_items) != manifest.end.item_count:
            self._caller.history.violate(f"{self._driver}: the window that was read is not the manifest's")

    async def _fail(self) -> bool:
        request = api.FailTurnRequest(
            key=self._key, lease=self._lease, reason=errors_pb2.ERROR_REASON_ENGINE_FAILED, message="on purpose"
        )
        said = await self._caller.ask(self._driver, "FailTurn", request, turn_pb2.Turn)
        if isinstance(said, IsthmusError):
            return self._lost("FailTurn", said)
        answered(self._caller, self._op, said, self._began)
        return self._random.random() < 0.5

    async def _commit(self) -> bool:
        words = " ".join("reply" for _ in range(self._random.randint(0, 20)))
        text = f"{self._op.key}={self._driver}.{self._lease.attempt} {words}"
        request = api.CommitTurnRequest(
            key=self._key,
            lease=self._lease,
            output_text=text,
            finish_reason=turn_pb2.FINISH_REASON_STOP,
            tokenizer=TOKENIZER,
        )
        said = await self._caller.ask(self._driver, "CommitTurn", request, api.CommitTurnResponse)
        if isinstance(said, IsthmusError):
            return self._lost("CommitTurn", said)
        is_erased = any(session == self._op.session for session, _ in self._caller.history.erasing)
        if said.turn.output_text != text and not is_erased:
            self._caller.history.violate(f"{self._driver}: committed {text!r}, was told {said.turn.output_text!r}")
        answered(self._caller, self._op, said.turn, self._began)
        return True


def answered(caller: Caller, op: Op, turn: turn_pb2.Turn, began: int) -> None:
    """Notes what a caller was told of a turn that is closed."""
    is_done = turn.state == turn_pb2.Turn.STATE_DONE
    caller.history.answered.append(
        Answered(
            op.session,
            op.key,
            turn.number,
            turn.state,
            turn.output_text if is_done else None,
            turn.first_input_sequence,
            turn.last_output_sequence or turn.last_input_sequence,
            began,
            caller.history.tick(),
        )
    )
