"""Everything that can be asked of the services is asked: by users, and by arrivals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as decision
from engine.bundle.load import default_bundle, load_bundle
from loadtest import grpc_errors, population
from loadtest.answers import Found
from loadtest.asks import ASKS
from loadtest.loads import USER_KINDS
from loadtest.rpcs import RPCS
from loadtest.scenario import Population
from loadtest.server_metrics import parse
from loadtest.world import World

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", name="people")
def _people() -> population.Population:
    return population.generate(Population(consumers=60, companies=20), time.time_ns() // 1000)


def test_every_rpc_of_every_proto_is_asked(people: population.Population) -> None:
    declared = {
        line.split()[1].partition("(")[0]
        for file in (ROOT / "protos").rglob("*_service.proto")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith("rpc ")
    }
    assert set(RPCS) == declared
    world = World(people, "t", 1)
    world.decided.append((world.consumer(), "decision-1"))
    world.outcomes.append("outcome-1")
    world.erasable.append("somebody")
    world.digest, world.bundle_path = "sha256:00", "models/lending"
    assert {make(world).rpc for make in ASKS.values()} == declared


def test_users_ask_for_everything_in_shapes_and_gevent_stays_in_their_own_process() -> None:
    """Locust patches the process that imports it: the rest of the package must not, and does not."""
    script = """
import json, sys
import loadtest.cli, loadtest.runner, loadtest.open_worker, loadtest.locust_driver
before = sorted(name for name in sys.modules if name.partition(".")[0] in ("locust", "gevent"))
import inspect, re
from loadtest import users
asked = {kind: re.findall(r'self\\.ask\\("(\\w+)"\\)', inspect.getsource(made)) for kind, made in users.KINDS.items()}
from loadtest import loads, shapes
spike = loads.Spike(kind="spike", users=3, spike_users=9, before_s=2, spike_s=2, after_s=2)
soak = loads.Soak(kind="soak", users=10, ramp_s=5, hold_s=10)
ramp = loads.Ramp(kind="ramp", users=10, over_s=5, hold_s=1)
shaped = []
for wanted in (spike, soak, ramp):
    shape = shapes.shape_class(wanted)()
    ticks = []
    for second in range(int(wanted.duration_s) + 1):
        shape.get_run_time = lambda: second
        tick = shape.tick()
        ticks.append(None if tick is None else tick[0])
    shaped.append(ticks)
print(json.dumps([before, asked, shaped]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    before, asked, shaped = json.loads(done.stdout)
    assert before == []
    # How many users each shape wants second by second; None ends the run.
    assert shaped == [
        [3, 3, 9, 9, 3, 3, None],
        [1, 2, 4, 6, 8, *[10] * 11, 8, 6, 4, 2, None],
        [1, 2, 4, 6, 8, 10, None],
    ]
    assert set(asked) == set(USER_KINDS)
    assert all(names and set(names) <= ASKS.keys() for names in asked.values())
    # By name: what is not an operator's or a variant of another is asked by some user.
    variants = {"decide_any"}
    assert {name for names in asked.values() for name in names} == ASKS.keys() - variants
    assert not any(name.partition(".")[0] in ("locust", "gevent") for name in sys.modules)


def test_the_population_asks_for_every_product_of_the_shipped_bundle(people: population.Population) -> None:
    assert population.needed_flows(people) == set(load_bundle(default_bundle(), scenarios=False).plan.flows)


def test_the_population_is_the_same_everywhere(people: population.Population, tmp_path: Path) -> None:
    again = population.generate(Population(consumers=60, companies=20), time.time_ns() // 1000)
    assert again.consumers == people.consumers
    assert again.companies == people.companies
    population.save(people, tmp_path / "population.bin")
    read = population.read(tmp_path / "population.bin")
    assert (read.consumers, read.companies) == (people.consumers, people.companies)
    views = {row.view for row in people.rows}
    assert {"credit_file", "applicant_file", "business_file", "device_profile"} <= views
    # Counters are the engine's own, and refused of anybody else.
    assert not any(view.endswith("_velocity") for view in views)


def test_an_attack_shares_devices_phones_and_addresses(people: population.Population) -> None:
    world = World(people, "t", 1)
    requests = [world.attacker() for _ in range(200)]
    seen: dict[str, set[str]] = {}
    for request in requests:
        for entity in request.application.entities:
            seen.setdefault(entity.entity, set()).add(entity.id)
    assert {name: len(seen[name]) for name in ("device", "phone", "address", "ip")} == {
        "device": 3,
        "phone": 5,
        "address": 4,
        "ip": 4,
    }
    assert len({request.application.subject.id for request in requests}) == 200
    assert len({request.request_id for request in requests}) == 200


def failed(code: int, reason: str, retry_s: float | None = None) -> status_pb2.Status:
    """A status as the engine sends it."""
    status = status_pb2.Status(code=code, message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="assay.decision.v1"))
    if retry_s is not None:
        delay = duration_pb2.Duration(nanos=round(retry_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def test_errors_are_read_as_their_reasons() -> None:
    shed = grpc_errors.of_status(failed(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", 0.25))
    assert (shed.reason, shed.shed, shed.retry_after_s) == ("OVERLOADED", True, 0.25)
    broken = grpc_errors.of_status(failed(code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE"))
    assert (broken.reason, broken.shed, broken.retry_after_s) == ("STORE_UNAVAILABLE", False, None)
    bare = grpc_errors.of_status(status_pb2.Status(code=code_pb2.INTERNAL))
    assert bare.reason == "INTERNAL (no ErrorInfo)"


def test_items_of_a_batch_are_read_one_by_one() -> None:
    answer = decision.DecideBatchResponse()
    for verdict in (decision_pb2.VERDICT_APPROVE, decision_pb2.VERDICT_APPROVE, decision_pb2.VERDICT_REFER):
        answer.items.add().decision.MergeFrom(decision_pb2.Decision(decision_id="1", verdict=verdict))
    answer.items.add().error.CopyFrom(failed(code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"))
    answer.items.add().error.CopyFrom(failed(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", 0.5))
    # An empty answer is no decision, whatever the status of the call.
    answer.items.add().decision.SetInParent()
    found = Found()
    found.read("DecideBatch", answer)
    assert found.verdicts == {"APPROVE": 2, "REFER": 1}
    assert found.errors == {"INVALID_REQUEST": 1, "EMPTY_DECISION": 1}
    assert (found.decisions, found.shed, found.retry_after_s) == (3, {"OVERLOADED": 1}, 0.5)


def test_metrics_are_read() -> None:
    page = (
        '# HELP a b\na_total{x="1",flow="a\\"b"} 3 # {trace_id="0"} 1\nb 4.5\nnot a line\nc{le="+Inf"} 7 1700000000\n'
    )
    assert parse(page) == {
        ("a_total", (("flow", 'a\\"b'), ("x", "1"))): 3,
        ("b", ()): 4.5,
        ("c", (("le", "+Inf"),)): 7,
    }
