"""The job queue and the contract of its jobs: names, arguments and keys, shared by those who ask and those who work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import blake2b
from typing import Final

from docket import Docket
from docket._redis import RedisConnection
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import parse_url

from services.config import Settings, ValkeySettings
from services.valkey import address

SUMMARISE_SEGMENT: Final = "summarise_segment"
AUDIT_TURN: Final = "audit_turn"
EMBED_DOCUMENT: Final = "embed_document"
_KEY_BYTES: Final = 16


async def summarise_segment(tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
    """Makes the level-1 summary of a segment, both ends included. The compressor registers the one that works."""
    raise RuntimeError(f"{SUMMARISE_SEGMENT} runs in the compressor; here it is only declared")


async def audit_turn(tenant: str, session: str, turn: int) -> None:
    """Judges a turn's reply against what it was made from. The compressor registers the one that works."""
    raise RuntimeError(f"{AUDIT_TURN} runs in the compressor; here it is only declared")


async def embed_document(tenant: str, session: str, document: str) -> None:
    """Makes the vectors that a library's document lacks. The compressor registers the one that works."""
    raise RuntimeError(f"{EMBED_DOCUMENT} runs in the compressor; here it is only declared")


@asynccontextmanager
async def docket(settings: Settings, suffix: str = "") -> AsyncIterator[Docket]:
    """The mesh's job queue, open, or another one of its own by `suffix`. Workers register their functions under names.

    A job that has ended leaves nothing behind in Valkey. Raises redis' errors when Valkey is away.
    """
    url = await _seed_url(settings.valkey)
    queue = Docket(name=settings.mesh.name + suffix, url=url, execution_ttl=timedelta(0))
    queue._redis = _Connection(url)
    async with queue:
        yield queue


class _Connection(RedisConnection):
    """docket's own, but for its messages, by which jobs are taken back.

    In a cluster it opens a pool for them that knows nothing of what the URL says about TLS, and takes the user and the
    password as they are escaped there.
    """

    def _create_node_pool(self) -> ConnectionPool:
        pool = super()._create_node_pool()
        options = parse_url(self._normalized_url())
        own = ("host", "port", "db", "connection_class")
        pool.connection_kwargs.update({name: value for name, value in options.items() if name not in own})
        return pool


def segment_key(tenant: str, session: str, first_sequence: int, last_sequence: int) -> str:
    """What the job does is its key, so that asking twice, or a redelivery, adds nothing. It tells no session's name."""
    return _key(f"{SUMMARISE_SEGMENT}:{tenant}/{session}:{first_sequence}-{last_sequence}")


def document_key(tenant: str, session: str, document: str) -> str:
    """The same for a document."""
    return _key(f"{EMBED_DOCUMENT}:{tenant}/{session}:{document}")


def _key(what: str) -> str:
    return blake2b(what.encode(), digest_size=_KEY_BYTES).hexdigest()


async def enqueue_segment(queue: Docket, tenant: str, session: str, first_sequence: int, last_sequence: int) -> None:
    """Asks for the level-1 summary of a segment of the log, both ends included."""
    if SUMMARISE_SEGMENT not in queue.tasks:
        queue.register(summarise_segment)
    add = queue.add(SUMMARISE_SEGMENT, key=segment_key(tenant, session, first_sequence, last_sequence))
    await add(tenant, session, first_sequence, last_sequence)


def audit_key(tenant: str, session: str, turn: int) -> str:
    """As `segment_key`, of the audit of a turn."""
    return blake2b(f"{AUDIT_TURN}:{tenant}/{session}/{turn}".encode(), digest_size=_KEY_BYTES).hexdigest()


async def enqueue_document(queue: Docket, tenant: str, session: str, document: str) -> None:
    """Asks for the vectors of a library's document."""
    if EMBED_DOCUMENT not in queue.tasks:
        queue.register(embed_document)
    await queue.add(EMBED_DOCUMENT, key=document_key(tenant, session, document))(tenant, session, document)


async def cancel_segments(queue: Docket, tenant: str, session: str, segments: Iterable[tuple[int, int]]) -> None:
    """Takes back what was asked for of a session, each segment by its first and last sequence number.

    A job that waits is gone afterwards, one that runs is told to end; one that nobody asked for is no error. Raises
    redis' errors when Valkey is away: what is left then ends by itself, for it finds no session.
    """
    for first, last in segments:
        await queue.cancel(segment_key(tenant, session, first, last))


async def _seed_url(settings: ValkeySettings) -> str:
    """The URL with the first of its hosts that can be reached: docket takes one, and finds the others from there."""
    parsed = address.parse(settings.url)
    for host, port in parsed.hosts:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(settings.connect_ms_max / 1000):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return parsed.seed_url(host, port)
    return parsed.seed_url(*parsed.hosts[0])
