"""`config`: the effective settings, one line a key, with the source of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.cli.output import console, print_json, table_of
from services.cli.settings import load, sources
from services.valkey import redacted


def show_config(path: Path | None, *, as_json: bool) -> None:
    """Prints what a process started here and now would run with."""
    settings = load(path)
    values = {section: _shown(keys) for section, keys in settings.model_dump(mode="json").items()}
    origins = sources(path, settings)
    if as_json:
        print_json({"settings": values, "sources": origins})
        return
    table = table_of("key", "value", "from")
    for section, keys in values.items():
        for key, value in keys.items():
            name = f"{section}.{key}"
            table.add_row(name, value if isinstance(value, str) else json.dumps(value), origins[name])
    console().print(table)


def _shown(keys: dict[str, Any]) -> dict[str, Any]:
    """A section whose URLs do not tell their passwords."""
    return {key: redacted(value) if isinstance(value, str) and "://" in value else value for key, value in keys.items()}
