"""What only a whole reply shows: whether it stands in its window, and whether it has its form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.context.v1 import window_pb2
from isthmus.errors.v1 import errors_pb2

from gateway.shards import Shards
from gateway.tools.calls import Call, split
from gateway.turn.calls import Errand, Reply
from gateway.turn.form import Misfit, has_form, misfit_of
from gateway.validation.checks import FORM, GROUNDING, Checks
from gateway.validation.filter import Action
from gateway.validation.window import Unread, look_up
from services.claims.grounding import Grounding
from services.claims.words import Span
from services.errors import IsthmusError

_UNGROUNDED = "ungrounded"
_UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a check has against a reply. `spans` are its places; `action` is set where nothing more may be done."""

    check: str
    kind: str
    message: str = ""
    count: int = 1
    score: float | None = None
    spans: Sequence[Span] = ()
    action: Action | None = None

    @classmethod
    def blocked(cls, check: str, kind: str) -> Problem:
        """A find that nobody may read."""
        return cls(check, kind, f"the reply was stopped by the check {check}, which found {kind}")

    def error(self, tries: int) -> IsthmusError:
        """As the turn's caller gets it, after so many tries."""
        often = f", in each of {tries} tries" if tries > 1 else ""
        if self.check == FORM:
            return Misfit(self.kind, self.message + often).error()
        return IsthmusError(
            errors_pb2.ERROR_REASON_CONTENT_BLOCKED,
            f"{self.message}{often}; ask in another way",
            metadata={"check": self.check, "kind": self.kind},
        )

    def redacted(self, text: str, begin: int) -> str:
        """The text with a gap in each span's place, from `begin` on: what is before that has been read."""
        out, at = [text[:begin]], begin
        for start, end in self.spans:
            if end > begin:
                out += [text[at : max(start, begin)], f"[{self.kind}]"]
                at = end
        return "".join([*out, text[at:]])


class Judging:
    """The checks of whole replies of one turn."""

    def __init__(self, errand: Errand, shards: Shards, checks: Checks) -> None:
        self._errand = errand
        self._shards = shards
        self._checks = checks

    async def grounding(self, text: str, manifest: window_pb2.Manifest) -> Problem | None:
        """What of a reply stands nowhere in its window. Calls are no claims; in a form no gap can be made.

        Texts that came with the turn are looked at first, the whole window only where these do not do.
        """
        if not self._checks.looks_for(GROUNDING) or self._is_call(text):
            return None
        settings = self._checks.settings
        grounding = await asyncio.to_thread(Grounding, text)
        unread: Unread | None = None
        try:
            await look_up(grounding, manifest, self._errand, self._shards, settings)
        except Unread as raised:
            unread = raised
        found = grounding.found(settings.grounding_sentence_min)
        redacts = self._checks.action(GROUNDING, is_last=False) is Action.REDACT
        if found.score >= settings.grounding_score_min and not (redacts and found.ungrounded):
            return None
        is_formed = redacts and self._errand.request.params.HasField("structured_output")
        return Problem(
            GROUNDING,
            _UNREAD if unread else _UNGROUNDED,
            "the reply was stopped by the check grounding: too little of it stands in what it was made from",
            count=len(found.ungrounded),
            score=round(found.score, 3),
            spans=found.ungrounded,
            action=Action.FLAG if unread or is_formed else None,
        )

    async def form(self, reply: Reply) -> Problem | None:
        """Where the reply is not what was asked for."""
        params = self._errand.request.params
        if not self._checks.looks_for(FORM) or not has_form(params):
            return None
        misfit = await asyncio.to_thread(misfit_of, params, reply)
        return None if misfit is None else Problem(FORM, misfit.kind, misfit.message)

    def _is_call(self, text: str) -> bool:
        params = self._errand.request.params
        return params.HasField("tools") and any(isinstance(part, Call) for part in split(text, params.tools))
