"""What became of each event, whatever a store does with the changes that it is given."""

from __future__ import annotations

from engine.features.store import row_key
from engine.features.stores.memory import MemoryStore
from engine.features.velocity import Definitions, Event, Outcome, Tally, VelocityReader, outcomes_of, tally_of
from tests.unit.velocity.brute import DEVICE, PHONE, T0_US, event, one, state_of

DEFINITIONS = Definitions([DEVICE, PHONE])
NEW, DUPLICATE, TOO_LATE = Outcome.NEW, Outcome.DUPLICATE, Outcome.TOO_LATE


def test_events_are_grouped_by_the_keys_of_the_rows_that_they_change() -> None:
    events = [
        event("1", T0_US, phone="p"),
        event("2", T0_US, device="-", phone="p"),
        event("3", T0_US, device="-", applicant="a"),
        event("4", T0_US),
    ]
    changes = dict(DEFINITIONS.changes(events))
    assert {key: change.places for key, change in changes.items()} == {
        row_key("device", "d", "device_velocity"): [0, 3],
        row_key("phone", "p", "phone_velocity"): [0, 1],
    }
    assert [set(DEFINITIONS.keys(e)) for e in events] == [
        set(changes), {row_key("phone", "p", "phone_velocity")}, set(), {row_key("device", "d", "device_velocity")},
    ]  # fmt: skip


def test_two_views_of_one_entity_are_two_states() -> None:
    both = Definitions([DEVICE, one("count", "1h").__class__("device_more", "device", one("count", "1h").counters)])
    assert len(both.changes([event("1", T0_US)])) == 2


def test_outcomes_are_those_of_the_call_that_the_store_kept() -> None:
    """A store that loses a race calls the change again with what the other writer put there."""
    mine, both = event("mine", T0_US), [event("mine", T0_US), event("more", T0_US + 1)]
    ((_, change),) = Definitions([DEVICE]).changes(both)
    change(None)
    assert change.outcomes == [NEW, NEW]
    change(state_of(DEVICE, [mine]))
    assert change.outcomes == [DUPLICATE, NEW]
    assert tally_of([(b"", change)]) == Tally(new=1, duplicates=1)


def test_what_a_failed_update_may_have_kept_is_new_when_it_is_made_again() -> None:
    other = event("other", T0_US)
    ((_, change),) = Definitions([DEVICE]).changes([event("mine", T0_US), other])
    kept = change(state_of(DEVICE, [other]))
    assert change.outcomes == [NEW, DUPLICATE]
    change.failed()
    assert change.outcomes == []
    assert change(kept) is None
    assert change.outcomes == [NEW, DUPLICATE]
    # And when it had not been kept.
    change.failed()
    assert change(state_of(DEVICE, [other])) is not None
    assert change.outcomes == [NEW, DUPLICATE]


def test_an_event_as_a_whole_is_what_became_of_it_for_its_entities() -> None:
    store = MemoryStore()
    known = Event("known", T0_US, {"device": "d"}, {})
    store.update(DEFINITIONS.changes([known]))
    store.write([(row_key("device", "bad", "device_velocity"), b"\0" * 40, 0)])
    events = [
        known,
        known._replace(entities={"device": "d", "phone": "p"}),
        Event("late", 1, {"device": "d"}, {}),
        Event("none", T0_US, {"applicant": "a"}, {}),
        Event("bad", T0_US, {"device": "bad"}, {}),
        Event("half", T0_US, {"device": "bad", "phone": "q"}, {}),
    ]
    changes = DEFINITIONS.changes(events)
    store.update(changes)
    assert outcomes_of(changes, len(events)) == [
        DUPLICATE, NEW, TOO_LATE, Outcome.UNCOUNTED, Outcome.UNREADABLE, NEW,
    ]  # fmt: skip
    assert tally_of(changes) == Tally(new=2, duplicates=2, too_late=1, unreadable=2)


def test_a_state_that_cannot_be_read_is_left_alone() -> None:
    """An empty one in its place would make a busy entity look new."""
    store, key = MemoryStore(), row_key("device", "d", "device_velocity")
    for nonsense in (b"x" * 100, state_of(DEVICE, [event("1", T0_US)])[:-1]):
        store.update([(key, lambda _, value=nonsense: value)])  # type: ignore[misc]
        store.update(DEFINITIONS.changes([event("2", T0_US + 5)]))
        assert store.read([key]) == [nonsense]


def test_views_of_one_event_agree_with_their_readers() -> None:
    store = MemoryStore()
    store.update(DEFINITIONS.changes([Event("1", T0_US, {"device": "d", "phone": "p"}, {"amount": 25_0000})]))
    keys = DEFINITIONS.keys(Event("", T0_US, {"device": "d", "phone": "p"}, {}))
    device, phone = store.read(keys)
    assert device is not None
    assert phone is not None
    assert VelocityReader(DEVICE).evaluate(device, T0_US + 1)[:7] == [1, 1, 1, 1, 1, 25, 25]
    assert VelocityReader(PHONE).evaluate(phone, T0_US + 1) == [1, 1]
    assert dict(DEFINITIONS.schemas) == {DEVICE.fingerprint: DEVICE.canonical, PHONE.fingerprint: PHONE.canonical}
