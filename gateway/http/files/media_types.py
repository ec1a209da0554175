"""Which files are texts: by what they are called, and by their bytes. Pure."""

from __future__ import annotations

import mimetypes
import re
from typing import Final

# What clients send for a file whose kind they do not know: its bytes decide then.
UNKNOWN: Final = "application/octet-stream"
# It goes back as a header: nothing else may stand in it.
_FORM: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")
_TEXTS: Final = frozenset(
    {
        "json",
        "jsonl",
        "ndjson",
        "x-ndjson",
        "x-jsonlines",
        "ld+json",
        "xml",
        "xhtml+xml",
        "javascript",
        "x-javascript",
        "typescript",
        "x-typescript",
        "yaml",
        "x-yaml",
        "toml",
        "sql",
        "x-sh",
        "x-csh",
        "x-httpd-php",
        "x-php",
        "x-ruby",
        "x-python",
        "x-python-code",
        "x-tex",
        "x-latex",
        "x-perl",
        "csv",
        "graphql",
    }
)


def problem_of(media_type: str) -> str:
    """Why a file of this type cannot be taken; empty for a text, and for one whose bytes have to tell."""
    kind, _, name = media_type.partition("/")
    if not media_type or kind == "text" or media_type == UNKNOWN:
        return ""
    if kind == "application" and (name in _TEXTS or name.endswith(("+json", "+xml"))):
        return ""
    return f"is {media_type[:100]}; expected a text: txt, md, json, jsonl, csv, html, xml, code and the like, in UTF-8"


def media_type_of(filename: str, told: str) -> str:
    """The type as the client told it, without parameters; by the name where it told none."""
    kind = told.partition(";")[0].strip().lower()
    if _FORM.fullmatch(kind) and kind != UNKNOWN:
        return kind
    return mimetypes.guess_type(filename)[0] or UNKNOWN


def binary_at(data: bytes | bytearray) -> int:
    """Where a byte is that no text has, -1 for none."""
    return data.find(b"\x00")
