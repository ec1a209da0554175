"""Libraries and files as the edges see them: one object for both."""

from __future__ import annotations

from gateway.backend import Backend
from gateway.background import Background
from gateway.libraries.documents import Documents
from gateway.libraries.files import Files
from gateway.shards import Shards
from services.config import Settings


class Libraries:
    """What the edges ask of libraries and files. Every error is an IsthmusError."""

    def __init__(self, backend: Backend, shards: Shards, settings: Settings) -> None:
        self.background = Background()
        self.documents = Documents(shards, settings)
        self.files = Files(backend, self.documents, settings.gateway.libraries)

    async def delete_file(self, tenant: str, file: str) -> None:
        """Erases a file."""
        await self.files.delete(tenant, file)
