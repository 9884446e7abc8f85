"""What one run measures: calls by RPC, in all and over time. Made in every sending process, and put together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from loadtest.answers import Found
from loadtest.histograms import Buckets, Latencies

ALL = "all"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that ended.

    began_s: seconds since 1970 when it was sent, or was to be sent; took_us: from then to its end; service_us: from
    when it was really sent, None where that is the same; units: what it asked for (applications of a batch, else 1);
    answers_us: for streams, from the sending of each request to its answer.
    """

    rpc: str
    began_s: float
    took_us: float
    units: int
    found: Found
    failure: str = ""
    shed: bool = False
    service_us: float | None = None
    answers_us: tuple[float, ...] = ()


@dataclass(slots=True)
class Tally:
    """Counts of calls and of what they asked for: units, errors, shed and decisions count the applications of batches
    and streams one by one; failed_calls and shed_calls are calls without an answer."""

    calls: int = 0
    failed_calls: int = 0
    shed_calls: int = 0
    units: int = 0
    errors: int = 0
    shed: int = 0
    decisions: int = 0
    replayed: int = 0

    def note(self, call: Call) -> None:
        """Takes in a call."""
        self.calls += 1
        self.units += call.units
        if call.failure:
            if call.shed:
                self.shed += call.units
                self.shed_calls += 1
            else:
                self.errors += call.units
                self.failed_calls += 1
            return
        found = call.found
        self.errors += min(found.errors.total(), call.units)
        self.shed += min(found.shed.total(), call.units)
        self.decisions += found.decisions
        self.replayed += found.replayed

    @property
    def answered(self) -> int:
        """Calls that got their answer."""
        return self.calls - self.failed_calls - self.shed_calls

    def add(self, other: dict[str, int]) -> None:
        """Takes in another's counts."""
        for name in _TALLY:
            setattr(self, name, getattr(self, name) + int(other[name]))

    def plain(self) -> dict[str, int]:
        """The counts by name."""
        return {name: getattr(self, name) for name in _TALLY}


_TALLY = ("calls", "failed_calls", "shed_calls", "units", "errors", "shed", "decisions", "replayed")


@dataclass(slots=True)
class Totals:
    """One RPC over the whole run, its warm-up left out."""

    tally: Tally = field(default_factory=Tally)
    latencies: Latencies = field(default_factory=Latencies)
    # From the real sending on, where arrivals have a time of their own.
    service: Latencies | None = None
    # Of the answers of streams.
    answers: Latencies | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    shed_reasons: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Point:
    """One RPC in one interval."""

    tally: Tally = field(default_factory=Tally)
    buckets: Buckets = field(default_factory=Buckets)


class Measures:
    """Everything that is measured, by RPC. interval_s: how long a point is; origin_s: when the run starts, in seconds
    since 1970; warm_up_s: what began so long after it is in no total; shed_is_error: whether what was shed counts as
    failed."""

    def __init__(
        self, interval_s: float, origin_s: float = 0.0, warm_up_s: float = 0.0, *, shed_is_error: bool = False
    ) -> None:
        self.interval_s = interval_s
        self.origin_s = origin_s
        self.warm_until_s = origin_s + warm_up_s
        self.shed_is_error = shed_is_error
        self.totals: dict[str, Totals] = {}
        self.points: dict[str, dict[int, Point]] = {}
        # Calls that were asked again after a wait that the server named, and applications given up after the last try.
        self.retried = 0
        self.gave_up = 0
        # Of the generator itself: how late its loop wakes, and how late arrivals were sent that nothing held back.
        self.lag = Latencies()
        self.lateness = Latencies()
        # Arrivals that waited for room among the calls under way, and those that were never sent.
        self.held = 0
        self.unsent = 0
        # (interval, name) -> (sum, count, maximum): what else is watched over time, as users or calls under way.
        self.gauges: dict[tuple[int, str], list[float]] = {}

    def index(self, moment_s: float) -> int:
        """The interval that a moment lies in, the first being 0."""
        return max(0, int((moment_s - self.origin_s) / self.interval_s))

    def note(self, call: Call) -> None:
        """Takes in a call that ended."""
        if call.shed and self.shed_is_error:
            call = Call(call.rpc, call.began_s, call.took_us, call.units, call.found, call.failure, False,
                        call.service_us, call.answers_us)  # fmt: skip
        elif call.found.shed and self.shed_is_error:
            call.found.errors.update(call.found.shed)
            call.found.shed.clear()
        point = self.points.setdefault(call.rpc, {}).setdefault(self.index(call.began_s), Point())
        point.tally.note(call)
        if not call.shed:
            point.buckets.note(call.took_us)
        if call.began_s < self.warm_until_s:
            return
        total = self.totals.get(call.rpc)
        if total is None:
            total = self.totals[call.rpc] = Totals()
        total.tally.note(call)
        if call.failure:
            (total.shed_reasons if call.shed else total.reasons)[call.failure] += call.units
        total.reasons.update(call.found.errors)
        total.shed_reasons.update(call.found.shed)
        total.verdicts.update(call.found.verdicts)
        if call.shed:
            return
        total.latencies.note(call.took_us)
        if call.service_us is not None:
            total.service = total.service or Latencies()
            total.service.note(call.service_us)
        if call.answers_us:
            total.answers = total.answers or Latencies()
            for took_us in call.answers_us:
                total.answers.note(took_us)

    def gauge(self, name: str, moment_s: float, value: float) -> None:
        """Takes in one reading of something that is watched over time."""
        held = self.gauges.setdefault((self.index(moment_s), name), [0.0, 0.0, 0.0])
        held[0] += value
        held[1] += 1
        held[2] = max(held[2], value)

    def wire(self) -> dict[str, Any]:
        """Everything as plain data, for another process."""
        return {
            "retried": self.retried,
            "gave_up": self.gave_up,
            "held": self.held,
            "unsent": self.unsent,
            "lag": self.lag.encoded(),
            "lateness": self.lateness.encoded(),
            "totals": {rpc: _totals_wire(total) for rpc, total in self.totals.items()},
            "points": {
                rpc: {
                    str(index): {**point.tally.plain(), "buckets": {str(k): n for k, n in point.buckets.counts.items()}}
                    for index, point in points.items()
                }
                for rpc, points in self.points.items()
            },
            "gauges": [[index, name, *held] for (index, name), held in self.gauges.items()],
        }

    def add(self, wire: dict[str, Any]) -> None:
        """Takes in what `wire` of another process gave."""
        self.retried += wire["retried"]
        self.gave_up += wire["gave_up"]
        self.held += wire["held"]
        self.unsent += wire["unsent"]
        self.lag.add(Latencies.decoded(wire["lag"]))
        self.lateness.add(Latencies.decoded(wire["lateness"]))
        for rpc, plain in wire["totals"].items():
            _add_totals(self.totals.setdefault(rpc, Totals()), plain)
        for rpc, points in wire["points"].items():
            mine = self.points.setdefault(rpc, {})
            for index, plain in points.items():
                point = mine.setdefault(int(index), Point())
                point.tally.add(plain)
                point.buckets.add({int(key): count for key, count in plain["buckets"].items()})
        for index, name, value_sum, count, highest in wire["gauges"]:
            held = self.gauges.setdefault((index, name), [0.0, 0.0, 0.0])
            held[0] += value_sum
            held[1] += count
            held[2] = max(held[2], highest)

    def together(self) -> Totals:
        """All RPCs as one."""
        both = Totals()
        for total in self.totals.values():
            _add_totals(both, _totals_wire(total, encode=False), total)
        return both


def _totals_wire(total: Totals, *, encode: bool = True) -> dict[str, Any]:
    histograms = {"latencies": total.latencies, "service": total.service, "answers": total.answers}
    return {
        **total.tally.plain(),
        "reasons": dict(total.reasons),
        "shed_reasons": dict(total.shed_reasons),
        "verdicts": dict(total.verdicts),
        **{name: made.encoded() for name, made in histograms.items() if encode and made is not None},
    }


def _add_totals(total: Totals, plain: dict[str, Any], other: Totals | None = None) -> None:
    """Puts a wire form into totals; other: where its histograms are, when they were not encoded."""
    total.tally.add(plain)
    total.reasons.update(plain["reasons"])
    total.shed_reasons.update(plain["shed_reasons"])
    total.verdicts.update(plain["verdicts"])
    for name in ("latencies", "service", "answers"):
        found = getattr(other, name) if other is not None else None
        if name in plain:
            found = Latencies.decoded(plain[name])
        if found is not None:
            held = getattr(total, name)
            if held is None:
                held = Latencies()
                setattr(total, name, held)
            held.add(found)
