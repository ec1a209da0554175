"""Objects and indexes where keys are spread over primaries, and acknowledged means replicated."""

from __future__ import annotations

from pathlib import Path

from context_store.log.keys import Keys
from services.config import Settings
from services.valkey import scan_keys
from tests.context_store.tier_parts import parts
from tests.support.eventually import eventually
from tests.support.mesh import changed


async def test_sessions_on_all_primaries_leave_and_come_back(cluster_settings: Settings) -> None:
    async with parts(changed(cluster_settings, "tiering", idle_ms=1, freeze_ms_max=2_000)) as shard:
        many = [Keys("acme", f"s{number}") for number in range(12)]
        for keys in many:
            await shard.create(keys)
            await shard.append(keys, f"text of {keys.session}", "r1")

        async def are_cold() -> bool:
            await shard.janitor.round()
            return all([(await shard.tiers.log.place(keys))[1] for keys in many])

        await eventually(are_cold)
        assert len(_objects(cluster_settings)) == len(many)
        left = {key.decode().rpartition(":")[2] async for key in scan_keys(shard.tiers.log._client, "isthmus:{acme/*")}
        assert left == {"meta"}
        for keys in many:
            assert await shard.text(keys) == f"text of {keys.session}"
        assert not _objects(cluster_settings)


def _objects(settings: Settings) -> list[Path]:
    return [path for path in (settings.mesh.home / "objects").rglob("*") if path.is_file()]
