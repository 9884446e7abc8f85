"""What a replay has found so far, in a form that adds up: however the records are cut into chunks, the sum is the same.

All is counted in whole numbers. Money is in minor units; what is no whole number is kept as multiples of a fixed step,
so that the order of addition cannot change the last digit, and a run on one core, on many or on a cluster gives the
same answer.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.replay.cause import Cause

Key = tuple[str, ...]
# How many examples of a kind are kept: those whose decision ids sort first, which are the oldest.
EXAMPLES_MAX = 25
# Steps of what is no whole number.
PROBABILITY_STEPS = 10**12
PERCENT_STEPS = 10**9
LOSS_STEPS = 10**6


class Difference(NamedTuple):
    """The first difference between a decision and the same decided again."""

    decision_id: str
    flow: str
    stage: str
    path: str
    recorded: str
    replayed: str
    cause: str
    detail: str


class Swap(NamedTuple):
    """A decision that another bundle would make otherwise. Amounts are whole units of the currency; probabilities are
    those of the credit model; empty texts where there is none."""

    decision_id: str
    flow: str
    before: str
    after: str
    asked: str
    offer_before: str
    offer_after: str
    pd_before: str
    pd_after: str
    why: str


@dataclass(slots=True)
class Tally:
    """counts: by key, added up; examples: of a kind, sorted; since_us and until_us: the first and the last moment of a
    decision, microseconds since 1970 UTC."""

    counts: Counter[Key] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    since_us: int | None = None
    until_us: int | None = None

    def count(self, *key: str, by: int = 1) -> None:
        """Adds to a count."""
        self.counts[key] += by

    def of(self, *key: str) -> int:
        """A count."""
        return self.counts.get(key, 0)

    def under(self, *prefix: str) -> dict[str, int]:
        """The counts of all keys that are the prefix and one more part, by that part, sorted."""
        size = len(prefix)
        found = {key[-1]: n for key, n in self.counts.items() if len(key) == size + 1 and key[:size] == prefix}
        return dict(sorted(found.items()))

    def saw(self, decided_us: int) -> None:
        """Notes the moment of a decision."""
        self.since_us = decided_us if self.since_us is None else min(self.since_us, decided_us)
        self.until_us = decided_us if self.until_us is None else max(self.until_us, decided_us)

    def keep(self, kind: str, example: tuple[str, ...]) -> None:
        """Keeps an example, if it is among the first."""
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES_MAX or example < kept[-1]:
            kept.append(example)
            kept.sort()
            del kept[EXAMPLES_MAX:]

    def differ(self, difference: Difference) -> None:
        """Notes a difference."""
        self.count("different")
        self.count("cause", difference.cause)
        self.count("stage", difference.stage)
        self.count("first", difference.stage, difference.path, difference.cause)
        self.keep("different", difference)

    def add(self, other: Tally) -> None:
        """Adds what another chunk has found."""
        self.counts.update(other.counts)
        for kind, found in other.examples.items():
            self.examples[kind] = list(heapq.merge(self.examples.get(kind, []), found))[:EXAMPLES_MAX]
        for moment in (other.since_us, other.until_us):
            if moment is not None:
                self.saw(moment)

    @property
    def records(self) -> int:
        """How many records were met."""
        return self.of("records")

    @property
    def is_identical(self) -> bool:
        """Whether every record that could be decided again came out the same, bit for bit."""
        return self.of("different") == 0

    def causes(self) -> dict[str, int]:
        """Differences by cause, in the order of the causes."""
        found = self.under("cause")
        return {str(cause): found[cause] for cause in Cause if cause in found}


def added(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
