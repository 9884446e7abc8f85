"""Counts of things that seldom happen: rows that cannot be read, breakers that open, rows rejected.

What happens on every call has cheaper means; a lock is right for what is rare. Every set of labels is one count, and
their number is bounded: what comes beyond it is counted under `other`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

_SERIES_MAX = 1000
_OTHER = "other"

Series = tuple[str, tuple[tuple[str, str], ...]]


class Counters:
    """Named counts that only rise. Safe to use from several threads."""

    def __init__(self, series_max: int = _SERIES_MAX) -> None:
        self._series_max = series_max
        self._counts: dict[Series, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Counts `amount` more. Labels come from closed sets (a view, a store, a kind of fault), never from callers."""
        series: Series = (name, tuple(sorted(labels.items())))
        with self._lock:
            if series not in self._counts and len(self._counts) >= self._series_max:
                series = (name, tuple((label, _OTHER) for label in sorted(labels)))
            self._counts[series] = self._counts.get(series, 0) + amount

    def get(self, name: str, **labels: str) -> int:
        """One count; 0 for what never happened."""
        return self._counts.get((name, tuple(sorted(labels.items()))), 0)

    def snapshot(self) -> Mapping[Series, int]:
        """All counts at this moment."""
        with self._lock:
            return dict(self._counts)
