"""What every change of a session has in common: a mark of its own, an acknowledgement, an outcome."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from context_store.log.document_reads import DocumentReads
from context_store.log.keys import Keys
from context_store.log.stored import MARK_BYTES, Meter, Reply
from services.errors import NotFound
from services.valkey import Ack, Argument


class Changing(DocumentReads):
    """Runs scripts that change a session."""

    async def _change(
        self,
        name: str,
        keys: Keys,
        key_names: Sequence[str],
        args: Sequence[Argument],
        meter: Meter | None = None,
        *,
        disk: bool = False,
    ) -> Reply:
        answer, ack = await self._run_acknowledged(name, keys, key_names, [new_mark(), *args], meter, disk=disk)
        return reply_of(keys, answer, ack)


def new_mark() -> bytes:
    """Random, so that no two calls make the same version, even if Valkey lost its last moments."""
    return secrets.token_bytes(MARK_BYTES)


def reply_of(keys: Keys, answer: list[Any], ack: Ack | None = None) -> Reply:
    """What a script answered; NotFound where there was no session."""
    outcome, *values = answer
    if outcome == b"MISSING":
        raise NotFound(f"sessions/{keys.session}")
    return Reply(outcome.decode(), values, ack or Ack())
