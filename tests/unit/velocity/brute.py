"""The counters by their definition: every event looked at every time. What the engine's states are held against."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence

from engine.features.store import FeatureStore
from engine.features.velocity import (
    AMOUNT_SCALE,
    Counter,
    Definitions,
    Event,
    VelocityReader,
    VelocityView,
    What,
)

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
# The moment that the tests reckon from: in the middle of a second, a minute, an hour and a day.
T0_US = 1_767_268_245_123_456

DEVICE = VelocityView(
    "device_velocity",
    "device",
    (
        Counter("count_1m", "count", "", "1m"),
        Counter("count_1h", "count", "", "1h"),
        Counter("count_24h", "count", "", "24h"),
        Counter("count_7d", "count", "", "7d"),
        Counter("count_30d", "count", "", "30d"),
        Counter("amount_1h", "sum", "amount", "1h"),
        Counter("amount_30d", "sum", "amount", "30d"),
        Counter("fee_7d", "sum", "fee", "7d"),
        Counter("applicants_24h", "distinct", "applicant", "24h"),
        Counter("applicants_30d", "distinct", "applicant", "30d"),
        Counter("phones_7d", "distinct", "phone", "7d"),
        Counter("since_1h", "time_since", "", "1h"),
        Counter("since_30d", "time_since", "", "30d"),
    ),
)
PHONE = VelocityView(
    "phone_velocity",
    "phone",
    (Counter("phone_count_7d", "count", "", "7d"), Counter("phone_devices_30d", "distinct", "device", "30d")),
)


def one(what: What, window: str, of: str = "") -> VelocityView:
    """A view of devices with a single counter."""
    return VelocityView("device_velocity", "device", (Counter("n", what, of, window),))


def event(name: str, time_us: int, amount: int = 0, **entities: str) -> Event:
    """An event of device d unless another is named; an entity "-" is not named at all."""
    named = {"device": "d", **entities}
    return Event(name, time_us, {e: i for e, i in named.items() if i != "-"}, {"amount": amount})


def once(events: Iterable[Event]) -> list[Event]:
    """Each id once, in order of time."""
    return sorted({e.id: e for e in events}.values(), key=lambda e: e.time_us)


def counted(events: Iterable[Event], view: VelocityView, entity_id: str, now_us: int) -> list[float]:
    """The counters of one entity at a moment, by their definition."""
    mine = [e for e in once(events) if e.entities.get(view.entity) == entity_id]
    return [_counted(mine, counter, now_us) for counter in view.counters]


def _counted(mine: Sequence[Event], counter: Counter, now_us: int) -> float:
    inside = [e for e in mine if now_us - counter.window_us <= e.time_us < now_us]
    if counter.what == "count":
        return float(len(inside))
    if counter.what == "sum":
        return sum(e.amounts.get(counter.of, 0) for e in inside) / AMOUNT_SCALE
    if counter.what == "distinct":
        return float(len({e.entities[counter.of] for e in inside if counter.of in e.entities}))
    return (now_us - max(e.time_us for e in inside)) / SECOND_US if inside else math.nan


def same(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether all are equal, NaN to NaN."""
    return len(found) == len(expected) and all(
        a == b or (a != a and b != b) for a, b in zip(found, expected, strict=True)
    )


def apply(store: FeatureStore, definitions: Definitions, events: Sequence[Event]) -> None:
    """Count events in a store, as one update."""
    store.update(definitions.changes(events))


def batches(events: Sequence[Event], order: random.Random, largest: int) -> Iterator[list[Event]]:
    """The events cut at random."""
    at = 0
    while at < len(events):
        size = order.randint(1, largest)
        yield list(events[at : at + size])
        at += size


def read(store: FeatureStore, view: VelocityView, entity_id: str, now_us: int) -> list[float]:
    """The counters of one entity as the engine reads them."""
    reader = VelocityReader(view)
    definitions = Definitions([view])
    (key,) = definitions.keys(Event("any", now_us, {view.entity: entity_id}, {}))
    state = store.read([key])[0]
    return reader.nothing if state is None else reader.evaluate(state, now_us)


def state_of(view: VelocityView, events: Sequence[Event], batch: int = 100) -> bytes:
    """The state of the only entity that these events name."""
    definitions, held = Definitions([view]), None
    for at in range(0, len(events), batch):
        ((_, change),) = definitions.changes(events[at : at + batch])
        held = change(held) or held
    assert held is not None
    return held
