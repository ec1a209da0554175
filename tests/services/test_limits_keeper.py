"""Limits in a real Valkey, one node or a cluster."""

from __future__ import annotations

import asyncio

import pytest
from isthmus.errors.v1 import errors_pb2

from services.config import LimitsSettings, Settings
from services.errors import IsthmusError
from services.limits.callers import Kind, Override
from services.limits.keeper import OVERRIDES_KEY, Meters, Overrides, set_override
from services.limits.standing import Cost
from services.valkey import Acknowledger, command, connect, scan_keys
from tests.support.meters import LEASE_MS, tenant

OWN = Override().changed(Kind.USER, {"tokens_per_minute": 5, "turns_concurrent": None})


async def test_one_trip_decides_for_all_callers_also_in_a_cluster(cluster_settings: Settings) -> None:
    valkey = connect(cluster_settings.valkey)
    acknowledger = Acknowledger(valkey, cluster_settings.valkey)
    gateways = [Meters(acknowledger, LEASE_MS) for _ in range(2)]
    callers = [
        tenant(requests=8, turns=20),
        tenant(requests=5, kind=Kind.USER, name="ann"),
        tenant(tokens=100, budget=100, kind=Kind.ADDRESS, name="10.0.0.1"),
    ]
    asked = [gateways[number % 2].take(callers, Cost(1, 1, 1), f"t{number}") for number in range(20)]
    taken = [standing.is_taken for standing in await asyncio.gather(*asked)]
    assert sum(taken) == 5
    for number, was_taken in enumerate(taken):
        if was_taken:
            await gateways[0].settle(callers, f"t{number}", Cost(1, 2, 2))
    acme, ann, home = (await gateways[1].look(callers)).readings
    assert (acme.turns, acme.micros, ann.micros, home.micros) == (0, 10, 0, 10)
    for key in [key async for key in scan_keys(valkey, "isthmus:{limits:*")]:
        assert 0 < await command(valkey, "PTTL", key) <= 32 * 86_400_000
    await set_override(acknowledger, LimitsSettings(), "acme", b"", OWN)
    assert await Overrides(valkey).all() == {"acme": OWN}
    await acknowledger.aclose()
    await valkey.aclose()


async def test_so_many_tenants_may_have_limits_of_their_own(settings: Settings) -> None:
    valkey = connect(settings.valkey)
    acknowledger, stored = Acknowledger(valkey, settings.valkey), Overrides(valkey)
    bounds = LimitsSettings(overrides_count_max=1)
    await set_override(acknowledger, bounds, "acme", b"", OWN)
    version = await stored.version()
    with pytest.raises(IsthmusError, match="overrides_count_max") as full:
        await set_override(acknowledger, bounds, "other", b"", OWN)
    assert full.value.reason == errors_pb2.ERROR_REASON_QUOTA_EXCEEDED
    # Sent again, as after an answer that was lost.
    await set_override(acknowledger, bounds, "acme", b"", OWN)
    assert await stored.version() > version
    override, raw = await stored.find("acme")
    assert override == OWN
    await set_override(acknowledger, bounds, "acme", raw, Override())
    await set_override(acknowledger, bounds, "other", b"", OWN)
    # What a later release wrote is left out, and hinders nobody.
    await command(valkey, "HSET", OVERRIDES_KEY, "strange", b'{"tenant":[]}')
    assert list(await stored.all()) == ["other"]
    await acknowledger.aclose()
    await valkey.aclose()
