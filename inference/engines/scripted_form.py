"""The smallest text that has a form: what the scripted engine says where one is asked for. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from isthmus.session.v1 import message_pb2

from inference.forms import ANY_OBJECT
from inference.schemas import plain
from services.errors import InvalidField
from services.tool_calls import call, callable_names

# Values within values, after which a schema is taken to go round in a circle.
_DEPTH_MAX: Final = 64
_WORD: Final = "text"


def scripted_form(form: message_pb2.StructuredOutput | None, tools: message_pb2.ToolUse | None) -> str | None:
    """A reply of the form, None where it may be anything. InvalidField for a form that it has no text of."""
    if tools is not None and tools.choice == message_pb2.ToolUse.CHOICE_REQUIRED:
        return _call(tools)
    if form is None:
        return None
    match form.WhichOneof("form"):
        case "json_schema":
            return json.dumps(instance(form.json_schema))
        case "choices":
            return form.choices.texts[0]
        case _:
            raise InvalidField("params.structured_output.regex", "the scripted engine does not take it; expected none")


def instance(schema: str) -> Any:
    """A small value that fits the schema, as far as the schema is of the words that `schemas.plain` keeps.

    InvalidField for a schema that no finite value fits.
    """
    root = plain(schema)
    return _instance(root, root, 0)


def _call(tools: message_pb2.ToolUse) -> str:
    names = callable_names(tools)
    function = next(each for each in tools.functions if each.name in names)
    arguments = instance(function.parameters or ANY_OBJECT)
    return call(function.name, json.dumps(arguments if isinstance(arguments, dict) else {}))


def _instance(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > _DEPTH_MAX:
        raise InvalidField("params.structured_output.json_schema", "has no end: no finite value fits it")
    if not isinstance(schema, dict):
        return {}
    if "$ref" in schema:
        return _instance(_found(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _first(schema[union], root, depth)
    for part in schema.get("allOf", ()):
        schema = _merged(schema, _found(part["$ref"], root) if "$ref" in part else part)
    return _of_type(schema, root, depth)


def _first(schemas: list[Any], root: Mapping[str, Any], depth: int) -> Any:
    """Of the first that has a value; the shortest way out of a circle is often a later one."""
    for schema in schemas[:-1]:
        try:
            return _instance(schema, root, depth + 1)
        except InvalidField:
            continue
    return _instance(schemas[-1], root, depth + 1)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind if isinstance(kind, str) else kind[0]:
        case "object":
            properties = schema.get("properties", {})
            return {name: _instance(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
        case "array":
            # Without a least number of them none is made: items may be of the schema that they stand in.
            count = int(schema.get("minItems", 0))
            return [_instance(schema.get("items", {}), root, depth + 1)] * count if count else []
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "null":
            return None
        case _:
            length = int(schema.get("minLength", 0))
            return (_WORD * (1 + length // len(_WORD)))[
                : min(max(length, len(_WORD)), schema.get("maxLength", 1 << 20))
            ]


def _merged(schema: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    properties = {**schema.get("properties", {}), **part.get("properties", {})}
    required = [*schema.get("required", ()), *part.get("required", ())]
    rest = {**part, **{name: value for name, value in schema.items() if name != "allOf"}}
    return rest | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})


def _found(reference: str, root: Mapping[str, Any]) -> Any:
    place: Any = root
    for step in reference.split("/")[1:]:
        place = place[step.replace("~1", "/").replace("~0", "~")]
    return place
