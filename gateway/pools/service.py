"""PoolService: the pools as this gateway sees them, and draining them by hand."""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc.aio
from isthmus.gateway.v1 import pool_service_pb2 as contract
from isthmus.gateway.v1 import pool_service_pb2_grpc

from gateway.pools.breaker import BreakerState
from gateway.pools.drains import Drains
from gateway.pools.pools import Pools
from services.errors import NotFound
from services.membership import Member, View
from services.router import INFERENCE, LABEL_MODEL, LABEL_REGION, pool_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_PREFIX: Final = "pools/"
_STATES: Final = {
    BreakerState.CLOSED: contract.BREAKER_STATE_CLOSED,
    BreakerState.OPEN: contract.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: contract.BREAKER_STATE_HALF_OPEN,
}


class PoolServicer(pool_service_pb2_grpc.PoolServiceServicer):
    """Its rpcs need the scope `admin`, as all do that no row of `access/needs.py` names."""

    def __init__(
        self, pools: Pools, view: View, drains: Drains, member_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pools = pools
        self._view = view
        self._drains = drains
        self._member_id = member_id
        self._clock = clock

    async def ListPools(self, request: contract.ListPoolsRequest, context: Context) -> contract.ListPoolsResponse:
        members = self._members()
        pools = [self._told(name, members.get(name, ())) for name in sorted(self._names(members))]
        return contract.ListPoolsResponse(pools=pools, gateway=self._member_id)

    async def GetPool(self, request: contract.GetPoolRequest, context: Context) -> contract.Pool:
        return self._found(request.name)

    async def DrainPool(self, request: contract.DrainPoolRequest, context: Context) -> contract.Pool:
        self._found(request.name)
        await self._drains.drain(request.name.removeprefix(_PREFIX))
        return self._found(request.name)

    async def ResumePool(self, request: contract.ResumePoolRequest, context: Context) -> contract.Pool:
        before = self._found(request.name)
        await self._drains.resume(request.name.removeprefix(_PREFIX))
        # One that was known for its drain alone is none any more.
        before.ClearField("drain_time")
        members = self._members()
        name = request.name.removeprefix(_PREFIX)
        return self._told(name, members[name]) if name in self._names(members) else before

    def _found(self, resource: str) -> contract.Pool:
        name = resource.removeprefix(_PREFIX)
        members = self._members()
        if name not in self._names(members):
            raise NotFound(resource)
        return self._told(name, members.get(name, ()))

    def _members(self) -> defaultdict[str, list[Member]]:
        members: defaultdict[str, list[Member]] = defaultdict(list)
        for member in self._view.members(INFERENCE):
            members[pool_of(member)].append(member)
        return members

    def _names(self, members: defaultdict[str, list[Member]]) -> set[str]:
        configured = {pool.name for pool in self._pools.known() if pool.is_configured}
        return {*members, *configured, *self._pools.drained}

    def _told(self, name: str, members: Sequence[Member]) -> contract.Pool:
        pool, now = self._pools.get(name), self._clock()
        regions = {member.labels.get(LABEL_REGION, "") for member in members}
        told = contract.Pool(
            name=f"{_PREFIX}{name}",
            breaker=_STATES[pool.breaker.state(now)],
            tier=pool.settings.tier,
            region=pool.settings.region or next(iter(sorted(regions)), ""),
            calls_in_flight=pool.limit.in_flight,
            calls_max=pool.limit.limit,
            wait_ms=round(1000 * max(pool.limit.wait_s(0, now), pool.breaker.wait_s(now))),
            ttft_p50_ms=round(1000 * pool.latency.quantile(0.5), 3),
            ttft_p95_ms=round(1000 * pool.latency.quantile(0.95), 3),
            error_share=round(pool.breaker.error_share(now), 4),
            calls=pool.counts.calls,
            calls_failed=pool.counts.failed,
            calls_refused=pool.counts.refused,
            cost=pool.counts.cost,
        )
        told.replicas.extend(
            contract.Pool.Replica(
                member=member.id,
                state=member.state.value,
                model=member.labels.get(LABEL_MODEL, ""),
                endpoint=member.endpoint,
                breaker=_STATES[pool.replica_state(member.id, now)],
            )
            for member in members
        )
        if name in self._pools.drained:
            told.drain_time.FromMilliseconds(self._pools.drained[name])
        return told
