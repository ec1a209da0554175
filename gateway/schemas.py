"""JSON schemas that clients send, and replies against them. Pure; bounded in what a schema or a reply may cost.

Regular expressions are the engine's to keep: here they could take for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

import jsonschema
from jsonschema import validators
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from services.errors import InvalidField

BYTES_MAX: Final = 1 << 16
DEPTH_MAX: Final = 32
# OpenAI's bounds of strict schemas, and the words that these may not have.
_STRICT_DEPTH_MAX: Final = 10
_PROPERTIES_COUNT_MAX: Final = 5_000
_ENUM_COUNT_MAX: Final = 1_000
_NOT_STRICT: Final = (
    "allOf",
    "not",
    "dependentRequired",
    "dependentSchemas",
    "if",
    "then",
    "else",
    "patternProperties",
)
# Rules looked at for one reply.
_STEPS_MAX: Final = 100_000
_SHOWN_CHARS_MAX: Final = 200

_UNDER: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS: Final = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")


def checked(schema: bytes, field: str, *, strict: bool) -> str:
    """The schema as JSON text; InvalidField on `field` for what is no schema, or not as strict as it says."""
    if len(schema) > BYTES_MAX:
        raise InvalidField(field, f"is {len(schema)} bytes of JSON, expected at most {BYTES_MAX}")
    problem = _problem(schema, strict)
    if problem:
        raise InvalidField(field, problem)
    return schema.decode()


def is_strict(schema: bytes) -> bool:
    """Whether the schema keeps to the rules of strict ones."""
    return not _problem(schema, True)


def misfit(text: str, schema: str) -> str:
    """Why this text is no JSON that fits the schema; empty if it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    left = _left.set([_STEPS_MAX])
    try:
        validator = _Bounded(json.loads(schema), registry=Registry())
        found = next(validator.iter_errors(value), None)
    except (_TooMuch, RecursionError):
        return f"cannot be checked in {_STEPS_MAX} steps"
    except Unresolvable as unresolvable:
        return f"cannot be checked: {unresolvable}"
    finally:
        _left.reset(left)
    return "" if found is None else f"at {found.json_path}: {found.message[:_SHOWN_CHARS_MAX]}"


@lru_cache(maxsize=256)
def _problem(schema: bytes, strict: bool) -> str:
    """What is wrong with a schema. Remembered, as clients send the same ones again and again."""
    try:
        read = json.loads(schema)
        if not isinstance(read, dict):
            return "is no object, expected a JSON schema"
        said = _nesting(read, "", 0)
        if not said:
            jsonschema.Draft202012Validator.check_schema(read)
    except jsonschema.SchemaError as error:
        return f"is no JSON schema: at {error.json_path}: {error.message[:_SHOWN_CHARS_MAX]}"
    except (ValueError, RecursionError) as error:
        return f"is no JSON schema: {error}"
    return said or _dangling(read) or (_lax(read) if strict else "")


def _nesting(schema: Any, path: str, depth: int) -> str:
    """Whether it nests too deeply, or refers to elsewhere."""
    if not isinstance(schema, dict):
        return ""
    if depth > DEPTH_MAX:
        return f"nests deeper than {DEPTH_MAX} schemas{_at(path)}; expected a flatter one"
    for word in ("$ref", "$dynamicRef"):
        if not str(schema.get(word, "#")).startswith("#"):
            return (
                f"refers to {str(schema[word])[:100]!r}{_at(path)}; expected a reference within the schema, #/$defs/…"
            )
    for place, under in _children(schema):
        said = _nesting(under, f"{path}/{place}", depth + 1)
        if said:
            return said
    return ""


def _dangling(root: Mapping[str, Any]) -> str:
    """The first reference that leads nowhere."""
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(dict(root)))
    for schema, path, _ in _walk(root, "", 0):
        if "$ref" in schema:
            try:
                resolver.lookup(schema["$ref"])
            except Unresolvable:
                return f"refers to {schema['$ref'][:100]!r}{_at(path)}, which is not in it"
    return ""


def _lax(root: Mapping[str, Any]) -> str:
    """The first rule of strict schemas that it breaks."""
    if root.get("type") != "object" or "anyOf" in root:
        return "is strict, so its root must be an object: expected type 'object', and no anyOf there"
    properties = 0
    for schema, path, depth in _walk(root, "", 0):
        for word in _NOT_STRICT:
            if word in schema:
                return f"is strict, and strict schemas have no {word!r}{_at(path)}"
        if len(schema.get("enum", ())) > _ENUM_COUNT_MAX:
            return f"is strict, and has an enum of over {_ENUM_COUNT_MAX} values{_at(path)}"
        if depth > _STRICT_DEPTH_MAX:
            return f"is strict, and nests deeper than {_STRICT_DEPTH_MAX} objects{_at(path)}"
        if schema.get("type") == "object" or "properties" in schema:
            names = schema.get("properties", {})
            properties += len(names)
            missing = sorted(set(names) - set(schema.get("required", ())))
            if schema.get("additionalProperties") is not False:
                return f"is strict, so 'additionalProperties' must be false{_at(path)}"
            if missing:
                return f"is strict, so 'required' must name every property{_at(path)}; missing: {', '.join(missing)}"
    if properties > _PROPERTIES_COUNT_MAX:
        return f"is strict, and has {properties} properties, expected at most {_PROPERTIES_COUNT_MAX}"
    return ""


def _walk(schema: Any, path: str, depth: int) -> Iterator[tuple[Mapping[str, Any], str, int]]:
    """The schemas in a schema; `depth` counts values within values."""
    if not isinstance(schema, dict):
        return
    yield schema, path, depth
    for place, under in _children(schema):
        goes_in = place.startswith(("properties/", "items", "prefixItems"))
        yield from _walk(under, f"{path}/{place}", depth + goes_in)


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in _UNDER:
        if name in schema:
            yield name, schema[name]
    for name in _LISTS:
        for index, each in enumerate(schema[name] if isinstance(schema.get(name), list) else ()):
            yield f"{name}/{index}", each
    for name in _MAPS:
        for key, each in (schema[name] if isinstance(schema.get(name), dict) else {}).items():
            yield f"{name}/{key}", each


def _at(path: str) -> str:
    return f" at {path[:_SHOWN_CHARS_MAX]}" if path else ""


class _TooMuch(Exception):  # noqa: N818
    """The reply takes more steps to check than it is given."""


_left: Final[ContextVar[list[int]]] = ContextVar("steps left")


def _counted(rule: Callable[..., Any]) -> Callable[..., Any]:
    def step(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuch
        return rule(validator, value, instance, schema)

    return step


def _nothing(*_: Any) -> Any:
    return ()


def _closed(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
    """`additionalProperties`; beside patterns it rests on them."""
    rule = jsonschema.Draft202012Validator.VALIDATORS["additionalProperties"]
    return () if "patternProperties" in schema else rule(validator, value, instance, schema) or ()


_RULES: Final = {
    **jsonschema.Draft202012Validator.VALIDATORS,
    "additionalProperties": _closed,
    **dict.fromkeys(("pattern", "patternProperties", "uniqueItems", "unevaluatedProperties"), _nothing),
}
_Bounded: Final[Any] = validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {name: _counted(rule) for name, rule in _RULES.items()}
)
