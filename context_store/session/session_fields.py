"""The fields of a session that its owner sets, and how they are copied and checked. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf import field_mask_pb2
from isthmus.session.v1 import session_pb2

from services.errors import InvalidField

MUTABLE: Final = ("display_name", "labels", "window_tokens_max", "ttl", "durability")


def copy_fields(source: session_pb2.Session, target: session_pb2.Session, fields: Iterable[str]) -> None:
    """Sets these fields as the source has them, cleared where it has none."""
    names = list(fields)
    for name in names:
        target.ClearField(name)  # type: ignore[arg-type]
    picked = session_pb2.Session()
    field_mask_pb2.FieldMask(paths=names).MergeMessage(source, picked)
    target.MergeFrom(picked)


def set_fields(session: session_pb2.Session) -> tuple[str, ...]:
    """Those of the owner's fields that are set."""
    present = {field.name for field, _ in session.ListFields()}
    return tuple(name for name in MUTABLE if name in present)


def masked(mask: field_mask_pb2.FieldMask, session: session_pb2.Session) -> tuple[str, ...]:
    """The fields that an update is about; INVALID_FIELD for one that cannot be changed."""
    unknown = [path for path in mask.paths if path not in MUTABLE]
    if unknown:
        raise InvalidField("update_mask", f"{unknown[0]!r} cannot be changed; expected any of {', '.join(MUTABLE)}")
    return tuple(mask.paths) or set_fields(session)
