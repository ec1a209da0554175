"""The job queue and the contract of its jobs: names, arguments and keys, shared by those who ask and those who work."""

from __future__ import annotations

from typing import Final

from docket import Docket

from services.config import Settings

SUMMARISE_SEGMENT: Final = "summarise_segment"


async def summarise_segment(tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
    """Makes the level-1 summary of a segment, both ends included. The compressor registers the one that works."""
    raise RuntimeError(f"{SUMMARISE_SEGMENT} runs in the compressor; here it is only declared")


def docket(settings: Settings) -> Docket:
    """The mesh's job queue, to be entered with `async with`. Workers register their functions under the names below."""
    return Docket(name=settings.mesh.name, url=settings.valkey.url)


def segment_key(tenant: str, session: str, first_sequence: int, last_sequence: int) -> str:
    """What the job does is its key, so that asking twice, or a redelivery, adds nothing."""
    return f"l1:{tenant}/{session}:{first_sequence}-{last_sequence}"


async def enqueue_segment(queue: Docket, tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
    """Asks for the level-1 summary of a segment of the log, both ends included."""
    if SUMMARISE_SEGMENT not in queue.tasks:
        queue.register(summarise_segment)
    add = queue.add(SUMMARISE_SEGMENT, key=segment_key(tenant, session, first_sequence, last_sequence))
    await add(tenant, session, first_sequence, last_sequence)
