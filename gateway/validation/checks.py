"""Which checks the settings ask for, and what each does about a find in which try. Pure."""

from __future__ import annotations

from typing import Final

from gateway.validation import forbidden, personal
from gateway.validation.check import Check
from gateway.validation.filter import Action, Filter
from services.config import ConfigError, ValidationSettings

GROUNDING: Final = "grounding"
FORM: Final = "form"
OFF: Final = "off"


class Checks:
    """The checks that the settings ask for. Raises ConfigError for a pattern that could take forever."""

    def __init__(self, settings: ValidationSettings) -> None:
        self.settings = settings
        self._checks: list[Check] = []
        self._actions: dict[str, Action] = {}
        for name in (personal.NAME, forbidden.NAME, GROUNDING, FORM):
            if (action := getattr(settings, name)) != OFF:
                self._actions[name] = Action(action)
        if personal.NAME in self._actions:
            self._checks.append(personal.CHECK)
        if forbidden.NAME in self._actions:
            try:
                self._checks.append(forbidden.Forbidden(settings.forbidden_words, settings.forbidden_patterns))
            except ValueError as error:
                raise ConfigError(f"gateway.validation.forbidden_patterns: {error}") from None

    @property
    def retries(self) -> bool:
        """Whether a find may have the reply generated anew."""
        return Action.RETRY in self._actions.values()

    @property
    def holds(self) -> bool:
        """Whether nothing of a reply can be given out before it is whole."""
        return self.retries or self._actions.get(GROUNDING, Action.FLAG) is not Action.FLAG

    @property
    def redacts(self) -> bool:
        """Whether tokens as they are would tell what the text does not."""
        if any(self._actions[check.name] is not Action.FLAG for check in self._checks):
            return True
        grounding = self._actions.get(GROUNDING)
        return grounding is Action.REDACT or (grounding is Action.RETRY and self._over is Action.REDACT)

    def looks_for(self, check: str) -> bool:
        """Whether there is such a check."""
        return check in self._actions

    def action(self, check: str, *, is_last: bool) -> Action:
        """What it does about a find; `is_last`: there is no further try."""
        action = self._actions[check]
        if action is not Action.RETRY or not is_last:
            return action
        # The form of a reply cannot be redacted.
        return Action.BLOCK if check == FORM and self._over is Action.REDACT else self._over

    def filter(self, *, is_last: bool) -> Filter:
        """What looks through a try while it comes."""
        return Filter([(check, self.action(check.name, is_last=is_last)) for check in self._checks])

    @property
    def _over(self) -> Action:
        return Action(self.settings.retries_over)
