"""Several workers on one port: ready together, added up, changed together, restarted, replaced, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assay.decision.v1 import decision_service_pb2 as pb
from engine.bundle.load import load_bundle
from tests.support.applications import consumer, new_id
from tests.support.groups import all_serve, is_alive, metrics, page, pids, status, wait_for
from tests.support.served_lender import Asking, load_subjects
from tests.support.served_load import Load
from tests.support.server import Client, ServerProcess, environment, running
from tests.support.tiny import write_bundle

CLIENTS, SUBJECTS, APPLICATIONS = 12, 20, 120
ASKING = Asking(SUBJECTS)
SETTINGS = {
    "ASSAY_SERVER_WORKERS": "2",
    "ASSAY_SERVER_CONNECTION_AGE_S": "1",
    "ASSAY_SERVER_DRAIN_GRACE_S": "60",
}


@dataclass
class Group:
    """A server with two workers."""

    home: Path
    server: ServerProcess

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine.cli", *words],
            env=environment(self.home, settings=SETTINGS),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    home = tmp_path_factory.mktemp("group")
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    load_subjects(home, load_bundle(bundle, scenarios=False), SUBJECTS)
    with running(home, bundle, SETTINGS) as (server, _):
        yield Group(home, server)


def decide(address: str, calls: int) -> None:
    """Decides over many connections, which the kernel spreads over the workers. Gives the bundles that decided."""
    clients = [Client(address) for _ in range(CLIENTS)]
    try:
        for n in range(calls):
            clients[n % CLIENTS].stub.Decide(ASKING(), timeout=60)
    finally:
        for client in clients:
            client.close()


def test_all_workers_are_ready_when_the_server_says_so(group: Group) -> None:
    assert group.server.output.count("assay: ready") == 1
    workers = status(group.home)["workers"]
    assert [one["name"] for one in workers] == ["w0", "w1"]
    assert all(one["phase"] == "serving" for one in workers)
    assert sum(one["leads"] for one in workers) == 1
    for path in ("ready", "live", "healthz"):
        assert page(group.server, path) == (200, "ok\n")
    client = Client(group.server.address)
    health: Any = health_pb2_grpc.HealthStub(client.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    client.close()
    said = group.command("workers", "status")
    assert said.returncode == 0
    assert "w0  serving" in said.stdout and "w1  serving" in said.stdout


def test_one_page_counts_what_all_workers_decided(group: Group) -> None:
    before = metrics(group.server)
    decide(group.server.address, 60)
    after = metrics(group.server)
    assert after["assay_decisions_total"] - before.get("assay_decisions_total", 0.0) == 60
    assert after["assay_workers"] == after["assay_workers_serving"] == after["assay_workers_wanted"] == 2


def test_a_request_sent_to_both_workers_is_decided_once(group: Group) -> None:
    request = ASKING()
    clients = [Client(group.server.address) for _ in range(CLIENTS)]
    calls = [client.stub.Decide.future(request, timeout=60) for client in clients]
    assert len({call.result().decision.decision_id for call in calls}) == 1
    for client in clients:
        client.close()


def test_a_killed_worker_is_started_again_under_its_name(group: Group) -> None:
    before = metrics(group.server)
    gone, stays = pids(group.home)
    assert gone is not None
    with Load(group.server.address, ASKING, ["decide"] * 4) as load:
        load.wait(20)
        os.kill(gone, signal.SIGKILL)
        wait_for("the worker is started again", lambda: all_serve(group.home, [gone]))
        failed = len(load.failed)
        load.wait(40)
        assert len(load.failed) == failed, "calls fail while all workers serve"
    workers = status(group.home)["workers"]
    assert [one["name"] for one in workers] == ["w0", "w1"]
    assert workers[1]["pid"] == stays
    # What was on its way in the worker that died.
    assert {failure.code for failure, _ in load.failed} <= {grpc.StatusCode.UNAVAILABLE}
    after = metrics(group.server)
    assert after["assay_workers_ended_total"] == before["assay_workers_ended_total"] + 1
    for name in ("assay_decisions_total", "assay_requests_total", "process_cpu_seconds_total"):
        assert after.get(name, 0.0) >= before.get(name, 0.0), f"{name} went back"
    # Whatever was answered is found, whoever has it in its journal.
    client = Client(group.server.address)
    for told in [*load.told[:20], *load.told[-20:]]:
        wanted = pb.GetDecisionRequest(decision_id=told.decision.decision_id)
        assert client.stub.GetDecision(wanted, timeout=60).decision.request_id == told.request.request_id
    client.close()


def test_workers_are_replaced_under_load_and_no_call_fails(group: Group) -> None:
    before, counted = pids(group.home), metrics(group.server)["assay_decisions_total"]
    with Load(group.server.address, ASKING, ["decide", "decide", "decide", "batch"]) as load:
        load.wait(20)
        said = group.command("workers", "restart")
        load.wait(20)
    assert said.returncode == 0, said.stderr
    assert "2 workers replaced" in said.stdout
    assert load.failed == []
    assert group.server.output.count('"spared": true') == 2, "new connections went to a worker that was leaving"
    assert not set(before) & set(pids(group.home))
    assert [one["name"] for one in status(group.home)["workers"]] == ["w0b", "w1b"]
    assert metrics(group.server)["assay_decisions_total"] == counted + len(load.told)
    decide(group.server.address, 10)


def test_a_signal_replaces_workers_too_and_hang_up_ends_none(group: Group) -> None:
    before = pids(group.home)
    group.server.process.send_signal(signal.SIGHUP)
    wait_for("both read the levels again", lambda: group.server.output.count('"message": "log levels"') >= 3)
    assert pids(group.home) == before
    group.server.process.send_signal(signal.SIGUSR2)
    wait_for("all are replaced", lambda: all_serve(group.home, before))
    assert [one["name"] for one in status(group.home)["workers"]] == ["w0", "w1"]


def test_sigterm_drains_all_workers(group: Group) -> None:
    workers = pids(group.home)
    assert group.server.stop() == 0
    assert not any(is_alive(pid) for pid in workers if pid is not None)
    assert group.server.output.count('"message": "drained"') >= 2


def applications_told_of(client: Client, request: pb.DecideRequest) -> float:
    """How many earlier applications from its device a decision was told of."""
    wanted = pb.GetDecisionRequest(request_id=request.request_id, view=pb.DECISION_VIEW_FULL)
    facts = client.stub.GetDecision(wanted, timeout=60).record.facts
    (fact,) = (fact for fact in facts if fact.feature == "device_applications_count_24h")
    assert fact.HasField("value"), fact
    return fact.value


def test_workers_count_as_one_and_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, settings=SETTINGS) as (server, _):
        clients = [Client(server.address) for _ in range(6)]
        device, requests = new_id("device"), [consumer() for _ in range(APPLICATIONS)]
        for number, request in enumerate(requests):
            for entity in request.application.entities:
                if entity.entity == "device":
                    entity.id = device
            # Right behind the answer before, which mostly came from another worker.
            clients[number % len(clients)].stub.Decide(request, timeout=60)
        assert [applications_told_of(clients[0], request) for request in requests] == list(range(APPLICATIONS))
        for client in clients:
            client.close()
        workers = [pid for pid in pids(tmp_path) if pid is not None]
        server.process.kill()
        server.process.wait(30)
        wait_for("all workers end", lambda: not any(is_alive(pid) for pid in workers))
