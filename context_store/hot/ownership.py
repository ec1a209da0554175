"""Whether a shard serves a session itself, or says which shard the ring gives it to."""

from __future__ import annotations

from isthmus.errors.v1 import errors_pb2

from context_store.log.keys import Keys
from services.errors import IsthmusError
from services.membership import Member
from services.router import Circles


def moved_to(member_id: str, owner: Member | None, *, is_redirected: bool, is_open: bool) -> Member | None:
    """The shard to send a caller to; None where the shard `member_id` serves the session. Pure.

    Without an owner there is nobody better. A caller that was sent here already is served, for the fence keeps two
    shards from harm and nothing else would keep it from going to and fro. So is one whose session has a turn open
    here: the copy is at hand, and the turn is finished where it was begun.
    """
    if owner is None or owner.id == member_id or is_redirected or is_open:
        return None
    return owner


class Ownership:
    """The ring as one shard sees it."""

    def __init__(self, circles: Circles, member_id: str) -> None:
        self._circles = circles
        self._member_id = member_id

    def is_elsewhere(self, keys: Keys) -> bool:
        """Whether another shard owns the session."""
        owner = self._circles.owner(keys.tenant, keys.session)
        return owner is not None and owner.id != self._member_id

    def check(self, keys: Keys, *, is_redirected: bool, is_open: bool) -> None:
        """Raises SESSION_MOVED, naming the owner and where it listens, unless this shard is to serve the session."""
        owner = self._circles.owner(keys.tenant, keys.session)
        owner = moved_to(self._member_id, owner, is_redirected=is_redirected, is_open=is_open)
        if owner is not None:
            raise IsthmusError(
                errors_pb2.ERROR_REASON_SESSION_MOVED,
                f"sessions/{keys.session} is served by {owner.id}; expected this call there, at {owner.endpoint}",
                metadata={"owner": owner.id, "endpoint": owner.endpoint},
            )
