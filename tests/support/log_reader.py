"""Reads a session's log straight from Valkey, by the stored format alone: what the store says of itself is no proof."""

from __future__ import annotations

from services.cli.chaos.audit import Stored, connected
from services.cli.chaos.audit import read_log as read_session


def read_log(url: str, tenant: str, session: str) -> list[Stored]:
    """Every fragment in order that is not void. AssertionError where the sequence numbers have a gap."""
    with connected(url) as valkey:
        log = read_session(valkey, tenant, session)
    assert not log.missing, f"the log has gaps: {log.missing}"
    return list(log.fragments)
