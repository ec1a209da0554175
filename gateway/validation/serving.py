"""A turn's reply looked through on its way to the client: it has the methods of ServedReply, and takes its place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from isthmus.context.v1 import context_service_pb2, window_pb2
from isthmus.errors.v1 import errors_pb2
from isthmus.session.v1 import turn_pb2

from gateway.caches.serving import ServedReply
from gateway.turn.calls import Reply
from gateway.turn.receipt import Ledger
from gateway.validation import forbidden, grounding, personal
from gateway.validation.check import Check
from gateway.validation.filter import Action, Blocked, Filter
from services.config import ConfigError, ValidationSettings
from services.errors import IsthmusError

Piece = context_service_pb2.OutputPiece
_TOLD: Final = {
    Action.FLAG: turn_pb2.Finding.ACTION_FLAGGED,
    Action.REDACT: turn_pb2.Finding.ACTION_REDACTED,
}


class Checks:
    """The checks that the settings ask for. Raises ConfigError for a pattern that could take forever."""

    def __init__(self, settings: ValidationSettings) -> None:
        self.settings = settings
        self.checks: list[tuple[Check, Action]] = []
        if settings.personal_data != "off":
            self.checks.append((personal.CHECK, Action(settings.personal_data)))
        if settings.forbidden != "off":
            try:
                check = forbidden.Forbidden(settings.forbidden_words, settings.forbidden_patterns)
            except ValueError as error:
                raise ConfigError(f"gateway.validation.forbidden_patterns: {error}") from None
            self.checks.append((check, Action(settings.forbidden)))

    @property
    def redacts(self) -> bool:
        """Whether tokens as they are would tell what the text does not."""
        return any(action is not Action.FLAG for _, action in self.checks)


class CheckedReply:
    """`begin`, then `events` once, `reply` after that, `close` in any case, and `committed` once the turn is done."""

    def __init__(self, served: ServedReply, ledger: Ledger, checks: Checks) -> None:
        self._served = served
        self._ledger = ledger
        self._checks = checks
        self._filter = Filter(checks.checks)
        self._manifest = window_pb2.Manifest()
        self._parts: list[str] = []

    @property
    def finished_hops(self) -> Sequence[turn_pb2.Hop]:
        """As ServedReply has it."""
        return self._served.finished_hops

    async def begin(self, manifest: window_pb2.Manifest) -> Sequence[turn_pb2.Hop]:
        """As ServedReply has it."""
        self._manifest = manifest
        return await self._served.begin(manifest)

    def resume(self, said: Sequence[Piece]) -> None:
        """As ServedReply has it: what was said has been looked through."""
        self._parts += [piece.text for piece in said]
        self._served.resume(said)

    async def events(self) -> AsyncGenerator[Piece | turn_pb2.Hop, None]:
        """The reply as it comes, what may still become a find held back. Raises CONTENT_BLOCKED."""
        try:
            async with aclosing(self._served.events()) as events:
                async for event in events:
                    yield event if isinstance(event, turn_pb2.Hop) else self._passed(event)
            if rest := self._filter.finish():
                self._parts.append(rest)
                yield Piece(text=rest)
        except Blocked as blocked:
            raise _refusal(blocked) from None
        self._ledger.found(self._findings())

    def reply(self) -> Reply:
        """The whole reply as the client has it, once `events` has ended."""
        made = self._served.reply()
        return Reply("".join(self._parts), made.finish_reason, made.counts) if self._parts else made

    def close(self) -> None:
        """As ServedReply has it."""
        self._served.close()

    async def committed(self, turn: str) -> None:
        """As ServedReply has it: what is kept is the reply as it was made, and is checked each time it is given."""
        await self._served.committed(turn)

    def _passed(self, piece: Piece) -> Piece:
        text = self._filter.feed(piece.text)
        self._parts.append(text)
        if self._checks.redacts:
            # Its tokens would say what it does not.
            return Piece(text=text)
        return Piece(text=text, logprobs=piece.logprobs, token_ids=piece.token_ids, tokenizer=piece.tokenizer)

    def _findings(self) -> list[turn_pb2.Finding]:
        actions = {check.name: action for check, action in self._checks.checks}
        found = [
            turn_pb2.Finding(check=check, kind=kind, action=_TOLD[actions[check]], count=count)
            for (check, kind), count in self._filter.found.items()
        ]
        settings = self._checks.settings
        if settings.grounding == "flag" and self._manifest.new_items:
            passages = [item.text for item in self._manifest.new_items]
            grounded = grounding.grounding("".join(self._parts), passages)
            if grounded.score < settings.grounding_score_min:
                found.append(
                    turn_pb2.Finding(
                        check=grounding.NAME,
                        kind="ungrounded",
                        action=turn_pb2.Finding.ACTION_FLAGGED,
                        count=len(grounded.ungrounded),
                        score=round(grounded.score, 3),
                    )
                )
        return found


def _refusal(blocked: Blocked) -> IsthmusError:
    match = blocked.match
    return IsthmusError(
        errors_pb2.ERROR_REASON_CONTENT_BLOCKED,
        f"the reply was stopped by the check {match.check}, which found {match.kind}; ask in another way",
        metadata={"check": match.check, "kind": match.kind},
    )
