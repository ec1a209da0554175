"""What a command says when it cannot do what it was asked: one line, a stable reason, an exit code."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


class CliError(Exception):
    """An expected failure. `reason` is for programs, the message says what to do about it."""

    def __init__(
        self, reason: str, message: str, *, exit_code: int = EXIT_FAILED, metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code
        self.metadata = metadata or {}


def report(error: CliError, as_json: bool) -> int:
    """Prints the error on stderr and returns the exit code."""
    if as_json:
        document: dict[str, Any] = {"error": {"reason": error.reason, "message": str(error)}}
        if error.metadata:
            document["error"]["metadata"] = error.metadata
        print(json.dumps(document, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"isthmus: {error}", file=sys.stderr)
    return error.exit_code
