"""TLS in front of a server that has none, as the wheel's Valkey: a port that takes it and hands plain text on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import trustme

_CHUNK_BYTES = 1 << 16


class TlsProxy:
    """Takes TLS at `port` of the loopback while it is entered, and hands what comes to `server_port`.

    It shows `certificate`; with `clients` it takes those alone that show one of that authority.
    """

    def __init__(self, server_port: int, certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> None:
        self._server_port = server_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        if clients:
            clients.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._talks: set[asyncio.Task[None]] = set()
        self.port = 0
        # Connections whose handshake succeeded.
        self.count = 0

    async def __aenter__(self) -> TlsProxy:
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        talk = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as closing:
            closing.push_async_callback(_closed, writer)
            # A server that is dead closes the client's connection.
            with contextlib.suppress(OSError):
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
                closing.push_async_callback(_closed, to_server)
                ways = {
                    asyncio.create_task(_carry(reader, to_server)),
                    asyncio.create_task(_carry(from_server, writer)),
                }
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
