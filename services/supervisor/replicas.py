"""What replicas on one machine are given: time for their engines, a share of the cores, settings of their own. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from services.config import ENV_PREFIX, Settings
from services.supervisor.plan import REPLICA, Allowance

_VLLM: Final = "vllm"


def allowances(settings: Settings) -> Mapping[str, Allowance]:
    """By room, what its processes may take beyond the supervisor's own bounds."""
    count, vllm = _vllms_count(settings), settings.vllm
    return {REPLICA: Allowance(count * vllm.start_ms_max, count * vllm.stop_ms_max, _VLLM)} if count else {}


def with_all_named(settings: Settings) -> Settings:
    """The settings with as many replicas as `supervisor.replicas` names."""
    count = max(settings.mesh.replicas, len(settings.supervisor.replicas))
    return settings.model_copy(update={"mesh": settings.mesh.model_copy(update={"replicas": count})})


def environments(settings: Settings) -> Sequence[Mapping[str, str]]:
    """By the replica's number, the variables that say its own settings."""
    return [
        {
            f"{ENV_PREFIX}{section}__{key}".upper(): value if isinstance(value, str) else json.dumps(value)
            for section, values in sections.items()
            for key, value in values.items()
        }
        for sections in settings.supervisor.replicas
    ]


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
