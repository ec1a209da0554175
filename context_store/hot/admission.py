"""Which sessions stay in memory: least recently used out first, in two parts, so that a scan flushes nothing. Pure.

Segmented LRU: Karedla, Love and Wherry, "Caching strategies to improve disk system performance", IEEE Computer, 1994.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import chain
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Admission(Generic[K]):
    """Sizes by key. Newcomers are out first; one that is used again is protected, in what newcomers leave of the bytes.

    What the protected part has no room for joins the newcomers again, the least recently used of it first.
    """

    def __init__(self, bytes_max: int, newcomer_share: float) -> None:
        self._bytes_max = bytes_max
        self._protected_max = int(bytes_max * (1 - newcomer_share))
        self._newcomers: OrderedDict[K, int] = OrderedDict()
        self._protected: OrderedDict[K, int] = OrderedDict()
        self.bytes = 0
        self.protected_bytes = 0

    def keep(self, key: K, size: int, *, again: bool) -> None:
        """Takes in that a key was used just now and how many bytes it has by now; `again` says that it was before."""
        is_protected = key in self._protected or (again and key in self._newcomers)
        self.forget(key)
        self.bytes += size
        if is_protected:
            self._protected[key] = size
            self.protected_bytes += size
        else:
            self._newcomers[key] = size
        while self.protected_bytes > self._protected_max:
            demoted, its = self._protected.popitem(last=False)
            self.protected_bytes -= its
            self._newcomers[demoted] = its

    def forget(self, key: K) -> None:
        """Takes in that a key is gone; nothing for one that is not there."""
        size = self._protected.pop(key, None)
        if size is not None:
            self.protected_bytes -= size
        else:
            size = self._newcomers.pop(key, 0)
        self.bytes -= size

    def excess(self, is_idle: Callable[[K], bool]) -> K | None:
        """The idle key to let go of next; None while all fit, or while none is idle."""
        if self.bytes <= self._bytes_max:
            return None
        return next(filter(is_idle, chain(self._newcomers, self._protected)), None)
