"""What is in a window and what is not, counter by counter."""

from __future__ import annotations

import math
import random

import pytest

from engine.features.velocity import EXACT_MAX, WINDOWS_S, Counter, Definitions, Event, VelocityReader, VelocityView
from tests.unit.velocity.brute import DAY_US, DEVICE, SECOND_US, T0_US, counted, event, one, same, state_of


@pytest.mark.parametrize("window", WINDOWS_S)
@pytest.mark.parametrize(
    ("before_us", "inside"),
    [(0, False), (1, True), ("window", True), ("window and 1", False), ("window less 1", True), (-1, False)],
)
def test_a_window_holds_its_beginning_and_not_its_end(window: str, before_us: int | str, inside: bool) -> None:
    length_us = WINDOWS_S[window] * SECOND_US
    ago = {"window": length_us, "window and 1": length_us + 1, "window less 1": length_us - 1}
    at_us = T0_US - (before_us if isinstance(before_us, int) else ago[before_us])
    moved = event("e", at_us, 12_5000, applicant="a")
    for what, of, value in (("count", "", 1.0), ("sum", "amount", 12.5), ("distinct", "applicant", 1.0)):
        view = one(what, window, of)  # type: ignore[arg-type]
        assert VelocityReader(view).evaluate(state_of(view, [moved]), T0_US) == [value if inside else 0.0]
    since = one("time_since", window)
    (found,) = VelocityReader(since).evaluate(state_of(since, [moved]), T0_US)
    assert found == (T0_US - at_us) / SECOND_US if inside else math.isnan(found)


def test_events_of_one_microsecond_do_not_see_one_another() -> None:
    view = one("count", "1h")
    state = state_of(view, [event("a", T0_US), event("b", T0_US), event("c", T0_US)])
    assert VelocityReader(view).evaluate(state, T0_US) == [0.0]
    assert VelocityReader(view).evaluate(state, T0_US + 1) == [3.0]


def test_only_what_an_event_names_counts() -> None:
    view = DEVICE
    events = [
        event("1", T0_US - 10, 5_0000, applicant="a"),
        event("2", T0_US - 9, 7_0000, applicant="a", phone="p"),
        event("3", T0_US - 8, 1, phone="q"),
        Event("4", T0_US - 7, {"device": "d"}, {"fee": -2_5000}),
        event("5", T0_US - 6, 100, device="-", applicant="b"),
        event("6", T0_US - 5, 100, device="other", applicant="b"),
    ]
    ((_, change), (_, other)) = Definitions([view]).changes(events)
    assert (len(change.places), len(other.places)) == (4, 1)
    found = dict(
        zip((c.name for c in view.counters), VelocityReader(view).evaluate(change(None) or b"", T0_US), strict=True)
    )
    assert found["count_1m"] == found["count_30d"] == 4
    assert found["amount_1h"] == 12.0001
    assert found["fee_7d"] == -2.5
    assert (found["applicants_24h"], found["phones_7d"]) == (1, 2)
    assert found["since_1h"] == 7e-6


def test_without_events_in_the_window_there_is_no_time_since() -> None:
    state = state_of(DEVICE, [event("1", T0_US)])
    found = VelocityReader(DEVICE).evaluate(state, T0_US + 2 * DAY_US)
    by_name = dict(zip((c.name for c in DEVICE.counters), found, strict=True))
    assert math.isnan(by_name["since_1h"])
    assert by_name["since_30d"] == 2 * 86_400
    assert same(VelocityReader(DEVICE).nothing, counted([], DEVICE, "d", T0_US))


@pytest.mark.parametrize("count", [1, 2, 20, 47, 48, 49, 50, 200, EXACT_MAX])
def test_few_and_many_events_are_read_alike(count: int) -> None:
    draw = random.Random(count)
    events = [
        event(str(i), T0_US - draw.randrange(31 * DAY_US), draw.randrange(10**9), applicant=str(draw.randrange(30)))
        for i in range(count)
    ]
    state = state_of(DEVICE, events)
    reader = VelocityReader(DEVICE)
    for now_us in (T0_US, T0_US - DAY_US // 2, T0_US + DAY_US, T0_US + 40 * DAY_US):
        assert same(reader.evaluate(state, now_us), counted(events, DEVICE, "d", now_us))


def test_counters_that_make_no_sense_are_refused() -> None:
    for what, of, window in (("median", "", "1h"), ("count", "", "2h"), ("count", "x", "1h"), ("sum", "", "1h")):
        with pytest.raises(ValueError, match="n: "):
            Counter("n", what, of, window)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="once"):
        VelocityView("v", "device", (Counter("n", "count", "", "1h"), Counter("n", "count", "", "1h")))
    with pytest.raises(ValueError, match="twice"):
        Definitions([DEVICE, DEVICE])


@pytest.mark.parametrize(
    "bad",
    [
        event("e", -1),
        event("e", 253_402_300_800 * SECOND_US + 1),
        event("e", T0_US, 10**15 + 1),
        event("e", T0_US, 1.5),  # type: ignore[arg-type]
        event("e", T0_US, device=""),
        event("e", T0_US, device="x" * 257),
    ],
)
def test_events_that_cannot_be_kept_are_refused(bad: Event) -> None:
    definitions = Definitions([DEVICE])
    with pytest.raises(ValueError, match=r"event|amount|id of device"):
        definitions.keys(bad)
    with pytest.raises(ValueError, match=r"event|amount|id of device"):
        definitions.changes([bad])


def test_the_largest_amounts_add_up_without_a_wrap() -> None:
    view = one("sum", "30d", "amount")
    events = [event(str(i), T0_US + i, 10**15) for i in range(EXACT_MAX)]
    assert VelocityReader(view).evaluate(state_of(view, events), T0_US + DAY_US) == [EXACT_MAX * 10**11]
    # Beyond 64 bits a bucket's sum stays where it is, also when buckets are put together.
    many = [event(str(i), T0_US + i * 15_000_000, 10**15) for i in range(12_000)]
    (found,) = VelocityReader(view).evaluate(state_of(view, many), T0_US + 20 * DAY_US)
    assert 4_600 * 10**11 < found <= 12_000 * 10**11
    ((_, change),) = Definitions([view]).changes([event("far", T0_US + 20 * DAY_US)])
    (found,) = VelocityReader(view).evaluate(change(state_of(view, many)) or b"", T0_US + 21 * DAY_US)
    assert 4_600 * 10**11 < found <= 12_000 * 10**11
