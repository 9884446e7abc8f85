"""A shadow's decisions against the answers: running counts, plain enough to be added up across worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from engine.domain.enums import Component, Verdict
from engine.domain.reason import Reasons
from engine.domain.score import ModelScore
from engine.pipeline import Conclusion

DIFFERING_MAX = 20


class Pair(NamedTuple):
    """What is compared: a flow's shadow, its bundle, and the bundle that answered."""

    flow: str
    shadow: str
    shadow_bundle: str
    bundle: str


@dataclass(slots=True)
class Shift:
    """Differences of one number: how many, their sum, that of their absolutes, and the greatest absolute."""

    count: int = 0
    total: float = 0.0
    absolute: float = 0.0
    most: float = 0.0

    def add(self, difference: float) -> None:
        """Counts one."""
        self.count += 1
        self.total += difference
        self.absolute += abs(difference)
        self.most = max(self.most, abs(difference))

    def merge(self, other: Shift) -> None:
        """Counts those of another process, too."""
        self.count += other.count
        self.total += other.total
        self.absolute += other.absolute
        self.most = max(self.most, other.most)


@dataclass(slots=True)
class Tally:
    """Counts of one pair. verdicts: by "ANSWERED/SHADOW"; shifts: by component and "probability" or "points";
    differing: ids of the latest decisions with another verdict; since_us: of the first decision."""

    decided: int = 0
    refused: int = 0
    failed: int = 0
    unrecorded: int = 0
    by_name: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    reasons_differ: int = 0
    offers_differ: int = 0
    shifts: dict[str, Shift] = field(default_factory=dict)
    differing: deque[str] = field(default_factory=lambda: deque(maxlen=DIFFERING_MAX))
    since_us: int = 0

    def add(self, answered: Conclusion, shadow: Conclusion, decision_id: str) -> None:
        """Compares one pair of decisions."""
        self.decided += 1
        before, after = answered.outcome, shadow.outcome
        pair = f"{before.verdict.name}/{after.verdict.name}"
        self.verdicts[pair] = self.verdicts.get(pair, 0) + 1
        if before.verdict is not after.verdict:
            self.differing.append(decision_id)
        elif before.offer is not None and after.offer is not None:
            self.offers_differ += before.offer != after.offer
        self.reasons_differ += _codes(answered.reasons) != _codes(shadow.reasons)
        theirs = _scores(shadow)
        for component, score in _scores(answered).items():
            other = theirs.get(component)
            if other is None:
                continue
            if score.probability is not None and other.probability is not None:
                self._shift(component, "probability").add(other.probability - score.probability)
            if score.points is not None and other.points is not None:
                self._shift(component, "points").add(float(other.points - score.points))

    def _shift(self, component: Component, number: str) -> Shift:
        return self.shifts.setdefault(f"{component.name}/{number}", Shift())

    def merge(self, other: Tally) -> None:
        """Adds the counts of another process."""
        for name in ("decided", "refused", "failed", "unrecorded", "by_name", "reasons_differ", "offers_differ"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for pair, count in other.verdicts.items():
            self.verdicts[pair] = self.verdicts.get(pair, 0) + count
        for number, shift in other.shifts.items():
            self.shifts.setdefault(number, Shift()).merge(shift)
        self.differing.extend(other.differing)
        moments = [us for us in (self.since_us, other.since_us) if us]
        self.since_us = min(moments, default=0)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "differing": list(self.differing)}


def tally_of(plain: Mapping[str, Any]) -> Tally:
    """The same read back. Raises TypeError for other data."""
    shifts = {number: Shift(**shift) for number, shift in plain["shifts"].items()}
    return Tally(**{**plain, "shifts": shifts, "differing": deque(plain["differing"], maxlen=DIFFERING_MAX)})


def merged(parts: Iterable[Iterable[tuple[Pair, Tally]]]) -> dict[Pair, Tally]:
    """The counts of several processes together, by pair."""
    found: dict[Pair, Tally] = {}
    for part in parts:
        for pair, tally in part:
            found.setdefault(pair, Tally()).merge(tally)
    return dict(sorted(found.items()))


def verdict_pair(text: str) -> tuple[Verdict, Verdict]:
    """What was answered, and what the shadow decided."""
    answered, _, shadow = text.partition("/")
    return Verdict[answered], Verdict[shadow]


def _codes(reasons: Reasons) -> set[str]:
    return {reason.code for reason in (*reasons.credit, *reasons.fraud, *reasons.policy)}


def _scores(conclusion: Conclusion) -> dict[Component, ModelScore]:
    """The first score of each component."""
    found: dict[Component, ModelScore] = {}
    for plan, score in zip(conclusion.prepared.flow.models, conclusion.scores, strict=True):
        found.setdefault(plan.component, score)
    return found
