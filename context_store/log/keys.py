"""The names of everything that a session has in Valkey. All of a session's keys share one hash slot. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

PREFIX = "isthmus:"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one session of one tenant."""

    tenant: str
    session: str

    def _key(self, concept: str) -> str:
        return f"{PREFIX}{{{self.tenant}/{self.session}}}:{concept}"

    @property
    def meta(self) -> str:
        """Hash: the session's own fields, counters, the open turn, the window's base."""
        return self._key("meta")

    @property
    def log(self) -> str:
        """Stream: entry `<sequence>-0` has `f` (Fragment header), `b` (zstd body), `n` (UTF-8 bytes)."""
        return self._key("log")

    @property
    def turns(self) -> str:
        """Hash: number to Turn proto without the text."""
        return self._key("turns")

    @property
    def requests(self) -> str:
        """Hash: request_id to body digest, a letter for what became of it, and the turn or the range appended."""
        return self._key("requests")

    @property
    def output(self) -> str:
        """Stream: what the open turn has said so far: entry `<number of the piece>-0` has `p` (OutputPiece proto)."""
        return self._key("output")

    @property
    def void(self) -> str:
        """Set: `t<turn>` for turns that came to nothing, `f<sequence>:<size>` for erased fragments."""
        return self._key("void")

    @property
    def counts(self) -> str:
        """Hash: sequence to tokenizer digest (16 bytes) and exact count."""
        return self._key("counts")

    @property
    def summaries(self) -> str:
        """Hash: name to what the planner keeps of a summary."""
        return self._key("summaries")

    @property
    def summary_bodies(self) -> str:
        """Hash: name to the zstd Summary."""
        return self._key("summary_bodies")

    @property
    def documents(self) -> str:
        """Hash: id to Document proto; `<id>:place` to the bytes committed, the last batch's mark, first and last one.

        `<id>:own` has what its owner changed since (Document proto), `<id>:vectors` how far it has vectors, and
        `<id>:gone` is `deleting`, or `deleted` for one that an ancestor of a fork has.
        """
        return self._key("documents")

    @property
    def vectors(self) -> str:
        """Hash: `<document>:<first passage>` to vectors of its passages from there on, float16."""
        return self._key("vectors")

    @property
    def objects(self) -> str:
        """Set: names of the objects that the session may own: in it before one is written, until it is gone."""
        return self._key("objects")

    @property
    def forks(self) -> str:
        """Hash: `<session>:<incarnation in hex>` of each session that shares this one's past, to its last sequence."""
        return self._key("forks")

    def all(self) -> list[str]:
        """Every key, meta first."""
        rest = [self.log, self.turns, self.requests, self.output, self.void, self.counts]
        # A script knows the objects by their place, the second to last.
        last = [self.objects, self.forks]
        return [self.meta, *rest, self.summaries, self.summary_bodies, self.documents, self.vectors, *last]

    def leaving(self) -> dict[str, str]:
        """What leaves Valkey when the session becomes an object: key by its concept."""
        summaries = ("summaries", "summary_bodies")
        concepts = ("log", "turns", "requests", "void", "counts", *summaries, "documents", "vectors")
        return {concept: self._key(concept) for concept in concepts}

    @property
    def member(self) -> str:
        """The session's name in the indexes over all tenants."""
        return f"{self.tenant}/{self.session}"


def index(concept: str, keys: Keys, buckets: int) -> str:
    """The bucket of an index over all sessions that a session belongs to; see `bucket_index`."""
    return bucket_index(concept, crc32(keys.member.encode()) % buckets)


def bucket_index(concept: str, bucket: int) -> str:
    """A sorted set, one slot a bucket. `touched`: `<tenant>/<session>` of those that are not objects, by last use, ms.

    `due`: by when the janitor looks at them, ms: sessions that expire or that nobody sees, and names of objects that
    may be nobody's.
    """
    return f"{PREFIX}{concept}:{{{bucket:02x}}}"


def tenant_index(tenant: str, collection: str = "") -> str:
    """Sorted set of the session ids that a tenant has in a collection, all with score 0: read in lexical order."""
    return f"{PREFIX}sessions:{tenant}" + (f":{collection}" if collection else "")


def usage(tenant: str) -> str:
    """Hash: session id to `<bytes>:<tokens>` of its own log, and `:bytes` and `:tokens`, the sums."""
    return f"{PREFIX}usage:{tenant}"
