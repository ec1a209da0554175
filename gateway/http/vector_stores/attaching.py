"""Files that are to be in a vector store: looked up first, all of them, and then attached."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.http.edge import Edge
from gateway.http.errors import naming
from gateway.http.files.objects import parse_file
from gateway.libraries.attachment import Attachment
from gateway.libraries.book import Place
from gateway.libraries.shelves import Wanted

_AT_ONCE: Final = 16
# A file with its name.
Named = tuple[Wanted, str]


async def checked_files(edge: Edge, files: Sequence[Wanted], param: str) -> list[Named]:
    """The files by their own ids, with their names. NOT_FOUND by the place of one that is not there.

    `param` has a place for a file's index, if it is one of several.
    """
    places = asyncio.Semaphore(_AT_ONCE)

    async def named(index: int, each: Wanted) -> Named:
        name = param.format(index)
        async with places:
            with naming(name, each.file):
                found = await edge.libraries.files.get(edge.tenant, parse_file(each.file, name))
        return replace(each, file=found.id), found.filename

    return list(await asyncio.gather(*(named(index, each) for index, each in enumerate(files))))


async def attach_all(
    edge: Edge, place: Place, named: Sequence[Named], *, batch: str = "", kept_ms: int = 0
) -> list[Attachment]:
    """Attaches the files in their order."""
    shelves = edge.libraries.shelves
    return [await shelves.attach(place, each, filename, batch=batch, kept_ms=kept_ms) for each, filename in named]
