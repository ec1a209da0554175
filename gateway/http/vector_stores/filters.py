"""OpenAI's filters as the store's. Pure; what is wrong is named by its place: `filters.filters[1].value`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from google.protobuf import struct_pb2
from isthmus.context.v1 import search_pb2

from services.errors import InvalidField

DEPTH_MAX: Final = 4
COMPARISONS_COUNT_MAX: Final = 64
_COMPARISON: Final = search_pb2.AttributeComparison
_JUNCTION: Final = search_pb2.AttributeJunction
_OPERATORS: Final = {
    "eq": _COMPARISON.OPERATOR_EQ,
    "ne": _COMPARISON.OPERATOR_NE,
    "gt": _COMPARISON.OPERATOR_GT,
    "gte": _COMPARISON.OPERATOR_GTE,
    "lt": _COMPARISON.OPERATOR_LT,
    "lte": _COMPARISON.OPERATOR_LTE,
    "in": _COMPARISON.OPERATOR_IN,
    "nin": _COMPARISON.OPERATOR_NIN,
}
_JUNCTIONS: Final = {"and": _JUNCTION.OPERATOR_AND, "or": _JUNCTION.OPERATOR_OR}
_LISTS: Final = ("in", "nin")


def filter_of(raw: bytes, path: str = "filters") -> search_pb2.AttributeFilter:
    """The filter that this JSON says. InvalidField names what is wrong."""
    made, comparisons = _filter(msgspec.json.decode(raw), path, 1)
    if comparisons > COMPARISONS_COUNT_MAX:
        raise InvalidField(path, f"has {comparisons} comparisons, expected at most {COMPARISONS_COUNT_MAX}")
    return made


def _filter(value: Any, path: str, depth: int) -> tuple[search_pb2.AttributeFilter, int]:
    if not isinstance(value, dict):
        raise InvalidField(path, "is no object, expected a comparison or a compound filter")
    if depth > DEPTH_MAX:
        raise InvalidField(path, f"is nested deeper than {DEPTH_MAX} filters")
    kind = value.get("type")
    if kind in _JUNCTIONS:
        return _junction(value, path, depth)
    if kind in _OPERATORS:
        return search_pb2.AttributeFilter(comparison=_comparison(value, path)), 1
    expected = ", ".join((*_OPERATORS, *_JUNCTIONS))
    raise InvalidField(f"{path}.type", f"is {str(kind)[:50]!r}, expected one of {expected}")


def _junction(value: dict[str, Any], path: str, depth: int) -> tuple[search_pb2.AttributeFilter, int]:
    _only(value, path, ("type", "filters"))
    filters = value.get("filters")
    if not isinstance(filters, list) or not 1 <= len(filters) <= COMPARISONS_COUNT_MAX:
        raise InvalidField(f"{path}.filters", f"expected a list of 1 to {COMPARISONS_COUNT_MAX} filters")
    made = [_filter(each, f"{path}.filters[{index}]", depth + 1) for index, each in enumerate(filters)]
    junction = _JUNCTION(operator=_JUNCTIONS[value["type"]], filters=[each for each, _ in made])
    return search_pb2.AttributeFilter(junction=junction), sum(count for _, count in made)


def _comparison(value: dict[str, Any], path: str) -> search_pb2.AttributeComparison:
    _only(value, path, ("type", "key", "value"))
    kind, key, wanted = value["type"], value.get("key"), value.get("value")
    if not isinstance(key, str) or not 1 <= len(key) <= 64:
        raise InvalidField(f"{path}.key", "expected the name of an attribute, 1 to 64 characters")
    place = f"{path}.value"
    if kind not in _LISTS:
        return _COMPARISON(key=key, operator=_OPERATORS[kind], value=_value(wanted, place))
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= 64:
        raise InvalidField(place, "expected a list of 1 to 64 strings or numbers")
    values = [_value(each, f"{place}[{index}]") for index, each in enumerate(wanted)]
    listed = struct_pb2.Value(list_value=struct_pb2.ListValue(values=values))
    return _COMPARISON(key=key, operator=_OPERATORS[kind], value=listed)


def _value(value: Any, path: str) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str) and len(value) <= 512:
        return struct_pb2.Value(string_value=value)
    raise InvalidField(path, "expected a string of at most 512 characters, a number or a bool")


def _only(value: dict[str, Any], path: str, known: tuple[str, ...]) -> None:
    for name in value:
        if name not in known:
            raise InvalidField(f"{path}.{name}", f"is unknown; expected {', '.join(known)}")
