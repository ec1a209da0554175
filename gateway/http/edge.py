"""What every handler works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from litestar.di import NamedDependency

from gateway.backend import Backend
from gateway.jobs.jobs import TurnJobs
from gateway.libraries.libraries import Libraries
from gateway.turn.turns import TurnDriver
from services.config import GatewaySettings


@dataclass(frozen=True, slots=True)
class Edge:
    """The mesh as the HTTP edge sees it, for one request: `tenant` is its caller's."""

    backend: Backend
    turns: TurnDriver
    jobs: TurnJobs
    settings: GatewaySettings
    libraries: Libraries
    tenant: str


GivenEdge: TypeAlias = NamedDependency[Edge]
"""The edge as Litestar hands it to a handler."""
