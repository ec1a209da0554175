"""The fields beside an uploaded file: what it is for, and when it goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.http.errors import Refusal

PURPOSES: Final = ("assistants", "batch", "evals", "user_data")
# OpenAI's, for what is not kept here.
_UNSUPPORTED: Final = ("fine-tune", "vision")
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_KNOWN: Final = ("purpose", _ANCHOR, _SECONDS)
SECONDS_MIN: Final = 3_600
SECONDS_MAX: Final = 2_592_000
_BATCH_S: Final = 2_592_000


@dataclass(frozen=True, slots=True)
class Fields:
    """What a file is for; after how many seconds it goes, 0 for never."""

    purpose: str
    expires_after_s: int


def read_fields(fields: Mapping[str, str], *, is_whole: bool) -> Fields:
    """The fields as they were sent; of a form that is not whole yet, those that may still come count for nothing.

    Refusal by the name of one that is unknown, missing or wrong.
    """
    for name in fields:
        if name not in _KNOWN:
            expected = ", ".join(("file", *_KNOWN))
            raise Refusal(400, "unknown_parameter", name, f"{name}: unknown parameter; expected {expected}")
    purpose = fields.get("purpose")
    if purpose is None and is_whole:
        raise Refusal(400, "missing_required_parameter", "purpose", f"purpose: is missing; expected {_one_of()}")
    if purpose in _UNSUPPORTED:
        raise Refusal(400, "unsupported_parameter", "purpose", f"purpose: {purpose} is not supported; {_one_of()}")
    if purpose is not None and purpose not in PURPOSES:
        raise Refusal(400, "invalid_value", "purpose", f"purpose: is {purpose[:100]!r}, expected {_one_of()}")
    seconds = _seconds(fields, is_whole)
    return Fields(purpose or "", _BATCH_S if purpose == "batch" and not seconds else seconds)


def _seconds(fields: Mapping[str, str], is_whole: bool) -> int:
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is not None and anchor != "created_at":
        raise Refusal(400, "invalid_value", _ANCHOR, f"{_ANCHOR}: is {anchor[:100]!r}, expected created_at")
    if seconds is not None:
        number = int(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 16 else 0
        if not SECONDS_MIN <= number <= SECONDS_MAX:
            expected = f"expected {SECONDS_MIN} to {SECONDS_MAX}"
            raise Refusal(400, "invalid_value", _SECONDS, f"{_SECONDS}: is {seconds[:100]!r}, {expected}")
    if is_whole and (anchor is None) != (seconds is None):
        name = _ANCHOR if anchor is None else _SECONDS
        raise Refusal(400, "missing_required_parameter", name, f"{name}: is missing; expected it beside the other")
    return int(seconds or 0)


def _one_of() -> str:
    return f"one of {', '.join(PURPOSES)}"
