"""Files as OpenAI's objects."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gateway.http.errors import missing
from gateway.libraries.file_record import File
from services.errors import IsthmusError

_PREFIX = "file-"
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class FileObject(msgspec.Struct, frozen=True):
    """A file; `status` is deprecated, and says nothing."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    status: Literal["processed"] = "processed"
    status_details: None = None
    object: Literal["file"] = "file"


class FileList(msgspec.Struct, frozen=True):
    """A page of files."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class FileDeleted(msgspec.Struct, frozen=True):
    """A file that is no more."""

    id: str
    deleted: bool = True
    object: Literal["file"] = "file"


def file_id(file: str) -> str:
    """`file-<id>`."""
    return f"{_PREFIX}{file}"


def parse_file(text: str, param: str) -> str:
    """The id in `file-<id>`. What is none names no file: it answers as one that does not exist."""
    plain = text.removeprefix(_PREFIX)
    if plain == text or not 1 <= len(plain) <= 63 or plain[0] == "-" or not _CHARACTERS.issuperset(plain):
        raise unknown_file(text, param)
    return plain


def unknown_file(text: str, param: str) -> IsthmusError:
    """NOT_FOUND of a file by OpenAI's id."""
    return missing(param, text[:100])


def file_object(file: File) -> FileObject:
    """The file as OpenAI's."""
    return FileObject(
        id=file_id(file.id),
        bytes=file.size_bytes,
        created_at=file.create_s,
        filename=file.filename,
        purpose=file.purpose,
        expires_at=file.expire_s or None,
    )


def file_list(files: list[File], has_more: bool) -> FileList:
    """The files as OpenAI's list."""
    data: list[Any] = [file_object(file) for file in files]
    return FileList(data, data[0].id if data else None, data[-1].id if data else None, has_more)
