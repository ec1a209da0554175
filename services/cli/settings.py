"""The settings as the command line sees them, and where each value came from."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from services.cli.errors import EXIT_USAGE, CliError
from services.config import ENV_CONFIG, ENV_PREFIX, ConfigError, Settings, load_settings
from services.supervisor.home import Home


def load(path: Path | None, **overrides: dict[str, Any]) -> Settings:
    """`load_settings`, with a wrong key as a usage error."""
    try:
        return load_settings(path, **{section: values for section, values in overrides.items() if values})
    except ConfigError as error:
        raise CliError("CONFIG", str(error).replace("\n", "; "), exit_code=EXIT_USAGE) from None


def of_mesh(home: Home) -> Settings:
    """What the mesh on a home was started with: what it has written wins over the environment of now."""
    try:
        values = json.loads(home.settings.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CliError("CONFIG", f"{home.settings} cannot be read: {error}", exit_code=EXIT_USAGE) from None
    return load(None, **values)


def sources(path: Path | None, settings: Settings) -> dict[str, str]:
    """`section.key` to `default`, the file's name or the variable's name, for every key."""
    file = path or (Path(named) if (named := os.environ.get(ENV_CONFIG)) else None)
    in_file = _read(file) if file is not None else {}
    variables = {name.upper() for name in os.environ}
    found: dict[str, str] = {}
    for section, values in settings.model_dump().items():
        for key in values:
            variable = f"{ENV_PREFIX}{section}__{key}".upper()
            inner = sorted(name for name in variables if name.startswith(f"{variable}__"))
            if variable in variables or inner:
                found[f"{section}.{key}"] = variable if variable in variables else ", ".join(inner)
            elif file is not None and key in in_file.get(section, {}):
                found[f"{section}.{key}"] = str(file)
            else:
                found[f"{section}.{key}"] = "default"
    return found


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return parsed
