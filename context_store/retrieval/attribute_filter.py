"""Filters by documents' attributes, from the contract to a predicate. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from google.protobuf import struct_pb2
from isthmus.context.v1 import search_pb2

from context_store.session.attributes import check_value
from services.errors import InvalidField

Value: TypeAlias = str | float | bool
Takes: TypeAlias = Callable[[struct_pb2.Struct], bool]

DEPTH_MAX: Final = 4
COMPARISONS_MAX: Final = 64
_LIST_MAX: Final = 64

_Comparison: Final = search_pb2.AttributeComparison
_ORDERED: Final[Mapping[int, Callable[[Value, Value], bool]]] = {
    _Comparison.OPERATOR_GT: operator.gt,
    _Comparison.OPERATOR_GTE: operator.ge,
    _Comparison.OPERATOR_LT: operator.lt,
    _Comparison.OPERATOR_LTE: operator.le,
}
_LISTED: Final = (_Comparison.OPERATOR_IN, _Comparison.OPERATOR_NIN)
_NEGATED: Final = (_Comparison.OPERATOR_NE, _Comparison.OPERATOR_NIN)


def predicate(wanted: search_pb2.AttributeFilter) -> Takes:
    """Whether a document of some attributes is taken. INVALID_FIELD names the part of the filter that cannot be."""
    return _Reader().read(wanted, "filter", 1)


class _Reader:
    def __init__(self) -> None:
        self._comparisons = 0

    def read(self, wanted: search_pb2.AttributeFilter, field: str, depth: int) -> Takes:
        if depth > DEPTH_MAX:
            raise InvalidField(field, f"is {depth} levels deep; expected at most {DEPTH_MAX}")
        if wanted.WhichOneof("filter") == "comparison":
            self._comparisons += 1
            if self._comparisons > COMPARISONS_MAX:
                raise InvalidField("filter", f"has more than {COMPARISONS_MAX} comparisons; expected at most so many")
            return _compared(wanted.comparison, f"{field}.comparison")
        junction = wanted.junction
        parts = [
            self.read(part, f"{field}.junction.filters[{index}]", depth + 1)
            for index, part in enumerate(junction.filters)
        ]
        joined = all if junction.operator == search_pb2.AttributeJunction.OPERATOR_AND else any
        return lambda attributes: joined(part(attributes) for part in parts)


def _compared(comparison: search_pb2.AttributeComparison, field: str) -> Takes:
    key, wanted = comparison.key, comparison.operator
    if wanted in _LISTED:
        values = [_value(one, f"{field}.value[{at}]") for at, one in enumerate(_listed(comparison.value, field))]
        is_taken: Callable[[Value], bool] = lambda own: any(_is_same(own, value) for value in values)  # noqa: E731
    else:
        value = _value(comparison.value, f"{field}.value")
        ordered = _ORDERED.get(wanted)
        if ordered is None:
            is_taken = lambda own: _is_same(own, value)  # noqa: E731
        elif isinstance(value, bool):
            raise InvalidField(f"{field}.value", "is a bool; expected a number or a string, which have an order")
        else:
            is_taken = lambda own: type(own) is type(value) and ordered(own, value)  # noqa: E731
    is_negated = wanted in _NEGATED

    def takes(attributes: struct_pb2.Struct) -> bool:
        is_there = key in attributes.fields
        return is_negated != (is_there and is_taken(_plain(attributes.fields[key])))

    return takes


def _listed(value: struct_pb2.Value, field: str) -> list[struct_pb2.Value]:
    values = list(value.list_value.values)
    if value.WhichOneof("kind") != "list_value" or not 1 <= len(values) <= _LIST_MAX:
        raise InvalidField(f"{field}.value", f"expected a list of 1 to {_LIST_MAX} values")
    return values


def _value(value: struct_pb2.Value, field: str) -> Value:
    check_value(value, field)
    return _plain(value)


def _plain(value: struct_pb2.Value) -> Value:
    plain: Value = getattr(value, value.WhichOneof("kind") or "string_value")
    return plain


def _is_same(own: Value, value: Value) -> bool:
    # To Python, true is 1.
    return type(own) is type(value) and own == value
