"""What replicas on one machine are given: time to load and to stop an engine, and each its share of the cores. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.config import Settings
from services.supervisor.plan import REPLICA, Allowance

_VLLM: Final = "vllm"


def allowances(settings: Settings) -> Mapping[str, Allowance]:
    """By room, what its processes may take beyond the supervisor's own bounds."""
    count, vllm = _vllms_count(settings), settings.vllm
    return {REPLICA: Allowance(count * vllm.start_ms_max, count * vllm.stop_ms_max, _VLLM)} if count else {}


def with_cores_shared(settings: Settings, cores_count: int) -> Settings:
    """The settings with the threads of each replica's engine, where nobody has said how many.

    On a CPU, vLLMs of which each takes all cores read their prompts two to five times slower beside each other.
    """
    alone = settings.mesh.replicas == 1 or not _vllms_count(settings)
    if alone or "threads_count" in settings.inference.model_fields_set:
        return settings
    share = max(1, cores_count // settings.mesh.replicas)
    return settings.model_copy(update={"inference": settings.inference.model_copy(update={"threads_count": share})})


def _vllms_count(settings: Settings) -> int:
    """How many vLLMs a replica starts, one after the other: for replies, for vectors, for both or for neither."""
    return (settings.inference.engine == _VLLM) + (settings.vllm.embedding_model is not None)
