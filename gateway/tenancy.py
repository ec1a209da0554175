"""Whose call it is."""

from __future__ import annotations

from services.config import MeshSettings


def tenant_of(settings: MeshSettings) -> str:
    """The tenant of a call. Every caller is without a credential, so it is the mesh's own."""
    return settings.tenant_default
