"""Which keys were found to have no row, for a short while and in bounded number."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable


class MissingKeys:
    """Keys without a row. Asking takes no lock.

    ttl_s: how long a key is remembered; 0 remembers none. keys_max: beyond it those that are next to be forgotten go.
    """

    def __init__(self, ttl_s: float, keys_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s, self._keys_max, self._clock = ttl_s, keys_max, clock
        # All keys are remembered equally long, so the order in which they came is the order in which they go.
        self._until_s: dict[bytes, float] = {}
        self.begin()

    def begin(self) -> None:
        """Start with a lock that nobody holds: at first, and in a forked child."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._until_s)

    def __contains__(self, key: bytes) -> bool:
        until_s = self._until_s.get(key)
        return until_s is not None and self._clock() < until_s

    def remember(self, keys: Iterable[bytes]) -> None:
        """Notes that these have no row, from now on."""
        if self._ttl_s <= 0:
            return
        now_s, held = self._clock(), self._until_s
        with self._lock:
            for key in keys:
                held.pop(key, None)
                held[key] = now_s + self._ttl_s
            while held and (len(held) > self._keys_max or held[next(iter(held))] <= now_s):
                del held[next(iter(held))]

    def forget(self, keys: Iterable[bytes]) -> None:
        """These may have a row now."""
        if self._until_s:
            with self._lock:
                for key in keys:
                    self._until_s.pop(key, None)

    def forget_prefix(self, prefix: bytes) -> None:
        """All keys that begin so may have a row now, or are not to be held any longer."""
        with self._lock:
            keys = list(self._until_s)
        # Readers are not to wait for this.
        self.forget([key for key in keys if key.startswith(prefix)])
