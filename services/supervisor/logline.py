"""What a process printed, as one readable line whatever its format. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

# Already said by the line's place in the log.
_UNSAID: Final = frozenset({"event", "level", "timestamp", "room", "member", "logger", "exception"})
_VALKEY: Final = re.compile(r"^\d+:[A-Z] \d\d \w{3} \d{4} [\d:.]+ (?P<mark>[.\-*#]) (?P<text>.*)$")
_VALKEY_LEVELS: Final = {".": "debug", "-": "debug", "*": "info", "#": "warning"}
# How Valkey says that nothing is wrong at its highest level.
_VALKEY_CALM: Final = (
    "Valkey is now ready to exit",
    "User requested shutdown",
    "WARNING Memory overcommit",
    "Missing implement of connection type tls",
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A level (`debug`, `info`, `warning`, `error`) and a text, which has several lines where it holds a traceback."""

    level: str
    text: str


def parse(line: str) -> LogLine:
    """Reads a structlog line in JSON, a line of Valkey, or takes anything else as it is."""
    if line.startswith("{"):
        try:
            return _structured(json.loads(line))
        except ValueError:
            return LogLine("info", line)
    match = _VALKEY.match(line)
    if match is None:
        return LogLine("info", line)
    text = match["text"].strip()
    return LogLine("info" if text.startswith(_VALKEY_CALM) else _VALKEY_LEVELS[match["mark"]], text)


def _structured(event: dict[str, Any]) -> LogLine:
    words = [str(event.get("event", ""))]
    words += [f"{key}={_value(value)}" for key, value in event.items() if key not in _UNSAID]
    text = " ".join(word for word in words if word)
    if event.get("exception"):
        text = f"{text}\n{event['exception']}"
    level = str(event.get("level", "info"))
    return LogLine("error" if level in ("critical", "exception") else level, text)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or any(each.isspace() for each in text) else text


class LineSplitter:
    """Bytes in any pieces in, whole lines out. A line beyond the bound comes in parts, so that memory has one too."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) >= self._line_bytes_max:
            whole.append(self._rest[: self._line_bytes_max])
            self._rest = self._rest[self._line_bytes_max :]
        return [part for line in whole for part in self._parts(line)]

    def finish(self) -> list[str]:
        """What came after the last newline."""
        rest, self._rest = self._rest, b""
        return self._parts(rest)

    def _parts(self, line: bytes) -> list[str]:
        line = line.rstrip(b"\r")
        cuts = range(0, len(line), self._line_bytes_max)
        return [line[cut : cut + self._line_bytes_max].decode(errors="replace") for cut in cuts]
