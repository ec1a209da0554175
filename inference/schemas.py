"""JSON schemas for a grammar that knows only some of their words, and ends its process at what it cannot read. Pure.

What is left out is not kept token by token: whoever reads the reply has to look whether it fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import jsonschema

from services.errors import InvalidField

DEPTH_MAX: Final = 32
_KEPT: Final = ("type", "enum", "const", "required", "title", "description")
_SCHEMAS: Final = ("additionalProperties", "items")
_LISTS: Final = ("anyOf", "oneOf", "allOf")
_MAPS: Final = ("properties", "$defs", "definitions")
_COUNTS: Final = (("minItems", "maxItems"), ("minLength", "maxLength"))
_COUNT_MAX: Final = 64


def plain(schema: str, field: str = "params.structured_output.json_schema") -> dict[str, Any]:
    """The schema with nothing in it but types, properties, items, values, unions and references within it.

    InvalidField for what is no JSON schema, refers to elsewhere, or nests deeper than DEPTH_MAX.
    """
    try:
        read = json.loads(schema)
        jsonschema.Draft202012Validator.check_schema(read)
    except (ValueError, RecursionError, jsonschema.SchemaError) as error:
        said = error.message if isinstance(error, jsonschema.SchemaError) else str(error)
        raise InvalidField(field, f"is no JSON schema: {said[:200]}") from None
    if not isinstance(read, dict):
        raise InvalidField(field, "is no object, expected a JSON schema")
    kept = _plain(read, read, field, 0)
    return kept if isinstance(kept, dict) else {}


def _plain(schema: Any, root: Mapping[str, Any], field: str, depth: int) -> Any:
    if isinstance(schema, bool):
        return schema
    if depth > DEPTH_MAX:
        raise InvalidField(field, f"nests deeper than {DEPTH_MAX} schemas; expected a flatter one")
    if "$ref" in schema:
        _check_reference(str(schema["$ref"]), root, field)
        return {"$ref": schema["$ref"], **_maps(schema, root, field, depth)}
    kept = {name: schema[name] for name in _KEPT if name in schema}
    kept |= {name: _plain(schema[name], root, field, depth + 1) for name in _SCHEMAS if name in schema}
    for name in _LISTS:
        if name in schema:
            kept[name] = [_plain(each, root, field, depth + 1) for each in schema[name]]
    for least, most in _COUNTS:
        kept |= _count(schema, least, most)
    return kept | _maps(schema, root, field, depth)


def _maps(schema: Mapping[str, Any], root: Mapping[str, Any], field: str, depth: int) -> dict[str, Any]:
    return {
        name: {key: _plain(each, root, field, depth + 1) for key, each in schema[name].items()}
        for name in _MAPS
        if name in schema
    }


def _count(schema: Mapping[str, Any], least: str, most: str) -> dict[str, int]:
    """The bounds, where a grammar can count so far and they leave anything."""
    low, high = schema.get(least, 0), schema.get(most)
    if low > _COUNT_MAX or (high is not None and (high > _COUNT_MAX or high < low)):
        return {}
    return ({least: int(low)} if low else {}) | ({most: int(high)} if high is not None else {})


def _check_reference(reference: str, root: Mapping[str, Any], field: str) -> None:
    """Whether it leads to a schema of this one."""
    place: Any = root
    if reference == "#":
        return
    for step in reference.removeprefix("#/").split("/") if reference.startswith("#/") else ("",):
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(place, dict) or name not in place:
            raise InvalidField(field, f"refers to {reference[:100]!r}, which is not within it; expected #/$defs/…")
        place = place[name]
