"""What operators ask for is checked wholly, and every reason has its code."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from assay.admin.v1 import admin_service_pb2 as pb
from assay.admin.v1 import traffic_pb2
from assay.decision.v1.decision_pb2 import VERDICT_DECLINE, VERDICT_REFER
from engine.errors import BundleError, ConfigError, Problem, Refusal, RequestError
from engine.rpc.admin_access import is_loopback
from engine.rpc.admin_requests import author_of, flows_of
from engine.rpc.admin_server import AdminServerSettings, _check
from engine.rpc.admin_status import code_of, status_of
from engine.traffic.cutout import Level
from engine.traffic.model import ChangeKind

FLOW = "consumer_loan.application"


def _fields(call: object) -> dict[str, str]:
    assert callable(call)
    with pytest.raises(RequestError) as caught:
        call()
    return {violation.field: violation.description for violation in caught.value.violations}


def _experiment(*shares: int, name: str = "test") -> traffic_pb2.Experiment:
    arms = [traffic_pb2.Arm(name=f"arm{n}", bundle="12345678", share_basis_points=s) for n, s in enumerate(shares)]
    return traffic_pb2.Experiment(name=name, arms=arms)


def _faults(**parts: object) -> dict[str, str]:
    return _fields(lambda: flows_of([traffic_pb2.FlowTraffic(flow=FLOW, **parts)], str))  # type: ignore[arg-type]


# --- who and why --------------------------------------------------------------------------------------------------


def test_who_and_why_are_required() -> None:
    assert set(_fields(lambda: author_of(pb.Author(who=" ", why="\n"), ""))) == {"author.who", "author.why"}
    assert set(_fields(lambda: author_of(pb.Author(who="a" * 129, why="b" * 1001), ""))) == {"author.who", "author.why"}
    assert set(_fields(lambda: author_of(pb.Author(who="a\x07", why="b"), ""))) == {"author.who"}


def test_a_certificate_says_who() -> None:
    author = author_of(pb.Author(who="ann", why="better price", expected_generation=0), "release-bot")
    assert (author.who, author.on_behalf_of, author.authenticated) == ("release-bot", "ann", True)
    assert author.expected_generation == 0
    author = author_of(pb.Author(who="ann", why="better price"), "")
    assert (author.who, author.on_behalf_of, author.authenticated) == ("ann", "", False)
    assert author.expected_generation is None
    assert author_of(pb.Author(why="x"), "bot").who == "bot"


# --- flows --------------------------------------------------------------------------------------------------------


def test_a_whole_request_is_taken() -> None:
    message = traffic_pb2.FlowTraffic(
        flow=FLOW,
        experiment=_experiment(9_000, 1_000),
        shadows=[traffic_pb2.Shadow(name="next", bundle="abcdef01")],
        cut_out=traffic_pb2.CutOut(bounds=[traffic_pb2.RateBound(verdict=VERDICT_DECLINE, max=0.6)]),
    )
    found = flows_of([message], lambda digest: f"sha256:{digest}")[FLOW]
    assert found.experiment is not None and found.experiment.arms[1].bundle == "sha256:12345678"
    assert found.shadows[0].share == 10_000
    assert found.cut_out is not None
    assert (found.cut_out.window_s, found.cut_out.decisions_min, found.cut_out.fall_back) == (900, 100, False)
    assert message.experiment.arms[0].bundle == "12345678"  # the request is as it was


def test_every_fault_of_every_flow_is_told_at_once() -> None:
    bad = traffic_pb2.FlowTraffic(
        flow="no flow",
        experiment=traffic_pb2.Experiment(
            name="Bad",
            arms=[
                traffic_pb2.Arm(name="default", bundle="x", share_basis_points=9_000),
                traffic_pb2.Arm(name="2", share_basis_points=-1),
                traffic_pb2.Arm(name="2", share_basis_points=-1),
            ],
        ),
        shadows=[traffic_pb2.Shadow(name="", share_basis_points=0)],
        cut_out=traffic_pb2.CutOut(
            bounds=[
                traffic_pb2.RateBound(verdict=VERDICT_DECLINE, min=0.7, max=0.6),
                traffic_pb2.RateBound(verdict=VERDICT_DECLINE, max=float("nan")),
                traffic_pb2.RateBound(max=1.0),
                traffic_pb2.RateBound(verdict=VERDICT_REFER),
            ],
            window=Duration(seconds=1),
            trip_after=Duration(seconds=-1),
            decisions_min=0,
            margin=float("nan"),
        ),
    )
    good = traffic_pb2.FlowTraffic(flow=FLOW)
    fields = _fields(lambda: flows_of([bad, good, good], str))
    assert set(fields) == {
        "flows[0].flow",
        "flows[0].experiment.name",
        "flows[0].experiment.arms",
        "flows[0].experiment.arms[0].name",
        "flows[0].experiment.arms[1].name",
        "flows[0].experiment.arms[1].bundle",
        "flows[0].experiment.arms[1].share_basis_points",
        "flows[0].experiment.arms[2].name",
        "flows[0].experiment.arms[2].bundle",
        "flows[0].experiment.arms[2].share_basis_points",
        "flows[0].shadows[0].name",
        "flows[0].shadows[0].bundle",
        "flows[0].shadows[0].share_basis_points",
        "flows[0].cut_out.bounds",
        "flows[0].cut_out.bounds[0]",
        "flows[0].cut_out.bounds[1]",
        "flows[0].cut_out.bounds[2].verdict",
        "flows[0].cut_out.bounds[3]",
        "flows[0].cut_out.window",
        "flows[0].cut_out.trip_after",
        "flows[0].cut_out.decisions_min",
        "flows[0].cut_out.margin",
        "flows[2].flow",
    }


def test_shares_must_sum_to_the_whole() -> None:
    assert "9999" in _faults(experiment=_experiment(9_000, 999))["flows[0].experiment.arms"]
    assert "2 to 8" in _faults(experiment=_experiment(10_000))["flows[0].experiment.arms"]
    assert "2 to 8" in _faults(experiment=_experiment(*[1] * 9))["flows[0].experiment.arms"]


def test_lists_are_bounded() -> None:
    shadows = [traffic_pb2.Shadow(name=f"s{n}", bundle="12345678") for n in range(4)]
    assert set(_faults(shadows=shadows)) == {"flows[0].shadows"}
    assert set(_faults(cut_out=traffic_pb2.CutOut())) == {"flows[0].cut_out.bounds"}
    assert set(_fields(lambda: flows_of([], str))) == {"flows"}
    many = [traffic_pb2.FlowTraffic(flow=f"p{n}.application") for n in range(65)]
    assert set(_fields(lambda: flows_of(many, str))) == {"flows"}


# --- statuses and words -------------------------------------------------------------------------------------------


def test_every_reason_has_a_code() -> None:
    for name, number in pb.AdminErrorReason.items():
        if number:
            assert code_of(name.removeprefix("ADMIN_ERROR_REASON_")).value[0] > 0


def test_numbers_and_names_agree() -> None:
    kinds = {n.removeprefix("CHANGE_KIND_"): v for n, v in traffic_pb2.ChangeKind.items() if v}
    assert {kind.name: kind.value for kind in ChangeKind} == kinds
    levels = {n.removeprefix("CUT_OUT_LEVEL_"): v for n, v in pb.CutOutLevel.items() if v}
    assert {level.name: level.value for level in Level} == levels


def test_as_many_mistakes_of_a_bundle_are_told_as_fit() -> None:
    problems = [Problem(f"flows/{n:04}.yaml", "views", "is wrong " * 20, "Mend it.") for n in range(5_000)]
    status = status_of(BundleError(problems))
    found = pb.BundleProblems()
    assert status.details[1].Unpack(found)
    assert found.count == 5_000 and 5 < len(found.problems) < 100
    assert found.problems[0].file == "flows/0000.yaml"
    # A status travels twice, in base64 and percent-encoded; gRPC takes 8 KiB of both.
    assert len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message) < 8_000


def test_an_error_that_nobody_foresaw_says_nothing_of_itself() -> None:
    status = status_of(ZeroDivisionError("secret"))
    assert "secret" not in status.message and status.code == 13
    assert status_of(Refusal("NO_BUNDLE", "none")).code == 14


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "only_here"),
    [
        ("127.0.0.1:50052", True),
        ("127.9.9.9:1", True),
        ("[::1]:50052", True),
        ("localhost:50052", True),
        ("unix:/run/assay.sock", True),
        ("0.0.0.0:50052", False),
        ("[::]:50052", False),
        ("10.0.0.1:50052", False),
        ("127.example.com:50052", False),
        ("localhost.example.com:50052", False),
    ],
)
def test_only_this_machine_reaches_loopback(address: str, only_here: bool) -> None:
    assert is_loopback(address) is only_here


def test_nobody_listens_to_the_world_without_certificates() -> None:
    pem = Path("x.pem")
    for settings in (
        AdminServerSettings("0.0.0.0:1"),
        AdminServerSettings("0.0.0.0:1", pem, pem),
        AdminServerSettings("0.0.0.0:1", pem, pem, pem),
        AdminServerSettings("127.0.0.1:1", names=("ops",)),
        AdminServerSettings("127.0.0.1:1", tls_key=pem),
        AdminServerSettings("127.0.0.1:1", tls_client_ca=pem),
    ):
        with pytest.raises(ConfigError):
            _check(settings)
    _check(AdminServerSettings("0.0.0.0:1", pem, pem, pem, ("ops",)))
    _check(AdminServerSettings())
