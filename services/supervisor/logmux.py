"""The one log of a local mesh: every process's output, merged into a file that never outgrows its bound."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Final

from services.supervisor import logline
from services.supervisor.logline import LogLine

# Under which name the supervisor itself writes.
OWN_NAME: Final = "supervisor"

Echo = Callable[[str, LogLine], None]
_TAIL_COUNT_MAX: Final = 12
_NAME_WIDTH: Final = 16


class RotatingFile:
    """`FILE`, with `FILE.1` (the newest) to `FILE.n` behind it, each of about `bytes_max` bytes."""

    def __init__(self, path: Path, bytes_max: int, older_count_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._older_count_max = older_count_max
        self._file = self._open()
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Appends the data whole, to a new file if the present one would pass its bound."""
        if self._size and self._size + len(data) > self._bytes_max:
            self._rotate()
        self._file.write(data)
        self._size += len(data)

    def close(self) -> None:
        self._file.close()

    def _open(self) -> FileIO:
        return FileIO(self._path, "ab")

    def _rotate(self) -> None:
        self._file.close()
        names = [
            self._path,
            *(self._path.with_name(f"{self._path.name}.{n + 1}") for n in range(self._older_count_max)),
        ]
        names[-1].unlink(missing_ok=True)
        for newer, older in reversed(list(itertools.pairwise(names))):
            if newer.exists():
                newer.rename(older)
        self._file = self._open()
        self._size = 0


class LogMux:
    """Takes the lines of all processes by name; writes them to the file and shows them to `echo`.

    It also keeps each process's last few lines, for the message that says why it did not start.
    """

    def __init__(self, file: RotatingFile, echo: Echo | None = None) -> None:
        self._file = file
        self._echo = echo
        self._tails: dict[str, deque[str]] = {}

    def write(self, name: str, raw: str) -> None:
        """A line as a process printed it."""
        if raw.strip():
            self.say(name, logline.parse(raw))

    def say(self, name: str, line: LogLine) -> None:
        """A line whose level is known."""
        self._tails.setdefault(name, deque(maxlen=_TAIL_COUNT_MAX)).extend(line.text.splitlines())
        # A full disk costs log lines, not the processes whose lines they are.
        with contextlib.suppress(OSError):
            self._file.write(_render(name, line))
        if self._echo is not None:
            self._echo(name, line)

    def tail(self, name: str) -> list[str]:
        """The last lines of a process, oldest first."""
        return list(self._tails.get(name, ()))

    def forget(self, name: str) -> None:
        """Drops what is kept of a process that will not come back."""
        self._tails.pop(name, None)

    def close(self) -> None:
        self._file.close()


def _render(name: str, line: LogLine) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"{now} {name:<{_NAME_WIDTH}} {line.level:<7} "
    return (head + line.text.replace("\n", "\n" + " " * len(head)) + "\n").encode()
