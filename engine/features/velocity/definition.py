"""What is counted, declared as data, and the events that are counted.

A counter of an entity looks, at a moment T, at that entity's events with T - window <= t < T: an event never counts
itself, nor others of its own microsecond. An event that does not name the entity changes nothing, and one that does
not name the other entity of a `distinct` counter does not count in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Literal, NamedTuple

from engine.features.velocity.layout import Layout

What = Literal["count", "sum", "distinct", "time_since"]
WHATS: tuple[What, ...] = ("count", "sum", "distinct", "time_since")
WINDOWS_S: Mapping[str, int] = {"1m": 60, "1h": 3_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000}
SECOND_US = 1_000_000

# Amounts are whole ten-thousandths of the unit, so that sums are exact in any order.
AMOUNT_SCALE = 10_000
# 100 billion units. A bucket's sum stays at 4,600 times that.
MAX_AMOUNT = 10**15
MAX_TIME_US = 253_402_300_800 * SECOND_US  # the end of the year 9999


class Event(NamedTuple):
    """Something that happened to several entities at once, for example an application.

    id: its own; by it the event counts once per entity, however often it comes. time_us: when it happened,
    microseconds since 1970, UTC. entities: entity -> id, those that it names. amounts: name -> whole ten-thousandths
    of the unit, up to `MAX_AMOUNT` either way; one that is not there adds nothing.
    """

    id: str
    time_us: int
    entities: Mapping[str, str]
    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter of a view.

    what: count (events), sum (of the amount `of`), distinct (different ids of the entity `of`), time_since (seconds
    since the last event, missing when there is none in the window). of: empty for count and time_since. window: a key
    of `WINDOWS_S`. Raises ValueError for all else.
    """

    name: str
    what: What
    of: str
    window: str

    def __post_init__(self) -> None:
        if self.what not in WHATS:
            raise ValueError(f"{self.name}: what is {self.what!r}, not one of {', '.join(WHATS)}")
        if self.window not in WINDOWS_S:
            raise ValueError(f"{self.name}: window is {self.window!r}, not one of {', '.join(WINDOWS_S)}")
        if (self.what in ("sum", "distinct")) != bool(self.of):
            raise ValueError(f"{self.name}: sum and distinct name what they are of, and the others do not")

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return WINDOWS_S[self.window] * SECOND_US


@dataclass(frozen=True)
class VelocityView:
    """The counters of one entity that are kept together: one state, under one key. Raises ValueError for no counter
    and for names that stand twice."""

    view: str
    entity: str
    counters: tuple[Counter, ...]

    def __post_init__(self) -> None:
        names = [counter.name for counter in self.counters]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.view}: there must be counters, each name once")

    @cached_property
    def layout(self) -> Layout:
        """What must be kept of every event to tell these counters."""
        return Layout(
            self.view,
            self.entity,
            tuple(sorted({c.of for c in self.counters if c.what == "sum"})),
            tuple(sorted({(c.of, c.window_us) for c in self.counters if c.what == "distinct"})),
        )

    @property
    def canonical(self) -> bytes:
        """The canonical form of the layout, for `FeatureStore.put_schema`."""
        return self.layout.canonical

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the layout."""
        return self.layout.fingerprint


def check_event(event: Event) -> None:
    """Raise ValueError unless the event's time and amounts can be kept. The ids are checked with the keys."""
    if not 0 <= event.time_us <= MAX_TIME_US:
        raise ValueError("the event's time must lie between 1970 and 9999")
    for name, amount in event.amounts.items():
        if type(amount) is not int or not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
            raise ValueError(f"the amount {name!r} must be whole, and {MAX_AMOUNT // AMOUNT_SCALE} units at most")


def hash_of(entity_id: str) -> int:
    """63 bits of an id, never 0 (BLAKE2b). Two ids share them once in 10**19 pairs."""
    raw = blake2b(entity_id.encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1 or 1
