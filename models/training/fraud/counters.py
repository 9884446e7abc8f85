"""The velocity counters of the fraud model: as the bundle declares them, over a stream in one pass without look-ahead.

A counter looks at the earlier events of one entity (this device, this phone, this address ...) within a window that
ends just before the event at hand. The declarations are the `counter` entries of the bundle's features.yaml, in the
views that the flow of the model reads. The engine keeps its own counts by the same (`engine.features.velocity`), so
training and serving cannot differ:

    {"name": "device_applicants_distinct_7d", "entity": "device", "what": "distinct", "of": "applicant", "window": "7d"}

Events at t are counted for an application at T when T - window <= t < T: an event never counts itself, nor others of
the same moment. An entity that is given and has no history counts 0, and its time since the last event is missing; an
entity that the application does not have is missing in every counter.

`count_stream` is the exact answer, fast over a whole stream in order. `stream_events` gives the same stream as the
events that the engine counts one by one, in any order; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import yaml

from engine.features.velocity import AMOUNT_SCALE, WHATS, WINDOWS_S, Event, VelocityView, What
from engine.features.velocity import Counter as EngineCounter

if TYPE_CHECKING:
    from models.training.fraud.stream import Stream

BUNDLE = Path(__file__).resolve().parents[2] / "lending"
FLOW = "consumer_loan"
WINDOW_SECONDS = WINDOWS_S
_KEYS = {"name", "entity", "what", "of", "window"}
_MISSING = float("nan")


def declarations_of(bundle: Path = BUNDLE, flow: str = FLOW) -> tuple[Mapping[str, str], ...]:
    """The counters that a flow of a bundle reads, in the order of features.yaml. Raises OSError, yaml.YAMLError,
    KeyError."""
    read = set(_tree(bundle / "flows" / f"{flow}.yaml")["views"])
    return tuple(
        {"name": name, "entity": view["entity"], **feature["counter"]}
        for view_name, view in _tree(bundle / "features.yaml")["views"].items()
        for name, feature in view["features"].items()
        if view_name in read and "counter" in feature
    )


def _tree(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8")))


DECLARATIONS: tuple[Mapping[str, str], ...] = declarations_of()


@dataclass(frozen=True, slots=True)
class Counter:
    """One declared counter.

    what: count (earlier events), sum (of the amount `of`), distinct (different ids of the entity `of`), time_since
    (seconds since the last event, missing when there is none in the window). of: empty for count and time_since.
    """

    name: str
    entity: str
    what: What
    of: str
    window: str

    @property
    def window_seconds(self) -> int:
        """The window in seconds."""
        return WINDOW_SECONDS[self.window]

    @property
    def unit(self) -> str:
        """The unit of the value: "applications", "USD", "seconds", or the plural of what is counted."""
        return {"count": "applications", "sum": "USD", "time_since": "seconds"}.get(self.what) or _plural(self.of)


def _plural(word: str) -> str:
    return word + ("es" if word.endswith("s") else "s")


def counters_from(
    declarations: Iterable[Mapping[str, str]], entities: Sequence[str], amounts: Sequence[str] = ("amount",)
) -> tuple[Counter, ...]:
    """Checked counters. Raises ValueError that lists every mistake: unknown or missing keys, entities, amounts,
    windows or kinds, `of` where none belongs, a name that stands twice."""
    found: list[Counter] = []
    problems: list[str] = []
    for at, row in enumerate(declarations):
        where = f"counter {at} ({row.get('name', 'without a name')})"
        if extra := set(row) - _KEYS:
            problems.append(f"{where}: unknown keys {sorted(extra)}")
        if absent := {"name", "entity", "what", "window"} - set(row):
            problems.append(f"{where}: keys {sorted(absent)} are missing")
            continue
        what, of = row["what"], row.get("of", "")
        if what not in WHATS:
            problems.append(f"{where}: what is {what!r}, not one of {', '.join(WHATS)}")
        allowed: Sequence[str] = {"sum": amounts, "distinct": entities}.get(what, ("",))
        if of not in allowed:
            problems.append(f"{where}: of is {of!r}, not one of {', '.join(map(repr, allowed))}")
        if row["entity"] not in entities:
            problems.append(f"{where}: unknown entity {row['entity']!r}")
        if row["window"] not in WINDOW_SECONDS:
            problems.append(f"{where}: window is {row['window']!r}, not one of {', '.join(WINDOW_SECONDS)}")
        if any(row["name"] == other.name for other in found):
            problems.append(f"{where}: the name stands twice")
        found.append(Counter(row["name"], row["entity"], cast(What, what), of, row["window"]))
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(found)


def engine_views(counters: Sequence[Counter]) -> tuple[VelocityView, ...]:
    """The same counters as the engine keeps them: one view an entity, `<entity>_velocity`, in the same order."""
    by_entity: dict[str, list[EngineCounter]] = {}
    for c in counters:
        by_entity.setdefault(c.entity, []).append(EngineCounter(c.name, c.what, c.of, c.window))
    return tuple(VelocityView(f"{entity}_velocity", entity, tuple(found)) for entity, found in by_entity.items())


def stream_events(stream: Stream, begin_s: int = 0) -> Iterator[Event]:
    """Each application of a stream as the event that the engine counts, in order. begin_s: when the stream began,
    seconds since 1970 UTC."""
    ids = {name: column.tolist() for name, column in stream.ids.items()}
    amounts = stream.facts["amount"].tolist()
    for at, t_s in enumerate(stream.t_s.tolist()):
        yield Event(
            id=f"event-{at}",
            time_us=(begin_s + t_s) * 1_000_000,
            entities={name: f"{name}-{column[at]}" for name, column in ids.items() if column[at] >= 0},
            amounts={"amount": round(amounts[at] * AMOUNT_SCALE)},
        )


class _Lane:
    """All counters that share an entity and a window, over the columns of one stream. Events are known by their place
    in the columns, so that what is kept for an entity id is a short list of whole numbers and running aggregates."""

    def __init__(self, counters: Sequence[Counter], columns: _Columns) -> None:
        self.length = counters[0].window_seconds
        self.times = columns.times
        self.keys = columns.ids[counters[0].entity]
        sum_of = sorted({c.of for c in counters if c.what == "sum"})
        distinct_of = sorted({c.of for c in counters if c.what == "distinct"})
        self.amounts = [columns.amounts[name] for name in sum_of]
        self.others = [columns.ids[name] for name in distinct_of]
        self.windows: dict[int, _Window] = {}
        self.out: list[tuple[What, int, list[float]]] = []
        for c in counters:
            slot = {"sum": sum_of, "distinct": distinct_of}.get(c.what, [c.of]).index(c.of)
            self.out.append((c.what, slot, columns.out[c.name]))

    def read(self, at: int) -> None:
        """Appends to the output of each counter its value just before the event `at`."""
        key, now = self.keys[at], self.times[at]
        window = self.windows.get(key)
        if window is not None:
            self._expire(window, now)
        known = window is not None and window.head < len(window.events)
        for what, slot, out in self.out:
            if window is None or not known:
                out.append(_MISSING if key < 0 or what == "time_since" else 0.0)
            elif what == "count":
                out.append(float(len(window.events) - window.head))
            elif what == "distinct":
                out.append(float(len(window.tallies[slot])))
            elif what == "sum":
                out.append(float(window.sums[slot]))
            else:
                out.append(float(now - self.times[window.events[-1]]))

    def write(self, at: int) -> None:
        """Records the event `at`. Nothing when it does not have the entity."""
        key = self.keys[at]
        if key < 0:
            return
        window = self.windows.get(key)
        if window is None:
            window = self.windows[key] = _Window([], 0, [0] * len(self.amounts), tuple({} for _ in self.others))
        window.events.append(at)
        for slot, amounts in enumerate(self.amounts):
            window.sums[slot] += amounts[at]
        for tally, others in zip(window.tallies, self.others, strict=True):
            other = others[at]
            if other >= 0:
                tally[other] = tally.get(other, 0) + 1

    def _expire(self, window: _Window, now: int) -> None:
        first, events, head = now - self.length, window.events, window.head
        while head < len(events) and self.times[events[head]] < first:
            old = events[head]
            head += 1
            for slot, amounts in enumerate(self.amounts):
                window.sums[slot] -= amounts[old]
            for tally, others in zip(window.tallies, self.others, strict=True):
                other = others[old]
                if other >= 0:
                    tally[other] -= 1
                    if not tally[other]:
                        del tally[other]
        if head > 32 and head * 2 > len(events):  # give the memory of expired events back now and then
            del events[:head]
            head = 0
        window.head = head


@dataclass(slots=True)
class _Window:
    """The events of one entity id within one window (those from `head` on), with running aggregates."""

    events: list[int]
    head: int
    sums: list[int]
    tallies: tuple[dict[int, int], ...]


@dataclass(slots=True)
class _Columns:
    """A stream as plain lists (much faster to index one by one than arrays), and the output of each counter."""

    times: list[int]
    ids: dict[str, list[int]]
    amounts: dict[str, list[int]]
    out: dict[str, list[float]]


def count_stream(
    counters: Sequence[Counter],
    t_s: npt.NDArray[np.int64],
    ids: Mapping[str, npt.NDArray[np.int64]],
    amounts: Mapping[str, npt.NDArray[np.int64]],
) -> dict[str, npt.NDArray[np.float64]]:
    """The value of each counter for each event, in the order of the events.

    t_s: event times in whole seconds, never falling; ids: entity -> id an event, negative for absent; amounts: name ->
    whole units an event (whole, so that sums are exact in any order). Raises ValueError when time falls.
    """
    if len(t_s) and bool(np.any(np.diff(t_s) < 0)):
        raise ValueError("events must come in order of time")
    columns = _Columns(
        times=t_s.tolist(),
        ids={name: v.tolist() for name, v in ids.items()},
        amounts={name: v.tolist() for name, v in amounts.items()},
        out={c.name: [] for c in counters},
    )
    groups: dict[tuple[str, str], list[Counter]] = {}
    for c in counters:
        groups.setdefault((c.entity, c.window), []).append(c)
    lanes = [_Lane(group, columns) for group in groups.values()]
    times, start = columns.times, 0
    while start < len(times):
        end = start
        while end < len(times) and times[end] == times[start]:
            for lane in lanes:
                lane.read(end)
            end += 1
        for at in range(start, end):  # only now: events of the same second do not see one another
            for lane in lanes:
                lane.write(at)
        start = end
    return {name: np.array(values, np.float64) for name, values in columns.out.items()}
