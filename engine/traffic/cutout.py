"""The safety cut-out: when the rates of a flow's verdicts leave their bounds, it alerts, and says when to fall back.

    OK --a rate is outside--> ALERT --still outside after a while--> TRIPPED
    ALERT, TRIPPED --all rates inside again by a margin--> OK

A decision costs one addition. Rates are judged by one thread, from time to time. Every worker process judges what it
decided itself: callers are spread over workers evenly, so each sees the same rates, later than all would together.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.domain.enums import Verdict
from engine.telemetry.counters import Counters
from engine.traffic.model import Bound, CutOutRule

_log = logging.getLogger("assay.traffic")
_PARTS = 60
_VERDICTS = len(Verdict) + 1


class Level(IntEnum):
    """Where a cut-out stands; numbers are those of the proto."""

    OK = 1
    ALERT = 2
    TRIPPED = 3


class RateWindow:
    """Counts verdicts over a sliding stretch of time, in 60 parts: the oldest is let go as a whole, so that the window
    is at most one sixtieth short. Threads may add at once.

    Bounded: 60 parts of 5 numbers. Constant: an addition, and at most 60 parts to clear after a silence."""

    __slots__ = ("_last", "_lock", "_part_s", "_parts", "_totals")

    def __init__(self, window_s: float) -> None:
        self._part_s = window_s / _PARTS
        self._parts = [[0] * _VERDICTS for _ in range(_PARTS)]
        self._totals = [0] * _VERDICTS
        self._last = -1
        self._lock = threading.Lock()

    def add(self, verdict: int, now_s: float) -> None:
        """Counts one decision. now_s: on a monotonic clock."""
        with self._lock:
            self._advance(now_s)
            self._parts[self._last % _PARTS][verdict] += 1
            self._totals[verdict] += 1

    def counts(self, now_s: float) -> Mapping[Verdict, int]:
        """Decisions in the window by verdict."""
        with self._lock:
            self._advance(now_s)
            return {verdict: self._totals[verdict] for verdict in Verdict}

    def _advance(self, now_s: float) -> None:
        part = int(now_s / self._part_s)
        if part <= self._last:
            return  # also for a thread that was overtaken
        for number in range(max(self._last + 1, part - _PARTS + 1), part + 1):
            old = self._parts[number % _PARTS]
            for verdict, count in enumerate(old):
                if count:
                    self._totals[verdict] -= count
                    old[verdict] = 0
        self._last = part


@dataclass(frozen=True, slots=True)
class Trip:
    """A cut-out that tripped and is to fall back. generation: of what was served while it watched."""

    flow: str
    facts: str
    generation: int


class CutOut:
    """Watches one flow. Judged by one thread."""

    def __init__(self, rule: CutOutRule) -> None:
        self.rule = rule
        self.window = RateWindow(rule.window_s)
        self.level = Level.OK
        self.facts = ""
        self._outside_since_s: float | None = None

    def judge(self, now_s: float) -> Level:
        """Where it stands now."""
        counts = self.window.counts(now_s)
        decisions = sum(counts.values())
        # Too few to say: it stays where it is, and what was outside must be outside again for as long.
        if decisions < self.rule.decisions_min:
            self._outside_since_s = None
            return self.level
        outside = self._outside(counts, decisions, 0.0)
        if outside:
            if self._outside_since_s is None:
                self._outside_since_s = now_s
            self.facts = "; ".join(outside)
            if now_s - self._outside_since_s >= self.rule.trip_after_s:
                self.level = Level.TRIPPED
            elif self.level is Level.OK:
                self.level = Level.ALERT
            return self.level
        self._outside_since_s = None
        if self.level is not Level.OK and not self._outside(counts, decisions, self.rule.margin):
            self.level, self.facts = Level.OK, ""
        return self.level

    def _outside(self, counts: Mapping[Verdict, int], decisions: int, margin: float) -> list[str]:
        """What is outside its bounds, or not inside them by a margin."""
        found = []
        for bound in self.rule.bounds:
            rate = counts[bound.verdict] / decisions
            least, most = _narrowed(bound, margin)
            if not least <= rate <= most:
                limits = f"{'' if bound.least is None else bound.least} to {'' if bound.most is None else bound.most}"
                found.append(
                    f"{bound.verdict.name} is {rate:.4f} of {decisions} decisions in {self.rule.window_s:g} s; "
                    f"bounds: {limits.strip()}"
                )
        return found

    def state(self, flow: str, now_s: float) -> dict[str, Any]:
        """What it sees, as plain data."""
        counts = self.window.counts(now_s)
        decisions = sum(counts.values())
        rates = {v.name: round(count / decisions, 6) for v, count in counts.items()} if decisions else {}
        return {"flow": flow, "level": int(self.level), "decisions": decisions, "rates": rates, "facts": self.facts}


def _narrowed(bound: Bound, margin: float) -> tuple[float, float]:
    """The bounds, narrower by a margin: never so much that nothing is inside, and not at 0 and 1, beyond which no rate
    can go."""
    least = 0.0 if bound.least is None else bound.least
    most = 1.0 if bound.most is None else bound.most
    margin = min(margin, (most - least) / 4)
    return (least + margin if least > 0.0 else 0.0), (most - margin if most < 1.0 else 1.0)


class CutOuts:
    """The cut-outs of what is served now. A change starts those of its flows anew."""

    def __init__(self, clock_s: Callable[[], float], counters: Counters | None = None) -> None:
        """clock_s: a monotonic clock in seconds."""
        self._clock_s, self._counters = clock_s, counters or Counters()
        self._generation = 0
        self._by_flow: dict[str, CutOut] = {}
        self._adders: dict[str, Callable[[int, float], None]] = {}

    def use(self, rules: Mapping[str, CutOutRule], generation: int) -> None:
        """Watches by these rules from now on: windows begin empty, for what they held was decided otherwise."""
        by_flow = {flow: CutOut(rule) for flow, rule in rules.items()}
        self._adders = {flow: one.window.add for flow, one in by_flow.items()}
        self._by_flow, self._generation = by_flow, generation

    def note(self, flow: str, verdict: int) -> None:
        """Counts a decision that was made, not one that was given again."""
        add = self._adders.get(flow)
        if add is not None:
            add(verdict, self._clock_s())

    def judge(self) -> Sequence[Trip]:
        """Judges all, and tells what has changed. Gives those that tripped and are to fall back, for as long as they
        are tripped."""
        now_s, trips = self._clock_s(), []
        for flow, one in self._by_flow.items():
            before, level = one.level, one.judge(now_s)
            if level is not before:
                self._tell(flow, level, one)
            if level is Level.TRIPPED and one.rule.fall_back:
                trips.append(Trip(flow, one.facts, self._generation))
        return trips

    def states(self) -> list[dict[str, Any]]:
        """What each sees, as plain data."""
        now_s = self._clock_s()
        return [one.state(flow, now_s) for flow, one in self._by_flow.items()]

    def _tell(self, flow: str, level: Level, one: CutOut) -> None:
        self._counters.add("cut_out_changes", flow=flow, level=level.name)
        facts = {"flow": flow, "cut_out": level.name, "facts": one.facts, "generation": self._generation}
        if level is Level.OK:
            _log.info("rates of verdicts are inside their bounds again", extra=facts)
        elif level is Level.ALERT:
            _log.warning("rates of verdicts left their bounds", extra=facts)
        else:
            _log.warning("rates of verdicts stayed outside their bounds", extra=facts)
