"""Hosts that share a real Redis: a retry on another host gets the first answer, whatever becomes of the first host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from assay.decision.v1.decision_pb2 import Application
from tests.support.redis_servers import RedisServer
from tests.support.shared_claims_worker import Worker

PAYLOAD = Application(product="tiny_loan", term_months=12).SerializeToString()
OTHER = Application(product="tiny_loan", term_months=24).SerializeToString()
# Longer than a busy machine takes between two steps, and short enough to be waited for.
LEASE_S = 1.5
HELD = ("held", "")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


class Hosts:
    """Hosts by name, each with a directory of its own, which it finds again when it comes back."""

    def __init__(self, root: Path, redis: RedisServer, stack: ExitStack) -> None:
        self._root, self._redis, self._stack = root, redis, stack

    def start(self, name: str, **settings: object) -> Worker:
        (self._root / name).mkdir(exist_ok=True)
        made = Worker(self._root / name, "w0", **{"redis": self._redis.address, "lease_s": LEASE_S, **settings})
        return self._stack.enter_context(made)


@pytest.fixture
def hosts(tmp_path: Path, redis: RedisServer) -> Iterator[Hosts]:
    redis.admin().flushall()
    with ExitStack() as stack:
        yield Hosts(tmp_path, redis, stack)


def test_two_hundred_duplicates_over_four_hosts_are_decided_once(hosts: Hosts) -> None:
    workers = [hosts.start(name, lease_s=20.0) for name in "abcd"]
    for i in range(2):
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda w, i=i: w.decide(f"r-{i}", PAYLOAD, 50), workers))
        outcomes = [one for some in found for one in some]
        assert len(outcomes) == 200
        assert [what for what, _ in outcomes].count("fresh") == 1, outcomes
        assert {what for what, _ in outcomes} == {"fresh", "stands"}
        assert len({which for _, which in outcomes}) == 1
    assert sum(len(worker.ask(do="recorded")) for worker in workers) == 2


def test_what_differs_is_said_where_the_first_application_can_be_read(hosts: Hosts) -> None:
    first, second = hosts.start("a"), hosts.start("b")
    ((what, given),) = first.decide("r", PAYLOAD)
    assert what == "fresh"
    assert second.decide("r", PAYLOAD) == [("stands", given)]
    assert first.decide("r", OTHER) == [("reused", "application.term_months")]
    assert second.decide("r", OTHER) == [("reused", "")]
    assert second.ask(do="recorded") == []


def test_a_host_stopped_beyond_its_lease_gives_the_others_answer(hosts: Hosts, redis: RedisServer) -> None:
    """Stopped before its record was written, it writes none; stopped after, the record is noted as one that nobody was
    given: its late settle failed."""
    first, second = hosts.start("a"), hosts.start("b")
    assert first.hold("early", PAYLOAD) == first.hold("late", PAYLOAD) == HELD
    what, late = first.commit("late")
    assert what == "committed"
    first.pause()
    try:
        ((what, given_early),) = second.decide("early", PAYLOAD)
        assert what == "fresh"
        ((what, given_late),) = second.decide("late", PAYLOAD)
        assert what == "fresh"
    finally:
        first.resume()
    assert first.commit("early") == ("stands", given_early)
    assert first.finish("late") == ("stands", given_late)
    assert first.decide("late", PAYLOAD) == second.decide("late", PAYLOAD) == [("stands", given_late)]
    assert first.ask(do="recorded") == [late]
    assert first.ask(do="counters")["superseded_known"] == 1
    # Even when the store has forgotten which one stands, the late one does not take its place.
    redis.admin().flushall()
    assert first.decide("late", PAYLOAD) == [("refused", "RECORD_FAILED")]


def test_after_a_host_died_the_others_go_on_and_it_finds_its_way_back(hosts: Hosts) -> None:
    """It held one request, and had recorded two without settling them; one of those was decided elsewhere meanwhile."""
    first, second = hosts.start("a"), hosts.start("b")
    for request_id in ("held", "kept", "lost"):
        assert first.hold(request_id, PAYLOAD) == HELD
    _, kept = first.commit("kept")
    _, lost = first.commit("lost")
    second.ready()
    first.kill()
    assert second.decide("held", PAYLOAD)[0][0] == "fresh"
    ((what, given),) = second.decide("lost", PAYLOAD)
    assert what == "fresh"
    assert second.ask(do="counters")["store_lapsed_taken"] == 2

    again = hosts.start("a")
    assert again.ask(do="reconcile") == 1
    assert second.decide("kept", PAYLOAD) == again.decide("kept", PAYLOAD) == [("stands", kept)]
    assert second.decide("lost", PAYLOAD) == again.decide("lost", PAYLOAD) == [("stands", given)]
    assert sorted(again.ask(do="recorded")) == sorted([kept, lost])
    # Told once: the next pass leaves it out.
    assert again.ask(do="reconcile") == 0


def test_without_its_store_a_host_refuses_or_goes_on_alone_as_it_was_told(hosts: Hosts, redis: RedisServer) -> None:
    strict, easy = hosts.start("a"), hosts.start("b", on_failure="host")
    assert strict.decide("before", PAYLOAD)[0][0] == easy.decide("before too", PAYLOAD)[0][0] == "fresh"
    redis.kill()
    try:
        assert strict.decide("r", PAYLOAD) == [("refused", "STORE_UNAVAILABLE")]
        ((what, given),) = easy.decide("r", PAYLOAD)
        assert what == "fresh"
        assert easy.decide("r", PAYLOAD) == [("stands", given)]
        counted = easy.ask(do="counters")
        assert counted["store_unshared"] == counted["store_unsettled"] == 1
    finally:
        redis.start()
    # What was decided alone is told to the others once the store is back.
    easy.ask(do="start_reconciling")
    end_s = time.monotonic() + 60.0
    while not easy.ask(do="settled"):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    assert strict.decide("r", PAYLOAD) == [("stands", given)]
