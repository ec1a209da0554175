"""Filters of session lists: conditions joined by AND, a part of https://google.aip.dev/160. Pure.

filter     = [ condition { "AND" condition } ]
condition  = field comparator value
field      = "name" | "display_name" | "labels." key | "create_time" | "update_time" | "touch_time"
           | "turn_count" | "tier" | "parent"
comparator = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
value      = a string in double quotes, with \\" and \\\\ in it, or a word without quotes
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from google.protobuf import timestamp_pb2
from isthmus.session.v1 import session_pb2

Predicate: TypeAlias = Callable[[session_pb2.Session], bool]

_CONDITIONS_MAX: Final = 32
_SPACE: Final = re.compile(r"\s*")
_AND: Final = re.compile(r"AND(?=\s|$)")
_FIELD: Final = re.compile(r'labels\.(?:[\w./-]+|"(?:[^"\\]|\\.)*")|\w+')
_COMPARATOR: Final = re.compile(r"!=|<=|>=|[=<>:]")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WORD: Final = re.compile(r'[^\s"]+')
_ESCAPE: Final = re.compile(r"\\(.)")

_ORDERED: Final[Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        "=": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
)
_EQUAL: Final = ("=", "!=")
_TIMES: Final = ("create_time", "update_time", "touch_time")
_FIELDS: Final = ("name", "display_name", "labels.KEY", *_TIMES, "turn_count", "tier", "parent")


class FilterError(ValueError):
    """The filter cannot be read: at which character (from 0 on), and what was expected there."""

    def __init__(self, position: int, expected: str) -> None:
        super().__init__(f"at character {position}: expected {expected}")
        self.position = position
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is to show. Ids up to `after`, and from `before` on if it is set, are none of it."""

    conditions: tuple[Predicate, ...] = ()
    after: str = ""
    before: str = ""

    def takes(self, session: session_pb2.Session) -> bool:
        """Whether a session is shown."""
        return all(condition(session) for condition in self.conditions)

    def is_past(self, session_id: str) -> bool:
        """Whether neither this id nor any later one can be shown."""
        return bool(self.before) and session_id >= self.before


@dataclass(frozen=True, slots=True)
class _Condition:
    """A condition as it is written, with where its parts are."""

    field: str
    comparator: str
    value: str
    field_at: int
    comparator_at: int
    value_at: int


def parse(text: str) -> Filter:
    """The filter that a text says; an empty one takes all. Raises FilterError."""
    read = _read(text)
    return Filter(
        tuple(_predicate(one) for one in read),
        after=max((_id(one) for one in read if one.field == "name" and one.comparator == ">"), default=""),
        before=min((_id(one) for one in read if one.field == "name" and one.comparator == "<"), default=""),
    )


def _id(condition: _Condition) -> str:
    return condition.value.removeprefix("sessions/")


def _read(text: str) -> list[_Condition]:
    found: list[_Condition] = []
    at = _skip(text, 0)
    while at < len(text):
        if found:
            at = _skip(text, _match(_AND, text, at, "AND or the end").end())
        if len(found) == _CONDITIONS_MAX:
            raise FilterError(at, f"at most {_CONDITIONS_MAX} conditions")
        condition, at = _condition(text, at)
        found.append(condition)
        at = _skip(text, at)
    return found


def _condition(text: str, field_at: int) -> tuple[_Condition, int]:
    field = _match(_FIELD, text, field_at, f"a field, any of {', '.join(_FIELDS)}")
    comparator_at = _skip(text, field.end())
    comparator = _match(_COMPARATOR, text, comparator_at, f"a comparator, any of {' '.join(_ORDERED)} :")
    value_at = _skip(text, comparator.end())
    quoted = _QUOTED.match(text, value_at)
    value = quoted or _match(_WORD, text, value_at, "a value, in double quotes or one word")
    plain = _unescaped(quoted[1]) if quoted else value[0]
    return _Condition(field[0], comparator[0], plain, field_at, comparator_at, value_at), value.end()


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _match(pattern: re.Pattern[str], text: str, at: int, expected: str) -> re.Match[str]:
    match = pattern.match(text, at)
    if match is None:
        raise FilterError(at, expected)
    return match


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)


def _predicate(condition: _Condition) -> Predicate:
    field = condition.field
    if field.startswith("labels."):
        return _label(condition)
    if field in _TIMES:
        return _time(condition)
    match field:
        case "display_name" if condition.comparator == ":":
            return lambda session: condition.value in session.display_name
        case "display_name" | "parent":
            equals = _compare(condition, _EQUAL, "= or !=, display_name also :")
            return lambda session: equals(getattr(session, field), condition.value)
        case "name":
            ordered = _compare(condition, tuple(_ORDERED), "a comparator other than :")
            name = f"sessions/{_id(condition)}"
            return lambda session: ordered(session.name, name)
        case "turn_count":
            ordered, number = _compare(condition, tuple(_ORDERED), "a comparator other than :"), _number(condition)
            return lambda session: ordered(session.turn_count, number)
        case "tier":
            equals, tier = _compare(condition, _EQUAL, "= or !="), _tier(condition)
            return lambda session: equals(session.tier, tier)
        case _:
            raise FilterError(condition.field_at, f"a field, any of {', '.join(_FIELDS)}")


def _compare(condition: _Condition, allowed: tuple[str, ...], expected: str) -> Callable[[Any, Any], bool]:
    if condition.comparator not in allowed:
        raise FilterError(condition.comparator_at, expected)
    return _ORDERED[condition.comparator]


def _label(condition: _Condition) -> Predicate:
    key = condition.field.removeprefix("labels.")
    if key.startswith('"'):
        key = _unescaped(key[1:-1])
    equals = _compare(condition, _EQUAL, "= or !=")
    # A label that is not there equals nothing, not even the empty text.
    return lambda session: equals(session.labels.get(key) if key in session.labels else None, condition.value)


def _time(condition: _Condition) -> Predicate:
    field, wanted = condition.field, _timestamp(condition)
    ordered = _compare(condition, tuple(_ORDERED), "a comparator other than :")
    return lambda session: session.HasField(field) and ordered(getattr(session, field).ToNanoseconds(), wanted)  # type: ignore[arg-type]


def _timestamp(condition: _Condition) -> int:
    stamp = timestamp_pb2.Timestamp()
    try:
        datetime.fromisoformat(condition.value)
        stamp.FromJsonString(condition.value)
    except ValueError:
        raise FilterError(condition.value_at, 'a time in RFC 3339, such as "2026-01-01T00:00:00Z"') from None
    return stamp.ToNanoseconds()


def _number(condition: _Condition) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", condition.value):
        raise FilterError(condition.value_at, "a whole number")
    return int(condition.value)


def _tier(condition: _Condition) -> int:
    known = [name for name in session_pb2.Tier.keys() if name != "TIER_UNSPECIFIED"]  # noqa: SIM118
    if condition.value not in known:
        raise FilterError(condition.value_at, f"any of {', '.join(known)}")
    return session_pb2.Tier.Value(condition.value)
