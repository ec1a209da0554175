"""The form of an upload (RFC 7578), taken in as its bytes come: small fields, and one file that is never held whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserError,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from gateway.http.errors import Refusal

FIELD_BYTES_MAX: Final = 4_096
FIELDS_COUNT_MAX: Final = 16
_FORM: Final = "multipart/form-data"
_EXPECTED: Final = "expected multipart/form-data with the parts `purpose` and `file`"


@dataclass(frozen=True, slots=True)
class FileBegins:
    """The file's part has begun."""

    filename: str
    media_type: str


@dataclass(frozen=True, slots=True)
class FileEnds:
    """All of the file has come."""


# What comes of a form beside its fields: where the file begins, its bytes, where it ends.
Event: TypeAlias = FileBegins | bytes | FileEnds


@dataclass(slots=True)
class Form:
    """Takes in a body by pieces. `fields` are those that have come so far. Refusal (400, 413) names what is wrong."""

    content_type: str
    file_bytes_max: int
    fields: dict[str, str] = field(default_factory=dict)
    has_file: bool = False
    _parser: PushMultipartParser = field(init=False)
    _name: str = ""
    _value: bytearray = field(default_factory=bytearray)
    _is_file: bool = False
    _file_bytes: int = 0

    def __post_init__(self) -> None:
        """Refusal for a body that is no such form."""
        kind, options = parse_options_header(self.content_type)
        if kind != _FORM or not options.get("boundary"):
            shown = self.content_type[:100] or "none"
            raise Refusal(400, "invalid_content_type", None, f"the content type is {shown}; {_EXPECTED}")
        try:
            # Not strict: that refuses the line break behind the end where it comes in a piece of its own.
            self._parser = PushMultipartParser(options["boundary"], max_segment_count=FIELDS_COUNT_MAX + 1)
        except MultipartError as error:
            raise _broken(error) from None

    def feed(self, data: bytes) -> Iterator[Event]:
        """What of the file a piece of the body has; the piece is taken in as far as this is iterated."""
        try:
            for event in self._parser.parse(data):
                yield from self._taken(event)
        except MultipartError as error:
            raise _broken(error) from None

    def close(self) -> None:
        """The body is over: Refusal where the form is not."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _broken(error) from None
        if not self.has_file:
            raise Refusal(400, "missing_required_parameter", "file", f"file: is missing; {_EXPECTED}")

    def _taken(self, event: MultipartSegment | bytes | bytearray | None) -> Iterator[Event]:
        if isinstance(event, MultipartSegment):
            yield from self._begin(event)
        elif event is None:
            yield from self._end()
        elif self._is_file:
            self._file_bytes += len(event)
            if self._file_bytes > self.file_bytes_max:
                message = f"file: is over {self.file_bytes_max} bytes (gateway.libraries.file_bytes_max); expected less"
                raise Refusal(413, "file_too_large", "file", message)
            yield bytes(event)
        else:
            self._value += event
            if len(self._value) > FIELD_BYTES_MAX:
                message = f"{self._name}: is over {FIELD_BYTES_MAX} bytes; expected a short value"
                raise Refusal(400, "invalid_value", self._name, message)

    def _begin(self, segment: MultipartSegment) -> Iterator[Event]:
        name = self._name = segment.name[:100]
        if name in self.fields or (name == "file" and self.has_file):
            raise Refusal(400, "invalid_value", name, f"{name}: comes twice; expected it once")
        self._value = bytearray()
        self._is_file = name == "file"
        if not self._is_file:
            return
        self.has_file = True
        if not segment.filename:
            raise Refusal(400, "invalid_value", "file", "file: has no filename; expected a part with a filename")
        yield FileBegins(segment.filename, segment.header("Content-Type", "") or "")

    def _end(self) -> Iterator[Event]:
        if self._is_file:
            if not self._file_bytes:
                raise Refusal(400, "invalid_file", "file", "file: is empty; expected a text")
            yield FileEnds()
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError as error:
            message = f"{self._name}: byte {error.start} is not UTF-8; expected UTF-8"
            raise Refusal(400, "invalid_utf8", self._name, message) from None


def _broken(error: MultipartError) -> Refusal:
    detail = str(error)
    message = f"the form cannot be read: {detail[:1].lower()}{detail[1:]}; {_EXPECTED}"
    if isinstance(error, ParserLimitReached):
        return Refusal(413, "request_too_large", None, message)
    assert isinstance(error, ParserError), error
    return Refusal(400, "invalid_form", None, message)
