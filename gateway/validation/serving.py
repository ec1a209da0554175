"""A turn's reply looked through on its way to the client: it has the methods of ServedReply, and takes its place."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias

from isthmus.context.v1 import context_service_pb2, window_pb2
from isthmus.session.v1 import turn_pb2

from gateway.caches.serving import ServedReply
from gateway.shards import Shards
from gateway.turn.calls import Errand, Reply
from gateway.turn.receipt import Ledger
from gateway.turn.reply import ReplyStream
from gateway.validation.checks import FORM, GROUNDING, Checks
from gateway.validation.filter import Action, Blocked
from gateway.validation.held import Held
from gateway.validation.judging import Judging, Problem

Piece = context_service_pb2.OutputPiece
Event: TypeAlias = Piece | turn_pb2.Hop | turn_pb2.RefusedTry
_TOLD: Final = {
    Action.FLAG: turn_pb2.Finding.ACTION_FLAGGED,
    Action.REDACT: turn_pb2.Finding.ACTION_REDACTED,
}


class Refusal(Exception):  # noqa: N818 - no error of anybody's, but what was asked for
    """This try is not given out; `action` says what becomes of the turn."""

    def __init__(self, problem: Problem, action: Action) -> None:
        super().__init__(f"{problem.check}: {problem.kind}")
        self.problem = problem
        self.action = action


class CheckedReply:
    """`begin`, then `events` once, `reply` after that, `close` in any case, and `committed` once the turn is done.

    A try that is refused is replaced by one that `anew` makes: the number of that, from 1 on.
    """

    def __init__(
        self,
        served: ServedReply,
        anew: Callable[[int], ReplyStream],
        errand: Errand,
        shards: Shards,
        ledger: Ledger,
        checks: Checks,
    ) -> None:
        self._served = served
        self._anew = anew
        self._errand = errand
        self._ledger = ledger
        self._checks = checks
        self._judging = Judging(errand, shards, checks)
        self._manifest = window_pb2.Manifest()
        self._said: Sequence[Piece] = ()
        self._number = 0
        self._filter = checks.filter(is_last=self._is_last)
        self._held: Held | None = None
        self._parts: list[str] = []
        self._is_cut = False
        self._found: list[turn_pb2.Finding] = []

    @property
    def finished_hops(self) -> Sequence[turn_pb2.Hop]:
        """As ServedReply has it."""
        return self._served.finished_hops

    async def begin(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        """As ServedReply has it."""
        self._manifest = manifest
        return await self._served.begin(manifest)

    def resume(self, said: Sequence[Piece]) -> None:
        """As ServedReply has it: what was said has been looked through, and is behind every try."""
        self._said = said
        self._parts = [piece.text for piece in said]
        self._served.resume(said)

    async def events(self) -> AsyncGenerator[Event, None]:
        """The reply as it comes, what may still become a find held back; where a check needs the whole reply, nothing
        before that has judged it, and a try that is refused as what it took. Raises CONTENT_BLOCKED, OUTPUT_INVALID.
        """
        while True:
            try:
                async with aclosing(self._tried()) as events:
                    async for event in events:
                        yield event
                break
            except Refusal as raised:
                refusal = raised
            problem = refusal.problem
            if self._checks.holds:
                tokens = self._served.output_tokens
                yield self._ledger.refused(time.monotonic(), problem.check, problem.kind, tokens, problem.score)
            if refusal.action is not Action.RETRY or time.monotonic() >= self._errand.until:
                raise problem.error(self._number + 1)
            for hop in await self._begin_anew():
                yield hop
        self._ledger.found(self._found)

    def reply(self) -> Reply:
        """The whole reply as the client has it, once `events` has ended."""
        made = self._served.reply()
        reason = turn_pb2.FINISH_REASON_LENGTH if self._is_cut else made.finish_reason
        return Reply("".join(self._parts), reason, made.counts) if self._parts else made

    def close(self) -> None:
        """As ServedReply has it."""
        self._served.close()

    async def committed(self, turn: str) -> None:
        """As ServedReply has it. What is kept is what the client has read, and is checked again when it is given; a
        reply that stayed for want of a better one is not given to anybody else.
        """
        retried = (each for each in self._found if self._checks.action(each.check, is_last=False) is Action.RETRY)
        if next(retried, None) is None:
            await self._served.committed(turn, self.reply())

    async def _tried(self) -> AsyncGenerator[Piece | turn_pb2.Hop, None]:
        """One try. Raises Refusal."""
        self._held = Held() if self._checks.holds else None
        try:
            async with aclosing(self._served.events()) as events:
                async for event in events:
                    if isinstance(event, turn_pb2.Hop):
                        yield event
                    elif (piece := self._passed(event)) is not None:
                        yield piece
                    if self._is_full():
                        break
            if rest := self._filter.finish():
                self._parts.append(rest)
                if self._held is None:
                    yield Piece(text=rest)
                else:
                    self._held.put(Piece(text=rest))
        except Blocked as blocked:
            match = blocked.match
            action = self._checks.action(match.check, is_last=self._is_last)
            raise Refusal(Problem.blocked(match.check, match.kind), action) from None
        self._found = self._filtered()
        await self._judge()
        for piece in self._held.pieces if self._held is not None else ():
            yield piece

    def _passed(self, piece: Piece) -> Piece | None:
        """The piece as the client may have it by now; None where it is held."""
        text = self._filter.feed(piece.text)
        self._parts.append(text)
        if self._checks.redacts:
            # Its tokens would say what it does not.
            passed = Piece(text=text)
        else:
            passed = Piece(text=text, logprobs=piece.logprobs, token_ids=piece.token_ids, tokenizer=piece.tokenizer)
        if self._held is None:
            return passed
        self._held.put(passed)
        return None

    def _is_full(self) -> bool:
        """Whether as much is held as may be: the reply ends here, as by a length limit."""
        if self._held is None or self._held.size <= self._checks.settings.held_bytes_max:
            return False
        self._is_cut = True
        self._ledger.stopped(self._served.output_tokens)
        self._served.close()
        return True

    async def _judge(self) -> None:
        """What a whole reply alone shows. Raises Refusal."""
        found = await self._judging.grounding("".join(self._parts), self._manifest)
        if found is not None:
            self._acted(found, found.action or self._action(GROUNDING))
        misfit = await self._judging.form(self.reply())
        if misfit is not None:
            self._acted(misfit, self._action(FORM))
        if self._held is not None:
            self._ledger.released(time.monotonic())

    def _action(self, check: str) -> Action:
        return self._checks.action(check, is_last=self._is_last)

    def _acted(self, problem: Problem, action: Action) -> None:
        if action in (Action.BLOCK, Action.RETRY):
            raise Refusal(problem, action)
        if action is Action.REDACT and self._held is not None:
            said = sum(len(piece.text) for piece in self._said)
            text = problem.redacted("".join(self._parts), said)
            self._parts = [text]
            self._held = Held.of(text[said:])
        self._found.append(
            turn_pb2.Finding(
                check=problem.check,
                kind=problem.kind,
                action=_TOLD[action],
                count=problem.count,
                score=problem.score,
            )
        )

    def _filtered(self) -> list[turn_pb2.Finding]:
        return [
            turn_pb2.Finding(check=check, kind=kind, action=_TOLD[self._action(check)], count=count)
            for (check, kind), count in self._filter.found.items()
        ]

    async def _begin_anew(self) -> Sequence[turn_pb2.Hop]:
        self._number += 1
        self._filter = self._checks.filter(is_last=self._is_last)
        self._is_cut = False
        self._served.anew(self._anew(self._number))
        self.resume(self._said)
        return await self._served.begin(self._manifest)

    @property
    def _is_last(self) -> bool:
        return self._number >= self._checks.settings.retries_count_max
