"""A request's body: read as it comes, within its bounds, and decoded straight into its shape."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import msgspec
from litestar import Request
from litestar.dto import AbstractDTO
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from gateway.http.errors import CLIENT_GONE, Refusal
from gateway.http.shapes import HARMLESS
from services.config import GatewaySettings

T = TypeVar("T")
_AT = re.compile(r"(?s)(.*) - at `(?:key in )?\$(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
# msgspec names a value outside of its set, but not the set.
_EXPECTED = {
    "role": "system, developer, user or assistant",
    "tool_choice": "none, auto, required, or an object that names functions",
    "verbosity": "medium",
    "mode": "auto or required",
    "truncation": "auto or disabled",
    "status": "in_progress, completed or incomplete",
    "phase": "commentary or final_answer",
    "encoding_format": "float or base64",
}
_ITEM = re.compile(r"(?:input|items)\[\d+\]")
_PART = re.compile(r"(?:input|items)\[\d+\]\.content\[\d+\]")
_CHAT_MESSAGE = re.compile(r"messages\[\d+\]")
_CHAT_PART = re.compile(r"messages\[\d+\]\.content\[\d+\]")
_TOOL = re.compile(r"tools\[\d+\]")
_ITEM_RULE = (
    'items are messages, {"type": "message", "role", "content"}, calls, {"type": "function_call", "call_id", "name", '
    '"arguments"}, and what came of them, {"type": "function_call_output", "call_id", "output"}'
)
_TOOL_RULE = "tools are functions of your own; expected type 'function'"
_PART_RULE = 'parts are texts: {"type": "input_text" or "output_text", "text"}'
_CHAT_MESSAGE_RULE = (
    'messages are {"role", "content"}, and may have a "name"; those of an assistant "tool_calls", of a tool a '
    '"tool_call_id"'
)
_CHAT_PART_RULE = 'parts are texts: {"type": "text", "text"}'


class BoundedRequest(Request[Any, Any, Any]):
    """A request whose body is refused once it is too large or too slow."""

    async def body(self) -> bytes:
        """The whole body, of at most `gateway.http_body_bytes_max` bytes; Refusal with 413, 408 or 499 otherwise."""
        settings: GatewaySettings = self.app.state.settings
        try:
            async with asyncio.timeout(settings.http_body_ms_max / 1000):
                return await self._read(settings.http_body_bytes_max)
        except TimeoutError:
            message = f"the body took more than {settings.http_body_ms_max} ms to arrive; send it whole, or in parts"
            raise Refusal(408, "request_timeout", None, message) from None

    async def _read(self, bytes_max: int) -> bytes:
        announced = self.headers.get("content-length", "0")
        body = bytearray()
        while True:
            if len(body) > bytes_max or (announced.isdecimal() and int(announced) > bytes_max):
                raise Refusal(413, "request_too_large", None, _too_large(bytes_max))
            event = await self.receive()
            if event["type"] != "http.request":
                raise Refusal(CLIENT_GONE, "client_gone", None, "the client went away before its body had arrived")
            body += event["body"]
            if not event.get("more_body", False):
                break
        if len(body) > bytes_max:
            raise Refusal(413, "request_too_large", None, _too_large(bytes_max))
        # Litestar takes an empty body for none at all and would not decode it; white space is as little JSON. It is not
        # copied into bytes, as only `decode` reads it, to which any buffer will do.
        return cast("bytes", body or b" ")


class StrictBody(AbstractDTO[msgspec.Struct]):
    """Litestar's hook for `data`: decodes the bytes themselves, so that every error names its place."""

    def decode_bytes(self, value: bytes) -> Any:
        """The body in the shape that the handler asks for."""
        field = self.asgi_connection.route_handler.parsed_data_field
        assert field is not None
        return decode(value, field.annotation)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing to prepare: the shapes are what goes over the wire."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        """The shape's own schema."""
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:
        """Every struct is decoded here."""
        return field_definition.is_subclass_of(msgspec.Struct)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Iterator[DTOFieldDefinition]:  # type: ignore[override]
        """None: the shapes are not transformed."""
        return iter(())

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        """No field is transformed."""
        return False


def decode(body: bytes | bytearray, shape: type[T]) -> T:
    """The body in its shape.

    Refusal (400) with OpenAI's code: `invalid_json`, `invalid_utf8`, `unknown_parameter`, `unsupported_parameter`,
    `missing_required_parameter`, `invalid_type` or `invalid_value`, and the place as `param`: `input[0].content`.
    """
    try:
        value = msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _misshapen(str(error)) from None
    except UnicodeDecodeError:
        raise _not_utf8(body) from None
    except msgspec.DecodeError as error:
        raise _not_json(body, str(error)) from None
    except RecursionError:
        raise Refusal(400, "invalid_json", None, "the body nests more deeply than any parameter needs") from None
    refuse_unsupported(value, HARMLESS)
    return value


def _too_large(bytes_max: int) -> str:
    return (
        f"the body is over {bytes_max} bytes; send only what is new (the context stays on the server), and stream long "
        "texts into the session as a document: `isthmus ingest FILE --session ID`"
    )


def _not_json(body: bytes | bytearray, detail: str) -> Refusal:
    try:
        body.decode()
    except UnicodeDecodeError:
        return _not_utf8(body)
    return Refusal(400, "invalid_json", None, f"the body is not JSON: {detail}; expected one JSON object")


def _not_utf8(body: bytes | bytearray) -> Refusal:
    offset = len(body)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        offset = error.start
    return Refusal(400, "invalid_utf8", None, f"the body is not UTF-8: byte {offset} fits no character; expected UTF-8")


def _misshapen(error: str) -> Refusal:
    """msgspec's complaint, told with the parameter's path and what was expected there."""
    located = _AT.fullmatch(error)
    detail, path = (located[1], located[2].lstrip(".")) if located else (error, "")
    if unknown := _UNKNOWN.fullmatch(detail):
        param = _join(path, unknown[1])
        return Refusal(400, "unknown_parameter", param, f"{param}: unknown parameter; {_rule(path)}")
    if absent := _MISSING.fullmatch(detail):
        param = _join(path, absent[1])
        return Refusal(400, "missing_required_parameter", param, f"{param}: is missing; {_rule(path)}")
    owner, _, name = path.rpartition(".")
    if name == "type" and owner:
        return Refusal(400, "unsupported_parameter", path, f"{path}: {_lower(detail)} is not supported; {_rule(owner)}")
    if _CHAT_MESSAGE.fullmatch(owner) and name == "role":
        detail = f"{detail}; expected system, developer, user, assistant or tool"
    elif name in _EXPECTED:
        detail = f"{detail}; expected {_EXPECTED[name]}"
    code = "invalid_type" if detail.startswith("Expected") and ", got " in detail else "invalid_value"
    return Refusal(400, code, path or None, f"{path or 'the body'}: {_lower(detail)}")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _rule(path: str) -> str:
    if _PART.fullmatch(path):
        return _PART_RULE
    if _ITEM.fullmatch(path):
        return _ITEM_RULE
    if _TOOL.fullmatch(path):
        return _TOOL_RULE
    if _CHAT_PART.fullmatch(path):
        return _CHAT_PART_RULE
    if _CHAT_MESSAGE.fullmatch(path):
        return _CHAT_MESSAGE_RULE
    return "expected the parameters that /schema/openapi.json lists"


def refuse_unsupported(value: object, parameters: Mapping[str, tuple[object, ...]]) -> None:
    """Refusal by the name of one of these parameters that is there with none of the values that change nothing."""
    for name, harmless in parameters.items():
        raw = getattr(value, name, None)
        if isinstance(raw, msgspec.Raw):
            refuse_unless(name, raw, harmless)


def refuse_unless(name: str, raw: msgspec.Raw, harmless: tuple[object, ...]) -> None:
    """Refusal by this name, unless the value is null or one that changes nothing."""
    if bytes(raw) == b"null":
        return
    value = msgspec.json.decode(raw)
    if isinstance(value, dict):
        value = {key: each for key, each in value.items() if each is not None}
    # 0 == False in Python, not in JSON.
    if any(type(value) is type(each) and value == each for each in harmless):
        return
    expected = ", ".join(msgspec.json.encode(each).decode() for each in (None, *harmless))
    message = f"{name}: is not supported here; leave it out, or send what changes nothing: {expected}"
    raise Refusal(400, "unsupported_parameter", name, message)
