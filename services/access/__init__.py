"""API keys: what one is, what is kept of it, what it allows, and how keys come and go."""

from services.access.changes import Change, Made, created, dead, revoked, rotated
from services.access.key import ApiKey, MalformedKey, mint, parse
from services.access.record import KeyState, Record, Verdict, judge
from services.access.scopes import Scope

__all__ = [
    "ApiKey",
    "Change",
    "KeyState",
    "Made",
    "MalformedKey",
    "Record",
    "Scope",
    "Verdict",
    "created",
    "dead",
    "judge",
    "mint",
    "parse",
    "revoked",
    "rotated",
]
