"""Worker processes of one host: one request id, one decision, whatever happens to the worker that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from assay.decision.v1.decision_pb2 import Application
from tests.support.shared_claims_worker import Outcome, Worker

PAYLOAD = Application(product="tiny_loan", term_months=12).SerializeToString()
OTHER = Application(product="tiny_loan", term_months=24).SerializeToString()
HELD = ("held", "")


def start(stack: ExitStack, directory: Path, *names: str) -> list[Worker]:
    made = [stack.enter_context(Worker(directory, name)) for name in names]
    return [worker.ready() for worker in made]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    """Four that nobody may kill."""
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("claims"), "w0", "w1", "w2", "w3")


def at_once(workers: list[Worker], request_id: str, payload: bytes, threads: int) -> list[Outcome]:
    with ThreadPoolExecutor(len(workers)) as pool:
        found = list(pool.map(lambda w: w.decide(request_id, payload, threads), workers))
    return [one for outcomes in found for one in outcomes]


def one_decision(outcomes: list[Outcome]) -> str:
    """The one id that all were given, one of them as the first."""
    assert {what for what, _ in outcomes} <= {"fresh", "stands"}, outcomes
    assert [what for what, _ in outcomes].count("fresh") == 1
    (decision_id,) = {which for _, which in outcomes}
    return decision_id


def test_two_hundred_duplicates_at_once_are_decided_once(workers: list[Worker]) -> None:
    before = workers[0].ask(do="recorded")
    given = set()
    for i in range(3):
        outcomes = at_once(workers, f"many-{i}", PAYLOAD, 50)
        assert len(outcomes) == 200
        given.add(one_decision(outcomes))
    assert len(given) == 3
    assert set(workers[0].ask(do="recorded")) == {*before, *given}


def test_what_one_worker_has_just_decided_every_other_finds_at_once(workers: list[Worker]) -> None:
    """The index lags by a fifth of a second; these do not wait for it."""
    before = len(workers[0].ask(do="recorded"))
    for i in range(40):
        ((what, given),) = workers[i % 4].decide(f"next-{i}", PAYLOAD)
        assert what == "fresh"
        assert workers[(i + 1) % 4].decide(f"next-{i}", PAYLOAD) == [("stands", given)]
        assert workers[(i + 2) % 4].decide(f"next-{i}", OTHER) == [("reused", "application.term_months")]
    assert len(workers[0].ask(do="recorded")) == before + 40


def test_a_worker_that_is_stopped_is_waited_for_however_long(workers: list[Worker]) -> None:
    """On one host nobody takes a claim from a process that lives: there is no lease that could run out."""
    workers[0].hold("slow", PAYLOAD)
    workers[0].pause()
    try:
        assert workers[1].decide("slow", PAYLOAD, deadline_s=0.5) == [("refused", "DECISION_IN_PROGRESS")]
    finally:
        workers[0].resume()
    _, given = workers[0].commit("slow")
    assert workers[0].finish("slow") == ("fresh", given)
    assert workers[1].decide("slow", PAYLOAD) == [("stands", given)]


def test_what_killed_workers_held_is_free_and_what_they_recorded_is_found(tmp_path: Path) -> None:
    """One is killed at work, one between its journal and the table: nobody was answered, and still what was recorded is
    the one decision."""
    with ExitStack() as stack:
        holder, recorder, third, fourth = start(stack, tmp_path, "w0", "w1", "w2", "w3")
        assert holder.hold("held", PAYLOAD) == HELD
        assert third.decide("held", PAYLOAD, deadline_s=0.2) == [("refused", "DECISION_IN_PROGRESS")]
        holder.kill()
        ((what, given),) = third.decide("held", PAYLOAD)
        assert what == "fresh"
        assert fourth.decide("held", PAYLOAD) == [("stands", given)]

        ids = [f"recorded-{i}" for i in range(30)]
        assert [recorder.hold(one, PAYLOAD) for one in ids] == [HELD] * 30
        for one in ids:
            recorder.send(do="commit", id=one)
        recorded = [recorder.receive()[1] for _ in ids]
        # At once: the last of them is in no index.
        recorder.kill()
        for one, decision_id in zip(reversed(ids), reversed(recorded), strict=True):
            assert third.decide(one, PAYLOAD) == [("stands", decision_id)]
        assert fourth.decide(ids[-1], OTHER) == [("reused", "application.term_months")]
        assert sorted(third.ask(do="recorded")) == sorted([*recorded, given])


def test_a_worker_in_a_dead_ones_place_forgets_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        victim, other = start(stack, tmp_path, "w0", "w1")
        decided = [victim.decide(f"d-{i}", PAYLOAD)[0][1] for i in range(20)]
        victim.hold("r", PAYLOAD)
        _, given = victim.commit("r")
        victim.kill()
        (late,) = start(stack, tmp_path, "w9")
        assert late.decide("r", PAYLOAD) == [("stands", given)]
        for i, one in enumerate(decided):
            assert other.decide(f"d-{i}", PAYLOAD) == [("stands", one)]
        assert sorted(other.ask(do="recorded")) == sorted([*decided, given])


def test_workers_killed_at_work_again_and_again_decide_nothing_twice(tmp_path: Path) -> None:
    """Every answer that anybody was given is the same, and its record is there."""
    given: dict[str, set[str]] = {}
    with Worker(tmp_path, "w0") as steady:
        for turn in range(3):
            ids = [f"t{turn}-{i}" for i in range(30)]
            with Worker(tmp_path, "w1") as victim:
                for request_id in ids:
                    victim.send(do="decide", id=request_id, payload="", threads=2, deadline_s=20.0)
                for request_id in ids[: 8 * (turn + 1)]:
                    given.setdefault(request_id, set()).update(which for _, which in victim.receive())
                victim.kill()
            for request_id in ids:
                ((_, which),) = steady.decide(request_id, b"")
                given.setdefault(request_id, set()).add(which)
        assert all(len(found) == 1 for found in given.values()), given
        assert sorted(which for found in given.values() for which in found) == sorted(steady.ask(do="recorded"))
