"""The settings as the command line sees them, and where each value came from."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from services.cli.errors import EXIT_USAGE, CliError
from services.config import ENV_CONFIG, ENV_PREFIX, ConfigError, Settings, load_settings


def load(path: Path | None, **overrides: dict[str, Any]) -> Settings:
    """`load_settings`, with a wrong key as a usage error."""
    try:
        return load_settings(path, **{section: values for section, values in overrides.items() if values})
    except ConfigError as error:
        raise CliError("CONFIG", str(error).replace("\n", "; "), exit_code=EXIT_USAGE) from None


def sources(path: Path | None, settings: Settings) -> dict[str, str]:
    """`section.key` to `default`, the file's name or the variable's name, for every key."""
    file = path or (Path(named) if (named := os.environ.get(ENV_CONFIG)) else None)
    in_file = _read(file) if file is not None else {}
    variables = {name.upper() for name in os.environ}
    found: dict[str, str] = {}
    for section, values in settings.model_dump().items():
        for key in values:
            variable = f"{ENV_PREFIX}{section}__{key}".upper()
            if variable in variables:
                found[f"{section}.{key}"] = variable
            elif file is not None and key in in_file.get(section, {}):
                found[f"{section}.{key}"] = str(file)
            else:
                found[f"{section}.{key}"] = "default"
    return found


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return parsed
