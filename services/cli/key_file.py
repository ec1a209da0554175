"""`<home>/api-key`: the API key that the commands of a home show."""

from __future__ import annotations

import os

from services.cli.errors import CliError
from services.supervisor.home import Home


def read_key(home: Home) -> str:
    """The key in the home's file, empty where there is none. Raises CliError for a file that cannot be read."""
    try:
        return home.api_key.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise CliError("FILE", f"{home.api_key} cannot be read as an API key: {error}") from None


def write_key(home: Home, text: str) -> None:
    """Writes the file, for this user alone, in one step: it is there whole or as it was. Raises CliError."""
    draft = home.api_key.with_suffix(".tmp")
    try:
        draft.unlink(missing_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as writing:
            writing.write(text + "\n")
        draft.replace(home.api_key)
    except OSError as error:
        raise CliError("FILE", f"{home.api_key} cannot be written: {error.strerror}") from None
