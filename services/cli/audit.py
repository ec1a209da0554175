"""What was done to keys and limits, one line each in `<home>/logs/audit.log`: who, what, from where, how it ended."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final

import structlog

from services.cli.errors import CliError
from services.config import SupervisorSettings
from services.errors import IsthmusError, reason_name
from services.supervisor.home import Home
from services.supervisor.logmux import RotatingFile

_PROCESSORS: Final = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.JSONRenderer(),
)


class Audit:
    """The audit log of a home."""

    def __init__(self, home: Home, settings: SupervisorSettings) -> None:
        self._home = home
        self._settings = settings

    @contextlib.contextmanager
    def noting(self, event: str, **asked: Any) -> Iterator[dict[str, Any]]:
        """Notes how the work inside ended. What the work puts into the dictionary is told with it, never a secret.

        The file is opened first, so that nothing is done that cannot be noted. Raises CliError FILE.
        """
        found: dict[str, Any] = {}
        result = "failed"
        with self._opened() as log:
            try:
                yield found
                result = "done"
            except IsthmusError as error:
                result = reason_name(error.reason)
                raise
            finally:
                log.info(event, **{**asked, **found, "result": result})

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        limits = self._settings
        try:
            self._home.create()
            self._home.audit.touch(mode=0o600)
            file = RotatingFile(self._home.audit, limits.log_bytes_max, limits.log_files_count_max)
        except OSError as error:
            raise CliError("FILE", f"{self._home.audit} cannot be written: {error.strerror}") from None
        with contextlib.closing(file):
            wrapper = structlog.make_filtering_bound_logger(0)
            log = structlog.wrap_logger(_Lines(file), processors=_PROCESSORS, wrapper_class=wrapper)
            yield log.bind(by=_who())


class _Lines:
    """Where structlog writes its lines."""

    def __init__(self, file: RotatingFile) -> None:
        self._file = file

    def info(self, line: str) -> None:
        try:
            self._file.write(line.encode() + b"\n")
        except OSError as error:
            # It is done, and a new key can be shown only now: a full disk must not hide it.
            print(f"isthmus: not written to the audit log ({error.strerror}): {line}", file=sys.stderr)


def _who() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # In a container whose user has no entry.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
