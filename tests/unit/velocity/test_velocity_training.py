"""Training and serving count alike: one stream through the trainer's one pass and through the engine's states."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import pytest

from engine.features.stores.memory import MemoryStore
from engine.features.velocity import EXACT_MAX, WINDOWS_S, Definitions, Event, Outcome, VelocityReader, outcomes_of
from engine.features.velocity.buckets import WIDTHS_US
from engine.features.velocity.sketch import SKETCH_MAX
from models.training.fraud.counters import DECLARATIONS, count_stream, counters_from, engine_views, stream_events
from models.training.fraud.features import COUNTERS, NAMES
from models.training.fraud.population import ENTITIES
from models.training.fraud.stream import Stream, generate
from tests.unit.velocity.brute import DAY_US, SECOND_US, batches

VIEWS = engine_views(COUNTERS)
BEGIN_S = 1_767_225_600
_EXPECTED = """
applicant count 24h, applicant count 30d, applicant sum amount 30d, applicant distinct device 30d,
applicant distinct phone 30d, applicant time_since 30d, device count 1h, device count 24h, device distinct applicant 7d,
device sum amount 7d, device time_since 30d, phone count 7d, phone distinct applicant 30d, email distinct applicant 30d,
address count 7d, address distinct applicant 30d, address distinct phone 30d, employer distinct applicant 7d,
ip count 1h, ip distinct applicant 24h, agent count 24h, agent sum amount 7d, agent distinct address 7d
"""


def test_the_declarations_are_those_that_the_shipped_model_learned_from() -> None:
    """In the same order, so that no shipped model needs to be trained again."""
    found = [" ".join(row[key] for key in ("entity", "what", "of", "window") if key in row) for row in DECLARATIONS]
    assert found == [" ".join(part.split()) for part in _EXPECTED.split(",")]
    names = [row["name"] for row in DECLARATIONS]
    assert names == [c.name for c in COUNTERS]
    assert [n for n in NAMES if n in names] == names


def test_the_engine_keeps_them_in_the_views_of_the_bundle() -> None:
    assert [view.view for view in VIEWS] == [f"{entity}_velocity" for entity in ENTITIES]
    assert [c.name for view in VIEWS for c in view.counters] == [c.name for c in COUNTERS]


@pytest.fixture(scope="module")
def stream() -> Stream:
    """Some thousands of applications, longer than the longest window, dense in frauds."""
    return generate(21, days=42, daily=110, fraud_share=0.08)


def _trained(stream: Stream) -> dict[str, np.ndarray]:
    return count_stream(COUNTERS, stream.t_s, stream.ids, {"amount": stream.facts["amount"].astype(np.int64)})


class _Serving:
    """The engine's side: a store with states, and the readers of all views."""

    def __init__(self) -> None:
        self.store, self.definitions = MemoryStore(), Definitions(VIEWS)
        self.readers = [VelocityReader(view) for view in VIEWS]

    def apply(self, events: Sequence[Event]) -> list[Outcome]:
        """Count events, as one update of the store."""
        changes = self.definitions.changes(events)
        self.store.update(changes)
        return outcomes_of(changes, len(events))

    def read(self, event: Event) -> dict[str, float]:
        """Every counter as a decision about this event would read it at its time."""
        found: dict[str, float] = {}
        for reader in self.readers:
            view = reader.view
            names = [c.name for c in view.counters]
            if view.entity not in event.entities:
                found.update(dict.fromkeys(names, float("nan")))
                continue
            one = Definitions([view]).keys(event)
            state = self.store.read(one)[0]
            values = reader.nothing if state is None else reader.evaluate(state, event.time_us)
            found.update(zip(names, values, strict=True))
        return found


def test_every_counter_of_every_event_in_order(stream: Stream) -> None:
    """As decisions come: each reads what was there before it, then counts."""
    trained, serving = _trained(stream), _Serving()
    served: dict[str, list[float]] = {c.name: [] for c in COUNTERS}
    for event in stream_events(stream, BEGIN_S):
        for name, value in serving.read(event).items():
            served[name].append(value)
        assert set(serving.apply([event])) <= {Outcome.NEW}
    assert len(served[COUNTERS[0].name]) == len(stream) > 4_000
    for name, values in trained.items():
        np.testing.assert_array_equal(np.array(served[name]), values, err_msg=name)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_counter_of_every_event_however_it_is_delivered(stream: Stream, seed: int) -> None:
    """Late, shuffled over hours, several times, in batches of any size: once all has come, all is the same. Also for
    decisions between the events: what comes after them in time is there, and is not counted."""
    trained, serving, rng = _trained(stream), _Serving(), random.Random(seed)
    events = list(stream_events(stream, BEGIN_S))
    delivered: list[Event] = []
    at = 0
    while at < len(events):
        upto = min(len(events), at + rng.randrange(1, 120))
        sent = [*events[at:upto], *rng.sample(delivered, min(len(delivered), 20)), *rng.choices(events[at:upto], k=10)]
        rng.shuffle(sent)
        for batch in batches(sent, rng, 25):
            serving.apply(batch)
        for place in range(at, upto):
            for name, value in serving.read(events[place]).items():
                np.testing.assert_equal(value, trained[name][place], err_msg=f"{name} of {events[place]}")
        delivered, at = events[at:upto], upto


def test_beyond_what_is_kept_one_by_one_within_the_stated_bounds() -> None:
    """A few shops and networks that all the world uses: thousands of events an entity."""
    stream = generate(22, days=40, daily=260, fraud_share=0.03)
    crowd = np.arange(len(stream))
    stream.ids["agent"][:] = crowd % 3
    stream.ids["ip"][:] = crowd % 2
    trained, serving = _trained(stream), _Serving()
    events = list(stream_events(stream, BEGIN_S))
    assert len(events) > 3 * 3 * EXACT_MAX
    times = [e.time_us for e in events]
    width_us = dict(zip(WINDOWS_S, WIDTHS_US, strict=True))
    rough, at = 0, 0
    while at < len(events):
        second = bisect_left(times, times[at] + 1, at)
        for place in range(at, second):
            if place % 4:
                continue
            found = serving.read(events[place])
            for counter in COUNTERS:
                value, truth = found[counter.name], float(trained[counter.name][place])
                if value == truth or (value != value and truth != truth):
                    continue
                rough += 1
                assert counter.entity in ("agent", "ip"), counter
                mine = stream.ids[counter.entity] == stream.ids[counter.entity][place]
                ago = times[place] - WINDOWS_S[counter.window] * SECOND_US
                assert mine[bisect_left(times, ago) : place].sum() > EXACT_MAX, counter
                low, high = (bisect_left(times, ago + d) for d in (-width_us[counter.window], width_us[counter.window]))
                edge = mine[low:high]
                if counter.what == "count":
                    assert abs(value - truth) <= edge.sum()
                elif counter.what == "sum":
                    assert abs(value - truth) <= stream.facts["amount"][low:high][edge].sum() + 0.001
                else:  # up to 1,024 different ones are told exactly
                    assert counter.what == "distinct" and truth > SKETCH_MAX
                    assert abs(value - truth) <= 0.2 * truth
        serving.apply(events[at:second])
        at = second
    assert rough > 100


def test_the_trainer_and_the_engine_call_the_same_windows_the_same() -> None:
    counter = counters_from([{"name": "n", "entity": "device", "what": "count", "window": "1h"}], ENTITIES)
    (view,) = engine_views(counter)
    hour = WINDOWS_S["1h"]
    times = np.array([0, 1, hour, hour + 1, 2 * hour + 1], np.int64)
    ids = {"device": np.zeros(5, np.int64)}
    trained = count_stream(counter, times, ids, {})["n"]
    definitions, held, served = Definitions([view]), None, []
    reader = VelocityReader(view)
    for i, t_s in enumerate(times.tolist()):
        now_us = BEGIN_S * SECOND_US + t_s * SECOND_US
        served.append(reader.nothing if held is None else reader.evaluate(held, now_us))
        ((_, change),) = definitions.changes([Event(str(i), now_us, {"device": "0"}, {})])
        held = change(held)
    np.testing.assert_array_equal(np.array(served)[:, 0], trained)
    assert trained.tolist() == [0, 1, 2, 2, 1]
    assert WINDOWS_S["24h"] * SECOND_US == DAY_US
