"""Where sessions were served last, and what it cost that a turn went elsewhere. Pure."""

from __future__ import annotations

from collections import OrderedDict

from isthmus.context.v1 import window_pb2
from isthmus.inference.v1 import inference_service_pb2
from isthmus.session.v1 import turn_pb2

from services.placement import Choice


class Placements:
    """The replica that has served each session last, of the `count_max` sessions seen last."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._served: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served)

    def served(self, tenant: str, session: str, member_id: str) -> None:
        """A replica has the session's window now."""
        self._served[tenant, session] = member_id
        self._served.move_to_end((tenant, session))
        while len(self._served) > self._count_max:
            self._served.popitem(last=False)

    def warm(self, tenant: str, session: str) -> str:
        """The member id of the replica that had the window last; empty where that is not known."""
        return self._served.get((tenant, session), "")


def placement(
    choice: Choice,
    manifest: window_pb2.Manifest,
    started: inference_service_pb2.GenerateResponse.Started,
    overhead_tokens: int,
) -> turn_pb2.Placement:
    """The receipt's word on a choice, from what the replica had to read.

    What it pulled beyond the manifest's new items another replica may have held. New items that did not fit into the
    manifest are counted with the missed ones, as only the replica knows their tokens.
    """
    own_items = manifest.end.item_count - manifest.prefix.item_count
    missed = 0
    if started.pulled_items > own_items:
        own_tokens = sum(item.tokens for item in manifest.new_items)
        missed = max(0, started.new_tokens - overhead_tokens - own_tokens)
    return turn_pb2.Placement(
        reason=choice.reason,
        owner=choice.owner,
        missed_tokens=missed,
        missed_ms=round(started.pull_ms + started.tokenize_ms, 3),
    )
