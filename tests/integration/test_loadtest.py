"""The load tests themselves, against a real server: each driver, each way that a run can end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from loadtest import population
from loadtest.asks import ASKS
from loadtest.prepare import prepare
from loadtest.rpcs import methods
from loadtest.scenario import Population
from loadtest.sending import send
from loadtest.server import free_port
from loadtest.target import Target
from loadtest.world import World
from tests.support.bundles import BUNDLE
from tests.support.loadtests import PATIENT, at_once, check, environment, loadtest, open_scenario, result_of
from tests.support.server import ROOT, ServerProcess


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with an AdminService, and the rows of the small population."""
    home = tmp_path_factory.mktemp("loadtest-server")
    admin = f"127.0.0.1:{free_port()}"
    server = ServerProcess(
        home,
        settings={"ASSAY_ADMIN_ADDRESS": admin, "ASSAY_ADMIN_BUNDLE_DIRECTORIES": str(BUNDLE.parent)},
    )
    try:
        server.wait_ready()
        yield Target(server.address, admin, bundle_path=str(BUNDLE))
    finally:
        server.stop(signal.SIGKILL)


def test_everything_that_can_be_asked_is_answered(server: Target) -> None:
    people = population.generate(Population(consumers=40, companies=10), time.time_ns() // 1000)
    assert prepare(server, people, load_rows=True).rows == len(people.rows)
    world = World(people)
    world.bundle_path = server.bundle_path
    asked: dict[str, str] = {}
    with server.channel() as channel, server.channel(server.admin_address) as admin:
        stubs = methods(channel, admin)
        for name, make in ASKS.items():
            ask = make(world)
            sent = send(stubs, ask, 100.0)
            asked[name] = ask.rpc
            assert (sent.call.failure, dict(sent.call.found.errors)) == ("", {}), name
            assert sent.call.found.decisions == ask.decisions, name
            assert len(sent.call.answers_us) == (ask.decisions if ask.rpc == "DecideStream" else 0)
    # By now all that a call needs was there, so each was the call that it is named for.
    assert asked["get_decision"] == "GetDecision"
    assert asked["delete_subject"] == "DeleteSubject"
    assert asked["list_outcomes"] == "ListOutcomes"
    assert asked["rollback"] == "Rollback"


def test_an_attack_is_seen_by_the_server(server: Target) -> None:
    """What the attack shares is what the server counts: not only the ids of the requests are alike."""
    people = population.generate(Population(consumers=40, companies=10), time.time_ns() // 1000)
    world = World(people)
    with server.channel() as channel:
        stubs = methods(channel)
        for _ in range(60):
            assert send(stubs, ASKS["decide_attack"](world), 100.0).call.failure == ""
        request, decision_id = world.decided[-1]
        wanted = pb.GetDecisionRequest(decision_id=decision_id, view=pb.DECISION_VIEW_FULL)
        record = stubs["GetDecision"](wanted, timeout=100.0).record
    counted = {fact.feature: fact.value for fact in record.facts}
    assert counted["device_applications_count_24h"] > 5
    assert counted["device_applicants_distinct_7d"] > 5
    assert request.application.subject.id.startswith("lt-mule-")


def test_locust_in_several_processes(server: Target, tmp_path: Path) -> None:
    scenario = tmp_path / "mine.toml"
    scenario.write_text(
        f"""
name = "locust"
description = "a test"
warm_up_s = 1
{PATIENT}
[locust]
processes = 2
users = [
    {{ kind = "interactive_los", weight = 2 }},
    {{ kind = "batch_partner" }},
    {{ kind = "stream_partner" }},
    {{ kind = "velocity_attack" }},
    {{ kind = "mixed_products" }},
    {{ kind = "feature_writer" }},
    {{ kind = "outcome_sender" }},
]
shape = {{ kind = "steady", users = 8, duration_s = 5 }}
pause_min_s = 0.05
pause_max_s = 0.1
[limits]
error_max_ratio = 0.0
""",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    done = loadtest("run", scenario, "--address", server.address, "--out", out)
    assert done.code == 0, done.text
    assert str(out / "report.html") in done.text
    made = result_of(out)
    assert made["verdict"] == "passed"
    assert made["generator"]["processes"] == 2
    assert {"all", "Decide"} <= made["calls"].keys()
    every = made["calls"]["all"]
    assert every["calls"] == sum(calls["calls"] for rpc, calls in made["calls"].items() if rpc != "all") > 5
    assert sum(every["verdicts"].values()) == every["decisions"] > 5
    # Calls of the warm-up are drawn, and counted in nothing.
    drawn = sum(made["series"]["all"]["answered_rps"]) * made["interval_s"]
    assert drawn >= every["answered"]
    # Each process has its share of the users; it is known to within one user how large.
    assert 8 <= max(pair[1] for pair in made["gauges"]["users"] if pair) <= 10
    check(out / "report.html")


def test_an_open_loop_and_what_it_is_held_against(server: Target, tmp_path: Path) -> None:
    kept = open_scenario(tmp_path / "kept.toml", processes=2)
    first = loadtest("open", kept, "--address", server.address, "--out", tmp_path / "kept")
    assert first.code == 0, first.text
    made = result_of(tmp_path / "kept")
    every = made["calls"]["all"]
    # Poisson: 120 on average, with a spread of 11.
    assert 60 <= every["calls"] <= 180
    assert made["generator"]["unsent"] == 0
    assert every["service"]["count"] == every["latency"]["count"] == every["calls"]
    # From the moment that a call was due it takes at least as long as from its sending.
    assert every["latency"]["mean_ms"] >= every["service"]["mean_ms"]
    assert made["calls"]["DecideStream"]["answers"]["count"] == made["calls"]["DecideStream"]["decisions"]
    assert sum(made["offered_per_s"]) * made["interval_s"] == pytest.approx(120)
    check(tmp_path / "kept" / "report.html")

    # No server answers within a microsecond.
    broken = open_scenario(tmp_path / "broken.toml", limits="p50_max_ms = 0.001", duration_s=2)
    second = loadtest("open", broken, "--address", server.address, "--out", tmp_path / "broken", "--no-rows")
    assert second.code == 1, second.text
    assert "LIMITS BROKEN" in second.text
    again = at_once("report", tmp_path / "broken" / "result.json")
    assert again.code == 1

    # With this tolerance nothing is worse; the notes say that the scenarios differ.
    found = [tmp_path / name / "result.json" for name in ("kept", "broken")]
    compared = at_once("compare", *found, "--tolerance", "1000000", "--out", tmp_path / "compare.html")
    assert compared.code == 0, compared.text
    assert "the scenarios are not the same" in compared.text
    check(tmp_path / "compare.html")


def test_a_starved_generator_says_so(server: Target, tmp_path: Path) -> None:
    """The sending process is stopped again and again, as where it has no core: the figures are worthless, and the run
    says so, although no limit is broken."""
    scenario = open_scenario(tmp_path / "mine.toml", duration_s=5)
    line = [sys.executable, "-m", "loadtest", "open", str(scenario), "--address", server.address]
    line += ["--out", str(tmp_path / "out"), "--set", "generator.lag_p99_max_ms=100"]
    process = subprocess.Popen(line, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "arrivals at a fixed rate" not in said:
        line_said = process.stderr.readline()
        assert line_said, said
        said += line_said
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            workers = [one for one in psutil.Process(process.pid).children() if "loadtest.open_worker" in one.cmdline()]
            for worker in workers:
                worker.suspend()
            time.sleep(0.4)
            for worker in workers:
                worker.resume()
        time.sleep(0.4)
    said += process.stderr.read()
    assert process.returncode == 3, said
    made = result_of(tmp_path / "out")
    assert made["generator"]["lag"]["max_ms"] > 100
    assert all(one["kept"] for one in made["limits"])


def test_what_is_shed_is_no_error_and_is_asked_again(tmp_path: Path) -> None:
    """A server of its own with a small quota refuses many; users wait as long as they are told, and ask again."""
    scenario = tmp_path / "mine.toml"
    scenario.write_text(
        f"""
name = "shed"
description = "a test"
{PATIENT}
[server.settings]
ASSAY_ADMISSION_TENANT_RATES = "default=6"
ASSAY_ADMISSION_TENANT_BURST_S = "1"
[locust]
users = [{{ kind = "mixed_products" }}]
shape = {{ kind = "steady", users = 8, duration_s = 5 }}
pause_min_s = 0.0
pause_max_s = 0.1
[limits]
error_max_ratio = 0.0
shed_max_ratio = 0.0
""",
        encoding="utf-8",
    )
    done = loadtest("run", scenario, "--out", tmp_path / "out")
    # Shedding broke its own limit, and no other.
    assert done.code == 1, done.text
    made = result_of(tmp_path / "out")
    every = made["calls"]["all"]
    assert every["errors"] == 0
    assert every["reasons"] == {}
    assert every["shed"] == sum(every["shed_reasons"].values()) > 0
    assert "QUOTA_EXCEEDED" in every["shed_reasons"]
    assert every["decisions"] > 0
    # Whoever was refused waited and asked again, or had asked often enough.
    assert made["generator"]["retried"] > 0
    assert made["generator"]["retried"] + made["generator"]["gave_up"] == every["shed"]
    assert made["own_server"]
    # Its own server's own figures are there: from its metrics, and from the kernel.
    assert made["server"]["trouble"] == ""
    assert made["server"]["cpu_s"] > 0
    assert made["server"]["decisions"]
    check(tmp_path / "out" / "report.html")


def test_the_page_of_locust(server: Target, tmp_path: Path) -> None:
    port = free_port()
    # Tests that run in the background of a shell ignore this signal, and so would all that they start.
    line = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "loadtest",
        "ui",
        "products",
        "--address",
        server.address,
        "--port",
        str(port),
    ]
    small = ["--set", "population.consumers=40", "--set", "population.companies=10", "--set", "timeout_ms=60000"]
    log = (tmp_path / "ui.log").open("w")
    process = subprocess.Popen([*line, *small], env=environment(), cwd=ROOT, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 150
        while True:
            assert process.poll() is None, (tmp_path / "ui.log").read_text()
            assert time.monotonic() < until
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(base, timeout=5) as page,
            ):
                assert "locust" in page.read().decode().lower()
                break
            time.sleep(0.2)
        form = urllib.parse.urlencode({"user_count": 2, "spawn_rate": 2}).encode()
        with urllib.request.urlopen(f"{base}/swarm", form, timeout=10) as answer:
            assert json.load(answer)["success"]
        while True:
            assert time.monotonic() < until
            with urllib.request.urlopen(f"{base}/stats/requests", timeout=10) as answer:
                stats = json.load(answer)["stats"]
            if any(row["name"] == "Decide" and row["num_requests"] > 3 for row in stats):
                assert not any(row["num_failures"] for row in stats)
                break
            time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        log.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "no_such_scenario"], "there is no scenario"),
        (["open", "interactive"], "Locust users"),
        (["run", "smoke", "--address", "127.0.0.1:1"], "--admin-address"),
        (["open", "steady_open", "--set", "open.arrivals=never"], "open.arrivals"),
        (["compare", "README.md", "README.md"], "cannot be read as a result"),
    ],
)
def test_what_cannot_run_says_why(arguments: list[str], said: str) -> None:
    done = at_once(*arguments)
    assert done.code == 2
    assert said in done.text


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    scenario = open_scenario(tmp_path / "mine.toml")
    done = loadtest("open", scenario, "--address", f"127.0.0.1:{free_port()}", "--out", tmp_path / "out")
    assert done.code == 2
    assert "no server is ready" in done.text
    assert "Traceback" not in done.text
    assert not (tmp_path / "out").exists()
