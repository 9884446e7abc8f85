"""Who is taken, and who goes first."""

from __future__ import annotations

import threading
import time

import pytest

from engine.admission.gate import Gate, GateSettings, Lane, Refused, Ticket
from engine.admission.limit import LimitSettings
from engine.admission.quota import QuotaSettings
from tests.unit.admission.simulated import Clock, SimulatedServer


def _gate(**settings: object) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate(GateSettings(**settings), clock, lambda: 0.5), clock  # type: ignore[arg-type]


def _taken(gate: Gate, lane: Lane, count: int) -> list[Ticket]:
    tickets = []
    for _ in range(count):
        found = gate.arrive(lane)
        assert isinstance(found, Ticket), found
        tickets.append(found)
    return tickets


def _why(found: Ticket | Refused) -> str:
    return found.why if isinstance(found, Refused) else ""


def test_places_are_given_back_however_calls_end() -> None:
    gate, _ = _gate(burst_max=5, limit=LimitSettings(initial=20))
    for end in ("answered", "failed", "late"):
        tickets = _taken(gate, "interactive", 12) + _taken(gate, "other", 8)
        if not gate.pressed:
            assert _why(gate.arrive("interactive")) == "limit"
        for ticket in tickets:
            ticket.answered, ticket.late = end == "answered", end == "late"
            ticket.done()
        assert gate.in_flight == {"interactive": 0, "batch": 0, "other": 0}


def test_beyond_the_burst_the_limit_holds() -> None:
    gate, _ = _gate(burst_max=10, limit=LimitSettings(initial=4))
    tickets = _taken(gate, "interactive", 10)
    assert not gate.pressed
    assert _why(gate.arrive("interactive")) == "limit"
    assert gate.pressed
    for ticket in tickets[:6]:
        ticket.done()
    assert _why(gate.arrive("interactive")) == "limit"
    for ticket in tickets[6:]:
        ticket.done()
    _taken(gate, "interactive", 1)


@pytest.mark.parametrize(
    ("interactive", "batch", "other", "lane", "why"),
    [
        (0, 0, 0, "batch", ""),
        (4, 0, 0, "batch", ""),
        (5, 0, 0, "batch", "batch_share"),
        (3, 2, 0, "batch", "batch_share"),
        (0, 5, 0, "batch", "batch_share"),
        (5, 0, 0, "interactive", ""),
        (5, 4, 0, "interactive", ""),
        (5, 5, 0, "interactive", "limit"),
        (10, 0, 0, "interactive", "limit"),
        (10, 0, 0, "other", ""),
        (0, 0, 5, "other", "other_share"),
        (5, 0, 5, "interactive", "limit"),
        (0, 0, 5, "batch", "batch_share"),
    ],
)
def test_who_finds_room_among_ten(interactive: int, batch: int, other: int, lane: Lane, why: str) -> None:
    gate, _ = _gate(burst_max=10, limit=LimitSettings(initial=10))
    # Batches first: they are taken only while there is much room.
    _taken(gate, "batch", batch)
    _taken(gate, "other", other)
    _taken(gate, "interactive", interactive)
    found = gate.arrive(lane)
    assert _why(found) == why
    if isinstance(found, Refused):
        assert gate.refusals[lane, found.why] == 1
        assert found.retry_s is not None and 0 < found.retry_s <= 30


def test_in_the_smallest_room_a_batch_alone_is_taken() -> None:
    gate, _ = _gate(burst_max=1, limit=LimitSettings(initial=1, least=1))
    (ticket,) = _taken(gate, "batch", 1)
    assert _why(gate.arrive("batch")) == "batch_share"
    ticket.done()
    _taken(gate, "batch", 1)


def test_batches_are_shed_first_and_interactive_calls_keep_their_time() -> None:
    alone = SimulatedServer(GateSettings(burst_max=100))
    alone.run(2, {"interactive": 700})
    without = alone.run(8, {"interactive": 700})
    both = SimulatedServer(GateSettings(burst_max=100))
    both.run(2, {"interactive": 700, "batch": 1500})
    loaded = both.run(8, {"interactive": 700, "batch": 1500})
    offered: dict[Lane, float] = {"interactive": 700 * 8, "batch": 1500 * 8}
    assert loaded.answered["interactive"] / offered["interactive"] > 2 * loaded.answered["batch"] / offered["batch"]
    assert loaded.p99_s < 3 * without.p99_s


@pytest.mark.parametrize("interactive", [100, 300, 500])
def test_batches_do_not_starve_at_moderate_load(interactive: int) -> None:
    server = SimulatedServer(GateSettings())
    server.run(2, {"interactive": interactive, "batch": 200})
    found = server.run(6, {"interactive": interactive, "batch": 200})
    assert found.answered["batch"] > 0.9 * 200 * 6
    assert not [key for key in found.refused if key[0] == "interactive"]


@pytest.mark.parametrize("pressed_by", [1500, 3000])
def test_reads_and_writes_have_a_place_under_pressure(pressed_by: int) -> None:
    server = SimulatedServer(GateSettings())
    server.run(2, {"interactive": pressed_by, "other": 50})
    found = server.run(5, {"interactive": pressed_by, "other": 50})
    assert found.answered["other"] > 0.8 * 50 * 5


def test_the_delay_is_longer_the_more_are_refused_and_never_the_same_for_all() -> None:
    delays = {}
    for factor in (1.5, 3.0):
        server = SimulatedServer(GateSettings())
        server.run(2, {"interactive": 1000 * factor})
        found = server.run(3, {"interactive": 1000 * factor}).retry_s
        delays[factor] = sum(found) / len(found)
        assert all(0.05 <= delay <= 30 for delay in found)
        assert max(found) > 2 * min(found)
    assert delays[3.0] > 1.5 * delays[1.5]


def test_a_refused_call_leaves_the_quota_as_it_was() -> None:
    gate, _ = _gate(burst_max=1, limit=LimitSettings(initial=1, least=1), quota=QuotaSettings({"default": 3.0}, 1.0))
    _taken(gate, "interactive", 1)
    assert [_why(gate.arrive("interactive")) for _ in range(5)] == ["limit"] * 5
    assert gate.quotas.take("", 2, 100.0) == 0.0


def test_a_quota_refuses_with_the_time_until_there_is_more() -> None:
    gate, clock = _gate(quota=QuotaSettings({"bank": 2.0}, burst_s=1.0))
    assert isinstance(gate.arrive("interactive", "bank"), Ticket)
    assert isinstance(gate.arrive("interactive", "bank"), Ticket)
    found = gate.arrive("interactive", "bank")
    assert isinstance(found, Refused) and found.why == "quota"
    assert found.retry_s == pytest.approx(0.75)
    assert gate.quota_refused == {"bank": 1}
    clock.now_s += 0.75
    assert isinstance(gate.arrive("interactive", "bank"), Ticket)
    # Other calls are no decisions.
    assert isinstance(gate.arrive("other", "bank", 0), Ticket)


def test_a_batch_is_charged_for_its_items_once_they_are_known() -> None:
    gate, _ = _gate(quota=QuotaSettings({"bank": 10.0}, burst_s=1.0))
    first = gate.arrive("batch", "bank")
    assert isinstance(first, Ticket) and first.charge(8) is None
    second = gate.arrive("batch", "bank")
    assert isinstance(second, Ticket)
    found = second.charge(8)
    assert found is not None and found.why == "quota" and found.retry_s


def test_deadlines_that_cannot_be_met_are_told_at_once() -> None:
    gate, clock = _gate()
    for _ in range(20):
        (ticket,) = _taken(gate, "interactive", 1)
        clock.now_s += 0.010
        ticket.answered = True
        ticket.done()
    waiting = _taken(gate, "interactive", 10)
    assert waiting[0].can_wait(0.012)
    assert not waiting[0].can_wait(0.001)
    assert waiting[0].refused == Refused("deadline", None)
    # Ten milliseconds each for nine that are ahead.
    assert waiting[9].can_wait(0.2)
    assert not waiting[9].can_wait(0.02)
    assert waiting[9].refused is not None and waiting[9].refused.why == "deadline_queue"
    assert waiting[5].can_begin(0.012)
    assert not waiting[5].can_begin(0.001)
    assert gate.refusals["interactive", "deadline"] == 2
    assert gate.refusals["interactive", "deadline_queue"] == 1


def test_a_deadline_that_nobody_could_meet_does_not_move_the_limit() -> None:
    gate, clock = _gate(limit=LimitSettings(initial=20))
    (ticket,) = _taken(gate, "interactive", 1)
    clock.now_s += 0.010
    ticket.answered = True
    ticket.done()
    for _ in range(20):
        clock.now_s += 1.0
        (ticket,) = _taken(gate, "interactive", 1)
        assert not ticket.can_begin(0.001)
        ticket.done()
    assert gate.limit.level == 20
    # One that has waited its time away does.
    for _ in range(5):
        clock.now_s += 1.0
        (ticket,) = _taken(gate, "interactive", 1)
        clock.now_s += 0.5
        assert not ticket.can_begin(0.001)
        ticket.done()
    assert gate.limit.level < 20


def test_a_message_of_a_stream_waits_for_room_and_not_for_ever() -> None:
    gate = Gate(GateSettings(burst_max=4, limit=LimitSettings(initial=2, least=1)), time.monotonic)
    held = _taken(gate, "interactive", 2)
    found = gate.enter("batch", "", patience_s=0.02)
    assert isinstance(found, Refused) and found.why == "batch_share"
    assert gate.refusals["batch", "batch_share"] == 1

    def leave() -> None:
        for ticket in held:
            ticket.done()

    timer = threading.Timer(0.05, leave)
    timer.start()
    found = gate.enter("batch", "", patience_s=30.0)
    assert isinstance(found, Ticket)
    timer.join()
    assert gate.refusals["batch", "batch_share"] == 1


def test_threads_that_come_and_go_at_once_leave_nothing_behind() -> None:
    gate = Gate(GateSettings(burst_max=8), time.monotonic)
    taken = []

    def come_and_go() -> None:
        for _ in range(500):
            found = gate.arrive("interactive")
            if isinstance(found, Ticket):
                taken.append(1)
                found.answered = True
                found.done()

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.in_flight["interactive"] == 0
    assert len(taken) + sum(gate.refusals.values()) == 8 * 500


def test_the_first_of_a_group_is_no_lone_call() -> None:
    """Calls that are decided together are answered together: nobody came before the first, and others after it."""
    gate, clock = _gate()
    (lone,) = _taken(gate, "interactive", 1)
    clock.now_s += 0.001
    lone.answered = True
    lone.done()
    assert gate.limit.alone_s == pytest.approx(0.001)
    for _ in range(50):
        group = _taken(gate, "interactive", 8)
        clock.now_s += 0.008
        for ticket in group:
            ticket.answered = True
            ticket.done()
    assert gate.limit.alone_s == pytest.approx(0.001)
    # Eight at once take eight times as long, and the limit has fallen.
    assert gate.limit.level < 8
