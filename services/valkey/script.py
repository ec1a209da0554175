"""Lua scripts as callables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from services.valkey.client import Client, command
from services.valkey.cluster import Argument
from services.valkey.trips import Then, Trips


class Script:
    """A Lua script in a file of its own, run atomically by its digest; sent in full where a node does not have it."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._source = path.read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Client, keys: Sequence[Argument], args: Sequence[Argument] = ()) -> Any:
        """Runs the script; what it returns has Lua's types as RESP gives them (bytes, int, list, None)."""
        try:
            return await command(client, "EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await command(client, "EVAL", self._source, len(keys), *keys, *args)

    async def followed(
        self, trips: Trips, keys: Sequence[Argument], args: Sequence[Argument], then: Then = ()
    ) -> list[Any]:
        """The script's answer and those of commands sent behind it, on the same connection to the same node.

        The trip may be one with other scripts. Raises the script's error; another's stands in its answer's place.
        """
        try:
            return await trips.together(("EVALSHA", self._sha, len(keys), *keys, *args), then)
        except NoScriptError:
            return await trips.together(("EVAL", self._source, len(keys), *keys, *args), then)
