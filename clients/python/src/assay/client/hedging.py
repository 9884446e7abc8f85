"""A second attempt on another host when the first is slow; whoever answers first is taken.

Safe where both hosts give one answer to one request id: `idempotency.share` of the servers (docs/idempotency.md).
"""

from __future__ import annotations

from dataclasses import dataclass

# Answers that a percentile is of, and after how many it is found anew.
_KEPT, _EVERY = 256, 32


@dataclass(frozen=True)
class Hedge:
    """When the second attempt starts.

    after_s: after so long. percentile: instead, after the time in which this share (0.5 to 0.999) of the last answers
    came, least_s at least; after_s then stands in until 32 have been seen. A hedge is paid for from the budget, so a
    fleet that is slow as a whole is not asked twice.
    """

    after_s: float = 0.05
    percentile: float | None = None
    least_s: float = 0.005

    def __post_init__(self) -> None:
        if not self.after_s > 0 or not self.least_s >= 0:
            raise ValueError("Hedge.after_s must be more than 0, least_s 0 or more")
        if self.percentile is not None and not 0.5 <= self.percentile <= 0.999:
            raise ValueError("Hedge.percentile must be from 0.5 to 0.999")


class Delay:
    """How long to wait before a hedge, by a `Hedge` and the answers seen. Threads may share it: each write is one
    step, and a lost one is a sample less."""

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._took_s: list[float] = []
        self._seen = 0
        self.after_s = hedge.after_s

    def answered(self, took_s: float) -> None:
        """An answer came after that long."""
        percentile = self._hedge.percentile
        if percentile is None:
            return
        self._seen += 1
        if len(self._took_s) < _KEPT:
            self._took_s.append(took_s)
        else:
            self._took_s[self._seen % _KEPT] = took_s
        if self._seen % _EVERY == 0:
            ordered = sorted(self._took_s)
            self.after_s = max(self._hedge.least_s, ordered[int(percentile * (len(ordered) - 1))])
