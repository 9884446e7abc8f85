"""Velocity counters, declared as data, and their values over a stream in one pass without look-ahead.

A counter looks at the earlier events of one entity (this device, this phone, this address ...) within a window that
ends just before the event at hand:

    {"name": "device_applicants_distinct_7d", "entity": "device", "what": "distinct", "of": "applicant", "window": "7d"}

Events at t are counted for an application at T when T - window <= t < T: an event never counts itself, nor others of
the same second. An entity that is given and has no history counts 0, and its time since the last event is missing; an
entity that the application does not have is missing in every counter.

The declarations below are plain data (names, strings), so that a file can hold them in place of this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

What = Literal["count", "sum", "distinct", "time_since"]
WINDOW_SECONDS = {"1m": 60, "1h": 3_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000}
_KEYS = {"name", "entity", "what", "of", "window"}
_MISSING = float("nan")

DECLARATIONS: tuple[Mapping[str, str], ...] = (
    {"name": "applicant_applications_count_24h", "entity": "applicant", "what": "count", "window": "24h"},
    {"name": "applicant_applications_count_30d", "entity": "applicant", "what": "count", "window": "30d"},
    {"name": "applicant_amount_sum_30d", "entity": "applicant", "what": "sum", "of": "amount", "window": "30d"},
    {"name": "applicant_devices_distinct_30d", "entity": "applicant", "what": "distinct", "of": "device",
     "window": "30d"},
    {"name": "applicant_phones_distinct_30d", "entity": "applicant", "what": "distinct", "of": "phone",
     "window": "30d"},
    {"name": "applicant_since_last_application_seconds", "entity": "applicant", "what": "time_since", "window": "30d"},
    {"name": "device_applications_count_1h", "entity": "device", "what": "count", "window": "1h"},
    {"name": "device_applications_count_24h", "entity": "device", "what": "count", "window": "24h"},
    {"name": "device_applicants_distinct_7d", "entity": "device", "what": "distinct", "of": "applicant",
     "window": "7d"},
    {"name": "device_amount_sum_7d", "entity": "device", "what": "sum", "of": "amount", "window": "7d"},
    {"name": "device_since_last_application_seconds", "entity": "device", "what": "time_since", "window": "30d"},
    {"name": "phone_applications_count_7d", "entity": "phone", "what": "count", "window": "7d"},
    {"name": "phone_applicants_distinct_30d", "entity": "phone", "what": "distinct", "of": "applicant",
     "window": "30d"},
    {"name": "email_applicants_distinct_30d", "entity": "email", "what": "distinct", "of": "applicant",
     "window": "30d"},
    {"name": "address_applications_count_7d", "entity": "address", "what": "count", "window": "7d"},
    {"name": "address_applicants_distinct_30d", "entity": "address", "what": "distinct", "of": "applicant",
     "window": "30d"},
    {"name": "address_phones_distinct_30d", "entity": "address", "what": "distinct", "of": "phone", "window": "30d"},
    {"name": "employer_applicants_distinct_7d", "entity": "employer", "what": "distinct", "of": "applicant",
     "window": "7d"},
    {"name": "ip_applications_count_1h", "entity": "ip", "what": "count", "window": "1h"},
    {"name": "ip_applicants_distinct_24h", "entity": "ip", "what": "distinct", "of": "applicant", "window": "24h"},
    {"name": "agent_applications_count_24h", "entity": "agent", "what": "count", "window": "24h"},
    {"name": "agent_amount_sum_7d", "entity": "agent", "what": "sum", "of": "amount", "window": "7d"},
    {"name": "agent_addresses_distinct_7d", "entity": "agent", "what": "distinct", "of": "address", "window": "7d"},
)  # fmt: skip


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
        if what not in get_args(What):
            problems.append(f"{where}: what is {what!r}, not one of {', '.join(get_args(What))}")
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
