"""The whole server killed at full load, again and again: what a client was given is there, once, and is replayed."""

from __future__ import annotations

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from engine.record.keys import request_key
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.verify import verify
from tests.support.applications import all_ids, consumer, load_rows
from tests.support.served_commands import assay, assert_journal_is_whole
from tests.support.served_load import TIMEOUT_S, Kind, Load, applications_of, as_given
from tests.support.server import Client, ServerProcess, open_store, running

ROUNDS = 20
KINDS: tuple[Kind, ...] = ("decide", "decide", "decide", "decide", "batch", "stream")
DEVICES = 3
_BATCH = 200


class Lender:
    """Who asks a server that is killed, and what it was told.

    given: the first answer to each request id; without: requests that were sent and not answered; by_round: how many
    decisions were given in each round; cut: torn tails that were reported.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.given: dict[str, tuple[pb.DecideRequest, decision_pb2.Decision]] = {}
        self.without: list[pb.DecideRequest] = []
        self.by_round: list[int] = []
        self.cut: list[str] = []
        self._numbers, self._lock = itertools.count(), threading.Lock()

    def make(self) -> pb.DecideRequest:
        """A request of somebody good, or of somebody unknown, for much or little."""
        with self._lock:
            n = next(self._numbers)
        subject = f"good-{n % 20}" if n % 3 else f"unknown-{n}"
        made = consumer(subject, request_id=f"kill-{n}", amount=1000 + 50 * (n % 700), term_months=(24, 36)[n % 2])
        for entity in made.application.entities:
            if entity.entity == "device":
                entity.id = device(n)
        return made

    def round(self, chance: random.Random) -> None:
        """Starts the server, asks again what it was asked before it was killed, and kills it under load."""
        with running(self.home) as (server, client):
            self.note_recovery(server)
            last = list(self.given)[-self.by_round[-1] :] if self.by_round else []
            self.hold_against(client, last)
            # Those without an answer ask again: what they asked may have been decided, or not.
            again, self.without = self.without, []
            for request, answer in zip(again, ask_again(client, again), strict=True):
                self.given[request.request_id] = request, as_given(answer, replayed=False)
            with Load(server.address, self.make, KINDS, once_failed="end") as load:
                load.wait(20)
                time.sleep(chance.uniform(0.0, 0.3))
                server.stop(signal.SIGKILL)
            assert "Traceback" not in server.output, server.output
        for failure, requests in load.failed:
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, ""), failure
            self.without += requests
        for told in load.told:
            assert not told.decision.replayed
            self.given[told.request.request_id] = told.request, told.decision
        self.by_round.append(len(load.told))
        # As the killed server left it, before another one mends anything.
        for report in verify(self.home / "decisions", self.master.heads, processes=1):
            assert report.is_whole, report.findings

    def note_recovery(self, server: ServerProcess) -> None:
        """A torn tail may be met and is cut; anything else that does not check out would be damage."""
        (said,) = (json.loads(line) for line in server.lines if '"journal open"' in line)
        assert said["damage"] == []
        self.cut += said["torn_tails_cut"]

    def hold_against(self, client: Client, request_ids: Sequence[str]) -> None:
        """Every decision that was given is found by its id, and given again for its request."""
        given = [self.given[request_id] for request_id in request_ids]

        def find(decision_id: str) -> decision_pb2.Decision:
            wanted = pb.GetDecisionRequest(decision_id=decision_id, view=pb.DECISION_VIEW_BASIC)
            return client.stub.GetDecision(wanted, timeout=TIMEOUT_S).decision

        with ThreadPoolExecutor(8) as pool:
            found = pool.map(find, [decision.decision_id for _, decision in given])
        again = ask_again(client, [request for request, _ in given])
        for (_, first), by_id, repeated in zip(given, found, again, strict=True):
            assert by_id == as_given(first, replayed=True)
            assert repeated == as_given(first, replayed=True)

    @property
    def master(self) -> MasterKey:
        """The key of the lender's journal."""
        return MasterKey.read(self.home / "var" / "master.key")


def device(n: int) -> str:
    """The device that an applicant uses."""
    return f"device-{n % DEVICES}"


def ask_again(client: Client, requests: Sequence[pb.DecideRequest]) -> list[decision_pb2.Decision]:
    """The answers to requests, by batches."""
    found: list[decision_pb2.Decision] = []
    for at in range(0, len(requests), _BATCH):
        batch = pb.DecideBatchRequest(requests=requests[at : at + _BATCH])
        for item in client.stub.DecideBatch(batch, timeout=TIMEOUT_S).items:
            assert item.HasField("decision"), item
            found.append(item.decision)
    return found


def tally(ids: Iterable[str]) -> list[str]:
    """What is there more than once."""
    return [one for one, count in Counter(ids).items() if count > 1]


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Lender:
    """A lender whose server was killed so many times, and is down."""
    lender, chance = Lender(tmp_path_factory.mktemp("killed")), random.Random(5)
    with open_store(lender.home) as store:
        for n in range(20):
            load_rows(store, all_ids(f"good-{n}"))
    for _ in range(ROUNDS):
        lender.round(chance)
    return lender


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_20_times_at_full_load_nothing_is_lost_and_nothing_is_twice(lender: Lender) -> None:
    assert len(lender.by_round) == ROUNDS
    assert all(count > 0 for count in lender.by_round)
    print(f"{sum(lender.by_round)} decisions in {ROUNDS} rounds: {lender.by_round}; torn tails cut: {lender.cut}")
    verdicts = Counter(decision.verdict for _, decision in lender.given.values())
    assert len(verdicts) > 1, verdicts

    with running(lender.home) as (server, client):
        lender.note_recovery(server)
        lender.hold_against(client, list(lender.given))
        for request, answer in zip(lender.without, ask_again(client, lender.without), strict=True):
            lender.given[request.request_id] = request, as_given(answer, replayed=False)
        lender.without = []
        sent = Counter(
            entity.id
            for request, _ in lender.given.values()
            for entity in request.application.entities
            if entity.entity == "device"
        )
        # Every application was counted, and none twice, whichever server counted it.
        assert {name: applications_of(client, name) for name in sent} == sent
        assert server.stop() == 0

    kept = list(JournalReader(lender.home / "decisions").decisions())
    assert tally(stored.decision_id for stored in kept) == []
    assert tally(stored.request_key.hex() for stored in kept) == []
    by_request = {stored.request_key: stored.decision_id for stored in kept}
    for request_id, (_, decision) in lender.given.items():
        assert by_request[request_key("", request_id)] == decision.decision_id
    # Nobody decided what nobody asked for: what is there besides was asked just now.
    assert len(kept) == len(lender.given) + DEVICES
    assert_journal_is_whole(lender.home)


@pytest.mark.timeout(900)
def test_what_the_killed_servers_decided_is_replayed_without_a_difference(lender: Lender) -> None:
    decisions = len(list(JournalReader(lender.home / "decisions").decisions()))
    journal, key = lender.home / "decisions", lender.home / "var" / "master.key"
    report = lender.home / "replay.json"
    words = ("replay", "--journal", str(journal), "--master-key", str(key), "--json", str(report))
    done = assay(lender.home, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text("utf-8"))
    assert (told["identical"], told["different"]) == (decisions, 0), done.stdout
