"""Resource names: the one place where `sessions/{session}/turns/{turn}` and its kin are written and read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.errors import InvalidField

_ID = r"[a-z0-9][a-z0-9-]{0,62}"
_NUMBER = r"[1-9][0-9]{0,17}"
_ID_RULE = "1 to 63 of a-z, 0-9 and -, starting with a letter or digit"
_SESSION = re.compile(rf"sessions/({_ID})")
_TURN = re.compile(rf"sessions/({_ID})/turns/({_NUMBER})")
_OPERATION = re.compile(rf"sessions/({_ID})/turns/({_NUMBER})/operation")
_FRAGMENT = re.compile(rf"sessions/({_ID})/fragments/({_NUMBER})")
_DOCUMENT = re.compile(rf"sessions/({_ID})/documents/({_ID})")
_LIBRARY = re.compile(rf"libraries/({_ID})")
_LIBRARY_DOCUMENT = re.compile(rf"libraries/({_ID})/documents/({_ID})")


@dataclass(frozen=True, slots=True)
class Numbered:
    """A turn or fragment of a session, by its number."""

    session: str
    number: int


@dataclass(frozen=True, slots=True)
class DocumentId:
    """A document of a session."""

    session: str
    document: str


def session_name(session: str) -> str:
    """`sessions/{session}` of an id."""
    return f"sessions/{session}"


def parse_session(name: str, field: str = "name") -> str:
    """The id in `sessions/{session}`; InvalidField names `field` otherwise."""
    match = _match(_SESSION, name, field, f"sessions/{{session}}, the id being {_ID_RULE}")
    return match[1]


def parse_turn(name: str, field: str = "name") -> Numbered:
    """Session and number in `sessions/{session}/turns/{number}`; InvalidField names `field` otherwise."""
    match = _match(_TURN, name, field, "sessions/{session}/turns/{number}, numbered from 1 on")
    return Numbered(match[1], int(match[2]))


def parse_operation(name: str, field: str = "name") -> Numbered:
    """Session and number in `sessions/{session}/turns/{number}/operation`; InvalidField names `field` otherwise."""
    match = _match(_OPERATION, name, field, "sessions/{session}/turns/{number}/operation, numbered from 1 on")
    return Numbered(match[1], int(match[2]))


def parse_fragment(name: str, field: str = "name") -> Numbered:
    """Session and sequence in `sessions/{session}/fragments/{sequence}`; InvalidField names `field` otherwise."""
    match = _match(_FRAGMENT, name, field, "sessions/{session}/fragments/{sequence}, numbered from 1 on")
    return Numbered(match[1], int(match[2]))


def parse_document(name: str, field: str = "name") -> DocumentId:
    """Both ids in `sessions/{session}/documents/{document}`; InvalidField names `field` otherwise."""
    match = _match(_DOCUMENT, name, field, f"sessions/{{session}}/documents/{{document}}, each id {_ID_RULE}")
    return DocumentId(match[1], match[2])


def library_name(library: str) -> str:
    """`libraries/{library}` of an id."""
    return f"libraries/{library}"


def library_document_name(library: str, document: str) -> str:
    """`libraries/{library}/documents/{document}` of both ids."""
    return f"{library_name(library)}/documents/{document}"


def parse_library(name: str, field: str = "name") -> str:
    """The id in `libraries/{library}`; InvalidField names `field` otherwise."""
    return _match(_LIBRARY, name, field, f"libraries/{{library}}, the id being {_ID_RULE}")[1]


def parse_library_document(name: str, field: str = "name") -> tuple[str, str]:
    """Both ids in `libraries/{library}/documents/{document}`; InvalidField names `field` otherwise."""
    match = _match(_LIBRARY_DOCUMENT, name, field, f"libraries/{{library}}/documents/{{document}}, each id {_ID_RULE}")
    return match[1], match[2]


def _match(pattern: re.Pattern[str], name: str, field: str, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise InvalidField(field, f"is {name[:128]!r}, expected {expected}")
    return match
