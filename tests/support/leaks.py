"""Every key of a mesh belongs to something that lives: the rules that say what, and the check for what is left over.

A rule looks at a name and at what else is there, and says why the name is there, or None. What no rule explains is a
leak. Pure but for `census`, which reads Valkey and the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import redis

_SESSION_KEY: Final = re.compile(r"isthmus:\{(?P<member>[^{}/]+/[^{}/]+)\}:(?P<concept>\w+)")
_INDEX: Final = re.compile(r"isthmus:(touched|due):\{[0-9a-f]{2}\}")
_TENANT_INDEX: Final = re.compile(r"isthmus:sessions:(?P<tenant>[^{}:]+)(:(library|file|bookmark))?")
_USAGE: Final = re.compile(r"isthmus:usage:(?P<tenant>[^{}:]+)")
_API_KEYS: Final = re.compile(r"isthmus:\{keys\}:records")
_LIMITS: Final = re.compile(r"isthmus:\{limits(:[^{}]+)?\}:(overrides|version|used:.+|turns:.+|ticket:.+)")
_POOLS: Final = re.compile(r"isthmus:\{pools\}:drained")
# The book of jobs and the endpoints of webhooks: what is in them is bounded, and goes by itself or with its session.
_TENANT_JOBS: Final = re.compile(
    r"isthmus:\{(jobs|webhooks):[^{}:]+\}:(records|requests|live|ended|dead|sums|names|endpoints|test:.+)"
)
# What is kept of a library's files beside its log; it goes with the library.
_LIBRARY_FILES: Final = re.compile(
    r"isthmus:\{library:(?P<tenant>[^{}/]+)/(?P<library>[^{}/]+)\}:"
    r"(records|all|in_progress|completed|failed|cancelled|sums|batches|batch_order)"
)
_CACHES: Final = re.compile(r"isthmus:cache:\{[^{}]+\}:\w+(:[\w-]+)?")
# Verdicts and rates by day; each has a TTL.
_AUDITS: Final = re.compile(r"isthmus:audit:\{[^{}]+\}:[0-9-]{10}:(verdicts|order|rates)")
_MEMBERS: Final = re.compile(r"isthmus:\{members\}:\w+")
_OBJECT: Final = re.compile(r"sessions/(?P<member>[^/]+/[^/]+)/[^/]+")
# The keys of docket, below the name of its queue; a bare job's key is a job that waits for its time.
_JOBS: Final = re.compile(
    r"\{?(?P<queue>[^{}:]+)\}?:([0-9a-f]{32}|stream|queue|workers|strikes|perpetual:lock|leases:[\w-]+"
    r"|(known|stream-id|runs|state|progress|results|cancel|worker-tasks|task-workers)(:.+)?)"
)
# What each concept's key is made of, one for one with `Keys`.
_CONCEPTS: Final = frozenset(
    (
        "meta",
        "log",
        "turns",
        "requests",
        "output",
        "void",
        "counts",
        "summaries",
        "summary_bodies",
        "documents",
        "vectors",
        "objects",
        "forks",
    )
)


@dataclass(frozen=True, slots=True)
class Census:
    """All that is there: names of keys, and what is in those that say what others are for."""

    keys: frozenset[str] = frozenset()
    # `<tenant>/<session>` of sessions that have a meta, and of those that anybody sees.
    made: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()
    cold: dict[str, str] = field(default_factory=dict)
    # Those with an open turn.
    open: frozenset[str] = frozenset()
    # Members of the indexes over all tenants, of tenants' indexes (as `<tenant>/<session>`) and of usage.
    touched: frozenset[str] = frozenset()
    due: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    # Names in sessions' sets of objects, and names in the bucket.
    owned: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    # Names of job queues, of which docket makes its keys.
    queues: frozenset[str] = frozenset({"isthmus", "isthmus-turns", "isthmus-webhooks", "isthmus-libraries"})


Rule: TypeAlias = Callable[[str, Census], str | None]


def _of_session(key: str, all_: Census) -> str | None:
    match = _SESSION_KEY.fullmatch(key)
    if not match or match["concept"] not in _CONCEPTS or match["member"] not in all_.made:
        return None
    # One that nobody sees is being made or erased: the janitor must know of it.
    if match["member"] not in all_.seen | all_.due:
        return None
    if match["concept"] == "output" and match["member"] not in all_.open:
        return None
    # What is cold has left Valkey but for what lists and deletions need.
    if match["member"] in all_.cold and match["concept"] not in ("meta", "objects", "forks"):
        return None
    return f"session {match['member']}"


def _index(key: str, _: Census) -> str | None:
    return "index over all sessions" if _INDEX.fullmatch(key) else None


def _tenant(key: str, _: Census) -> str | None:
    is_own = _TENANT_INDEX.fullmatch(key) or _USAGE.fullmatch(key) or _TENANT_JOBS.fullmatch(key)
    return "tenant's index" if is_own else None


def _members(key: str, _: Census) -> str | None:
    return "membership" if _MEMBERS.fullmatch(key) else None


def _api_keys(key: str, _: Census) -> str | None:
    return "API keys" if _API_KEYS.fullmatch(key) else None


def _limits(key: str, _: Census) -> str | None:
    return "limits" if _LIMITS.fullmatch(key) else None


def _drained_pools(key: str, _: Census) -> str | None:
    return "pools drained by hand" if _POOLS.fullmatch(key) else None


def _caches(key: str, _: Census) -> str | None:
    return "cached answers" if _CACHES.fullmatch(key) else None


def _audits(key: str, _: Census) -> str | None:
    return "audits" if _AUDITS.fullmatch(key) else None


def _library_files(key: str, all_: Census) -> str | None:
    match = _LIBRARY_FILES.fullmatch(key)
    is_there = match is not None and f"{match['tenant']}/library.{match['library']}" in all_.seen
    return "files of a library" if is_there else None


def _jobs(key: str, all_: Census) -> str | None:
    match = _JOBS.fullmatch(key)
    return "docket" if match and match["queue"] in all_.queues else None


RULES: Final[tuple[Rule, ...]] = (
    _of_session,
    _index,
    _tenant,
    _members,
    _api_keys,
    _limits,
    _drained_pools,
    _caches,
    _audits,
    _library_files,
    _jobs,
)


def leaks(all_: Census, foreign: Iterable[str] = ()) -> list[str]:
    """What is there and belongs to nothing, in words. `foreign` are patterns of keys that a test put on purpose."""
    patterns = tuple(foreign)
    unexplained = [
        f"key {key}"
        for key in sorted(all_.keys)
        if not any(rule(key, all_) for rule in RULES) and not any(fnmatchcase(key, one) for one in patterns)
    ]
    due_objects = {name for name in all_.due if name.startswith("sessions/") and name.count("/") > 1}
    stale = [
        *(f"touched {member}" for member in all_.touched - all_.made),
        *(f"due {member}" for member in all_.due - due_objects - all_.made),
        *(f"usage of {member}" for member in all_.used - all_.made),
        *(f"object {name} of nobody" for name in all_.objects - all_.owned - set(all_.cold.values()) - due_objects),
        *(f"cold {member} without its object" for member, name in all_.cold.items() if name not in all_.objects),
        # A session that is seen is in its tenant's list, and the janitor finds it when it is idle.
        *(f"{member} is in no list" for member in all_.seen - all_.listed),
        *(f"{member} is warm and not in the index by last use" for member in all_.seen - set(all_.cold) - all_.touched),
    ]
    return unexplained + sorted(stale)


def leaks_of(url: str, folder: Path | None, foreign: Iterable[str] = ()) -> list[str]:
    """The leaks in a Valkey, one node or a cluster, and a folder of objects; none in a Valkey that does not run."""
    try:
        with _client(url) as client:
            return leaks(census(client, folder), foreign)
    except (redis.ConnectionError, redis.exceptions.RedisClusterException):
        return []


def _client(url: str) -> Any:
    scheme, _, hosts = url.partition("://")
    if "+cluster" not in scheme:
        return redis.Redis.from_url(url)
    return redis.RedisCluster.from_url(
        f"{scheme.removesuffix('+cluster')}://{hosts.partition(',')[0].partition('?')[0]}"
    )


def census(
    client: Any,
    folder: Path | None = None,
    queues: Iterable[str] = ("isthmus", "isthmus-turns", "isthmus-webhooks", "isthmus-libraries"),
) -> Census:
    """Reads all of one Valkey, and the names of the files below the folder of objects."""
    keys = frozenset(key.decode() for key in client.scan_iter(count=1_000))
    made, seen, open_, cold, owned = set[str](), set[str](), set[str](), dict[str, str](), set[str]()
    for key in keys:
        match = _SESSION_KEY.fullmatch(key)
        if match and match["concept"] == "meta":
            made.add(match["member"])
            version, name, turn = cast("Any", client.hmget(key, ["version", "cold", "open_turn"]))
            if version:
                seen.add(match["member"])
            if turn and turn != b"0":
                open_.add(match["member"])
            if name:
                cold[match["member"]] = name.decode()
        elif match and match["concept"] == "objects":
            owned |= {name.decode() for name in cast("Any", client.smembers(key))}
    return Census(
        keys=keys,
        made=frozenset(made),
        seen=frozenset(seen),
        cold=cold,
        open=frozenset(open_),
        touched=_sorted(client, keys, "isthmus:touched:{*}"),
        due=_sorted(client, keys, "isthmus:due:{*}"),
        listed=_by_tenant(client, keys, _TENANT_INDEX, "zset"),
        used=_by_tenant(client, keys, _USAGE, "hash"),
        owned=frozenset(owned),
        objects=_files(folder),
        queues=frozenset(queues),
    )


def _sorted(client: Any, keys: Iterable[str], pattern: str) -> frozenset[str]:
    found: set[str] = set()
    for key in keys:
        if fnmatchcase(key, pattern):
            found |= {member.decode() for member in cast("Any", client.zrange(key, 0, -1))}
    return frozenset(found)


def _by_tenant(client: Any, keys: Iterable[str], name: re.Pattern[str], kind: str) -> frozenset[str]:
    found: set[str] = set()
    for key in keys:
        match = name.fullmatch(key)
        if match:
            ids = client.zrange(key, 0, -1) if kind == "zset" else client.hkeys(key)
            # A hash of usage has the sums under names with a colon.
            found |= {f"{match['tenant']}/{each.decode()}" for each in cast("Any", ids) if b":" not in each}
    return frozenset(found)


def _files(folder: Path | None) -> frozenset[str]:
    if folder is None or not folder.exists():
        return frozenset()
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
