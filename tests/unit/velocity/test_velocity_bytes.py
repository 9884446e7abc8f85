"""What a state's bytes are: checked as a whole, refused when anything is wrong, followed when the counters change."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features.encoding import Field, Kind, RowCorrupt, RowEncoder, RowError, RowOtherSchema, RowSchema
from engine.features.evolve import describe
from engine.features.row_schema import fingerprint_of
from engine.features.store import StoreCorrupt, event_time_of
from engine.features.velocity import (
    EXACT_MAX,
    Counter,
    Definitions,
    Layout,
    Outcome,
    VelocityReader,
    VelocityView,
    describe_state,
    is_state,
    state_fingerprint,
)
from tests.unit.velocity.brute import DAY_US, DEVICE, T0_US, counted, event, one, state_of

NOW_US = T0_US + DAY_US


@cache
def small() -> bytes:
    return state_of(DEVICE, [event(str(i), T0_US + i, i, applicant=str(i % 3), phone="p") for i in range(5)])


@cache
def large() -> bytes:
    """With everything that a state may have: buckets, and samples that are full."""
    people = 1_500
    return state_of(
        DEVICE, [event(str(i), T0_US + i * 10_000_000, i, applicant=str(i), phone=f"p{i % 9}") for i in range(people)]
    )


def _sealed(body: bytes) -> bytes:
    """With a good checksum and length, whatever else it is."""
    body = body[:12] + struct.pack("<I", len(body) + 4) + body[16:]
    return body + struct.pack("<I", crc32(body))


def test_every_flipped_byte_of_a_small_state_is_refused() -> None:
    state, reader = small(), VelocityReader(DEVICE)
    ((_, change),) = Definitions([DEVICE]).changes([event("new", NOW_US)])
    for at in range(len(state)):
        for mask in (0x01, 0x80, 0xFF):
            spoilt = state[:at] + bytes([state[at] ^ mask]) + state[at + 1 :]
            with pytest.raises(RowError):
                reader.evaluate(spoilt, NOW_US)
            assert change(spoilt) is None
            assert change.outcomes == [Outcome.UNREADABLE]


def test_every_flipped_byte_of_a_large_state_is_refused() -> None:
    state, reader = large(), VelocityReader(DEVICE)
    for at in range(0, len(state), 7):
        with pytest.raises(RowError):
            reader.evaluate(state[:at] + bytes([state[at] ^ 0x10]) + state[at + 1 :], NOW_US)


@pytest.mark.parametrize("state", [small, large], ids=["small", "large"])
def test_missing_and_added_bytes_are_refused(state: Callable[[], bytes]) -> None:
    value = state()
    reader = VelocityReader(DEVICE)
    for spoilt in (b"", value[:3], value[:31], value[:-1], value + b"\0", value[:-4], value[1:], value * 2):
        with pytest.raises(RowCorrupt):
            reader.evaluate(spoilt, NOW_US)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_good_checksum_over_nonsense_is_refused_too(data: st.DataObject) -> None:
    """Bytes that another program wrote: never a crash, never a number that is not there."""
    state = large() if data.draw(st.booleans()) else small()
    body = bytearray(state[:-4])
    if data.draw(st.booleans()):  # a count in the header
        at = data.draw(st.sampled_from((24, 25, 28, 29, 31)))
        body[at] ^= data.draw(st.integers(1, 255))
    else:  # bytes too many or too few
        cut = data.draw(st.integers(1, 400))
        body = body[:-cut] if data.draw(st.booleans()) else body + bytes(cut)
    spoilt = _sealed(bytes(body))
    with pytest.raises(RowCorrupt):
        VelocityReader(DEVICE).evaluate(spoilt, NOW_US)
    ((_, change),) = Definitions([DEVICE]).changes([event("new", NOW_US)])
    assert change(spoilt) is None


def test_a_row_is_no_state_and_a_state_no_row() -> None:
    schema = RowSchema("device_velocity", (Field("n", Kind.FLOAT64), Field("m", Kind.FLOAT64)))
    row = RowEncoder(schema).encode({"n": 1.0}, T0_US)
    assert is_state(small())
    assert not is_state(row)
    with pytest.raises(RowCorrupt, match="no state"):
        VelocityReader(DEVICE).evaluate(row, NOW_US)
    with pytest.raises(StoreCorrupt):
        describe(small(), lambda _: DEVICE.canonical)
    with pytest.raises(ValueError, match="no row schema"):
        RowSchema.parse(DEVICE.canonical)
    with pytest.raises(ValueError, match="no layout"):
        Layout.parse(schema.canonical)


def test_the_stamp_stands_where_stores_look_for_it() -> None:
    assert event_time_of(small()) == T0_US + 4
    assert state_fingerprint(small()) == DEVICE.fingerprint == fingerprint_of(DEVICE.canonical)


def test_the_canonical_form_is_the_layout_and_says_nothing_of_the_names() -> None:
    assert Layout.parse(DEVICE.canonical) == DEVICE.layout
    renamed = VelocityView(
        DEVICE.view, DEVICE.entity, tuple(Counter(f"x{c.name}", c.what, c.of, c.window) for c in DEVICE.counters[::-1])
    )
    assert renamed.fingerprint == DEVICE.fingerprint
    assert one("count", "1h").fingerprint == one("time_since", "30d").fingerprint
    assert one("distinct", "1h", "phone").fingerprint != one("distinct", "24h", "phone").fingerprint
    for bad in (b"{}", b"[]", b"null", b"\xff", DEVICE.canonical.replace(b'"layout":1', b'"layout":2')):
        with pytest.raises(ValueError):
            Layout.parse(bad)


_WIDER = VelocityView(
    "device_velocity",
    "device",
    (
        Counter("n", "count", "", "30d"),
        Counter("amount", "sum", "amount", "30d"),
        Counter("bonus", "sum", "bonus", "30d"),
        Counter("applicants_24h", "distinct", "applicant", "24h"),
        Counter("applicants_7d", "distinct", "applicant", "7d"),
        Counter("emails", "distinct", "email", "30d"),
    ),
)
_NARROWER = VelocityView("device_velocity", "device", (Counter("fee", "sum", "fee", "7d"),))


@pytest.mark.parametrize("count", [20, EXACT_MAX + 300])
def test_other_columns_are_read_by_name(count: int) -> None:
    rng = random.Random(3)
    events = [
        event(str(i), T0_US + i * 60_000_000, rng.randrange(10**8), applicant=str(rng.randrange(90)), email=str(i))
        for i in range(count)
    ]
    now_us = events[-1].time_us + 1
    state = state_of(DEVICE, events)
    for view in (_WIDER, _NARROWER):
        reader = VelocityReader(view)
        with pytest.raises(RowOtherSchema) as refused:
            reader.evaluate(state, now_us)
        assert refused.value.fingerprint == DEVICE.fingerprint
        assert reader.learn(DEVICE.canonical)
        found = dict(zip((c.name for c in view.counters), reader.evaluate(state, now_us), strict=True))
        truth = dict(zip((c.name for c in view.counters), counted(events, view, "d", now_us), strict=True))
        # What was not kept is not known.
        assert found.pop("emails", 0) == 0
        assert truth.pop("emails", count) == count
        assert found == truth


@pytest.mark.parametrize("count", [20, EXACT_MAX + 300])
def test_events_go_on_in_the_new_columns(count: int) -> None:
    events = [event(str(i), T0_US + i * 60_000_000, 1_0000, applicant=str(i % 9)) for i in range(count)]
    state, before = state_of(DEVICE, events), state_of(DEVICE, events)
    later = [event(f"later{i}", events[-1].time_us + 1 + i, 1_0000, applicant="z", email=f"m{i}") for i in range(3)]
    definitions = Definitions([_WIDER])
    ((_, change),) = definitions.changes([*later, events[-1]])
    assert change(state) is None
    assert change.unknown == DEVICE.fingerprint
    assert change.outcomes == [Outcome.UNREADABLE] * 4
    assert definitions.learn(DEVICE.canonical)
    changed = change(state)
    assert changed is not None
    assert change.unknown is None
    assert change.outcomes == [*[Outcome.NEW] * 3, Outcome.DUPLICATE]
    assert event_time_of(changed) > event_time_of(before)
    now_us = later[-1].time_us + 1
    found = VelocityReader(_WIDER).evaluate(changed, now_us)
    truth = counted([*events, *later], _WIDER, "d", now_us)
    assert found[:5] == truth[:5]
    assert found[5] == truth[5] == 3


def test_a_shorter_sample_serves_a_longer_window_until_it_is_full() -> None:
    view, longer = one("distinct", "1h", "applicant"), one("distinct", "30d", "applicant")
    events = [event(str(i), T0_US + i * 10_000_000, applicant=str(i)) for i in range(EXACT_MAX + 1_000)]
    now_us = events[-1].time_us + 1
    reader = VelocityReader(longer)
    assert reader.learn(view.canonical)
    (found,) = reader.evaluate(state_of(view, events), now_us)
    assert found == 361
    assert counted(events, longer, "d", now_us) == [EXACT_MAX + 1_000]


def test_states_of_another_view_are_never_followed() -> None:
    other = VelocityView("other_velocity", "device", DEVICE.counters)
    phone = VelocityView("device_velocity", "phone", DEVICE.counters)
    reader, definitions = VelocityReader(DEVICE), Definitions([DEVICE])
    for view in (other, phone):
        assert not reader.learn(view.canonical)
        assert not definitions.learn(view.canonical)
        with pytest.raises(RowOtherSchema):
            VelocityReader(view).evaluate(small(), NOW_US)
    assert not reader.learn(b"nonsense")
    assert not definitions.learn(b"{}")


def test_states_can_be_described() -> None:
    found = describe_state(small(), [one("count", "1h").canonical, DEVICE.canonical])
    assert (found.view, found.entity, found.events) == ("device_velocity", "device", 5)
    assert (found.oldest_us, found.newest_us, found.bucketed_until_us) == (T0_US, T0_US + 4, None)
    found = describe_state(large(), [DEVICE.canonical])
    assert found.events == EXACT_MAX
    assert found.bucketed_until_us == T0_US + (1_500 - EXACT_MAX - 1) * 10_000_000
    with pytest.raises(RowOtherSchema):
        describe_state(small(), [])
    with pytest.raises(RowCorrupt):
        describe_state(small()[:-1], [DEVICE.canonical])
