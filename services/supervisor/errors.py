"""What can keep a mesh from starting on this machine."""

from __future__ import annotations

from pathlib import Path


class SupervisorError(Exception):
    """An expected failure; the message says what to change. `reason` is a stable name for programs."""

    reason = "SUPERVISOR"


class HomeInUse(SupervisorError):  # noqa: N818
    """Another supervisor holds the home."""

    reason = "HOME_IN_USE"

    def __init__(self, home: Path, pid: int | None) -> None:
        who = f"pid {pid}" if pid is not None else "pid unknown"
        super().__init__(
            f"another `isthmus up` ({who}) runs on {home}; stop it first, or choose another home with --home DIR"
        )


class AddressTaken(SupervisorError):  # noqa: N818
    """An address that was asked for is in use."""

    reason = "ADDRESS_TAKEN"

    def __init__(self, option: str, address: str, why: str) -> None:
        super().__init__(
            f"{option} {address}: {why}; stop the program that listens there, or choose another address with "
            f"{option} HOST:PORT (port 0 takes a free one)"
        )


class StartFailed(SupervisorError):  # noqa: N818
    """A process did not become ready. The message carries the end of its log."""

    reason = "START_FAILED"

    def __init__(self, name: str, why: str, log_tail: list[str]) -> None:
        tail = "".join(f"\n    {line}" for line in log_tail)
        super().__init__(f"{name} {why}" + (f"; its last lines:{tail}" if tail else "; it logged nothing"))


class ValkeyUnusable(SupervisorError):  # noqa: N818
    """One's own Valkey does not answer, or not to these credentials. `where` is a URL without its password."""

    reason = "VALKEY_UNUSABLE"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the Valkey at {where} {why} (--valkey URL)")


class UnknownProcess(SupervisorError):  # noqa: N818
    """A name that no process of the mesh has."""

    reason = "UNKNOWN_PROCESS"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"{name!r}: no such process; expected one of {', '.join(known)}")
