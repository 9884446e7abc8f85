"""Bundles changed in a real server while clients ask: no call fails, no answer is of two bundles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from assay.admin.v1 import admin_service_pb2 as admin_pb
from assay.admin.v1 import traffic_pb2
from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.bundle.load import load_bundle
from engine.record.entries import unpack_decision
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind
from engine.record.subject_keys import SubjectKeys
from tests.support.bundles import problems_of
from tests.support.served_commands import assert_journal_is_whole
from tests.support.served_lender import (
    FLOW,
    KINDS,
    Admin,
    Asking,
    asking,
    changing,
    content,
    expected,
    kind_of,
    load_subjects,
    variant,
)
from tests.support.served_load import Kind, Load, Told
from tests.support.tiny import change

SUBJECTS = 40
CALLS: tuple[Kind, ...] = ("decide", "decide", "batch", "stream")
_WAIT_S = 100.0
Answers = dict[str, dict[str, decision_pb2.Decision]]


@dataclass
class Bundles:
    """Two bundles that can be told apart by every answer, by digest and kind, and where they are."""

    first: Path
    second: Path
    answers: Answers

    @property
    def digests(self) -> tuple[str, str]:
        one, other = self.answers
        return one, other


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    root = tmp_path_factory.mktemp("bundles")
    first, second = variant(root / "first", "0.1.0", 6.0), variant(root / "second", "0.2.0", 7.5)
    answers = dict(expected(tmp_path_factory.mktemp("reference"), path) for path in (first, second))
    one, other = answers.values()
    assert all(one[kind] != other[kind] for kind in KINDS)
    return Bundles(first, second, answers)


@pytest.fixture
def home(tmp_path: Path, bundles: Bundles) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    load_subjects(made, load_bundle(bundles.first, scenarios=False), SUBJECTS)
    return made


def assert_unmixed(told: Sequence[Told], answers: Answers) -> None:
    """Every answer is what one of the bundles answers, whole, and all answers of one call are of the same bundle."""
    by_call: dict[int, str] = {}
    for one in told:
        digest = one.decision.bundle.digest
        assert content(one.decision) == answers[digest][kind_of(one.request)]
        assert by_call.setdefault(one.call, digest) == digest, "one call was decided by two bundles"


def assert_all_from_now_on(load: Load, digest: str) -> None:
    """Every call that begins from now on is decided by a bundle. Calls that began before end as they began."""
    asked_from_s = time.monotonic()
    load.wait(20, CALLS)
    later = [one for one in load.told if one.began_s > asked_from_s]
    assert {one.decision.bundle.digest for one in later} == {digest}


def p99_ms(told: Sequence[Told]) -> float:
    took = sorted(one.took_s for one in told if one.kind == "decide")
    return took[len(took) * 99 // 100] * 1000


def failed(call: Callable[[Any], Any], request: Any) -> tuple[ErrorInfo, admin_pb.BundleProblems]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    error: Any = caught.value
    (packed,) = (value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    info, problems = ErrorInfo(), admin_pb.BundleProblems()
    for detail in Status.FromString(packed).details:
        assert detail.Unpack(info) or detail.Unpack(problems)
    return info, problems


def wait_for(condition: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    end_s = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < end_s, otherwise()
        time.sleep(0.05)


def frames(home: Path, kind: FrameKind) -> list[Frame]:
    reader = JournalReader(home / "decisions")
    found = (frame for worker in reader.workers() for frame in reader.frames(worker))
    return [frame for frame in found if isinstance(frame, Frame) and frame.kind == kind]


def test_bundles_are_switched_under_load_without_a_failed_call_or_a_mixed_answer(home: Path, bundles: Bundles) -> None:
    first, second = bundles.digests
    broken = variant(bundles.first.parent / "broken", "0.3.0", 8.0)
    change(broken / "reasons.yaml", ["reasons", "PL_INSOLVENT"], None)
    change(broken / "reasons.yaml", ["reasons", "PL_SCORE_LOW"], None)
    change(broken / "policy" / "price.json", ["nodes", 1, "content", "rules", 0, "o0"], "'dear'")
    with changing(home, bundles.first) as (server, _, admin):
        with Load(server.address, Asking(SUBJECTS), CALLS, rest_s=0.002) as load:
            load.wait(50, CALLS)
            steady = len(load.told)
            assert admin.load(bundles.second) == second
            for _ in range(2):
                assert admin.activate(second).changed
                assert_all_from_now_on(load, second)
                assert admin.rollback().changed
                assert_all_from_now_on(load, first)

            generations = server.output.count('"bundle in service"')
            wanted = admin_pb.LoadBundleRequest(author=admin.author, path=str(broken))
            info, problems = failed(admin.stub.LoadBundle, wanted)
            assert info.reason == "INVALID_BUNDLE"
            mistakes = {(one.file, one.place) for one in problems_of(broken)}
            assert len(mistakes) >= 3
            assert {(one.file, one.place) for one in problems.problems} == mistakes
            assert problems.count == len(problems_of(broken))
            assert server.output.count('"bundle in service"') == generations
            assert_all_from_now_on(load, first)

            changed = len(load.told)
            admin.activate(second)
            assert_all_from_now_on(load, second)
        assert load.failed == []
        assert_unmixed(load.told, bundles.answers)
        assert {one.decision.bundle.digest for one in load.told} == {first, second}
        before_ms, during_ms = p99_ms(load.told[:steady]), p99_ms(load.told[steady:changed])
        print(f"{len(load.told)} answers, p99 {before_ms:.1f} ms before, {during_ms:.1f} ms while bundles changed")
        assert "Traceback" not in server.output
        assert server.stop() == 0
    # The settings still name the first; what was put in service last is served.
    with changing(home, bundles.first) as (_, client, admin):
        answer = client.stub.Decide(asking("plain", "p0")).decision
        assert content(answer) == bundles.answers[second]["plain"]
        kinds = [one.kind for one in admin.stub.ListChanges(admin_pb.ListChangesRequest()).changes]
        assert kinds.count(traffic_pb2.CHANGE_KIND_ACTIVATE) == 3
        assert kinds.count(traffic_pb2.CHANGE_KIND_ROLLBACK) == 2
        assert len(frames(home, FrameKind.CHANGE)) == len(kinds)
    assert_journal_is_whole(home)


@pytest.fixture
def changeable(home: Path, bundles: Bundles) -> Iterator[tuple[Any, Any, Admin]]:
    # A challenger takes all that it can get here, so that nobody waits for it.
    with changing(home, bundles.first, {"ASSAY_TRAFFIC_SHADOW_CPU_SHARE": "1.0"}) as opened:
        yield opened


def test_an_arm_and_a_shadow_are_in_the_record(
    home: Path, bundles: Bundles, changeable: tuple[Any, Any, Admin]
) -> None:
    server, client, admin = changeable
    first, second = bundles.digests
    admin.load(bundles.second)
    arms = [
        {"name": "champion", "bundle": first, "shareBasisPoints": 5000},
        {"name": "challenger", "bundle": second, "shareBasisPoints": 5000},
    ]
    shadows = [{"name": "next_rate", "bundle": second}]
    admin.set_traffic({"flow": FLOW, "experiment": {"name": "rate", "arms": arms}, "shadows": shadows})
    with Load(server.address, Asking(SUBJECTS), CALLS) as load:
        load.wait(3 * len(KINDS) * SUBJECTS)
    assert load.failed == []

    names = {first: "champion", second: "challenger"}
    arm_of: dict[str, str] = {}
    for one in load.told:
        digest, subject = one.decision.bundle.digest, one.request.application.subject.id
        assert arm_of.setdefault(subject, names[digest]) == names[digest], f"{subject} was in two arms"
        assert content(one.decision) == bundles.answers[digest][kind_of(one.request)]
    assert set(arm_of.values()) == set(names.values())
    for one in load.told[::7]:
        wanted = pb.GetDecisionRequest(decision_id=one.decision.decision_id, view=pb.DECISION_VIEW_FULL)
        record = client.stub.GetDecision(wanted).record
        assert (record.experiment, record.arm) == ("rate", names[one.decision.bundle.digest])

    def compared() -> tuple[int, int]:
        report = admin.stub.GetShadowReport(admin_pb.GetShadowReportRequest())
        assert all(not (one.failed or one.refused or one.unrecorded) for one in report.comparisons)
        return sum(one.decided for one in report.comparisons), report.dropped

    # All that found room in the queue; the rest is told.
    wait_for(lambda: sum(compared()) == len(load.told), compared)
    decided, _ = compared()
    assert decided > 0
    assert server.stop() == 0
    given = {one.decision.decision_id: one for one in load.told}
    keys = SubjectKeys(home / "decisions", MasterKey.read(home / "var" / "master.key"))
    linked: dict[str, DecisionRecord] = {}
    for frame in frames(home, FrameKind.SHADOW):
        record = DecisionRecord.FromString(unpack_decision(frame, keys).record)
        assert linked.setdefault(record.shadow_of, record) is record, "a shadow was recorded twice"
        assert record.application == given[record.shadow_of].request.application
        assert content(record.decision) == bundles.answers[second][kind_of(given[record.shadow_of].request)]
    assert len(linked) == decided


def test_a_cut_out_falls_back_when_a_rate_leaves_its_bounds(
    bundles: Bundles, changeable: tuple[Any, Any, Admin]
) -> None:
    server, _, admin = changeable
    first = bundles.digests[0]
    harsh = bundles.first.parent / "harsh"
    if not harsh.exists():
        variant(harsh, "0.4.0", 6.0)
        # Declines who is solvent, which its scenario takes for good.
        change(harsh / "policy" / "knock_outs.json", ["nodes", 1, "content", "rules", 0, "i0"], "false")
        solvent: list[str | int] = ["scenarios", 0, "application", "fields", "insolvent", "flag"]
        change(harsh / "scenarios" / "tiny_loan.yaml", solvent, True)
    cut_out = {
        "bounds": [{"verdict": "VERDICT_DECLINE", "max": 0.6}],
        "window": "60s",
        "decisionsMin": 30,
        "tripAfter": "0s",
        "fallBack": True,
    }
    admin.set_traffic({"flow": FLOW, "cutOut": cut_out})
    with Load(server.address, Asking(SUBJECTS), CALLS, rest_s=0.005) as load:
        load.wait(60)
        assert {one.decision.bundle.digest for one in load.told} == {first}
        dire = admin.load(harsh)
        admin.activate(dire)
        wait_for(lambda: '"CUT_OUT"' in server.output, lambda: server.output)
        assert_all_from_now_on(load, first)
    assert load.failed == []
    assert dire in {one.decision.bundle.digest for one in load.told}
    changes = admin.stub.ListChanges(admin_pb.ListChangesRequest()).changes
    (fell,) = (one for one in changes if one.kind == traffic_pb2.CHANGE_KIND_CUT_OUT)
    assert (fell.who, fell.before.default_bundle, fell.after.default_bundle) == ("cut-out", dire, first)
    assert "DECLINE" in fell.facts
    # What was cut out is not what a rollback leads to.
    info, _ = failed(admin.stub.Rollback, admin_pb.RollbackRequest(author=admin.author))
    assert info.reason == "NO_PREVIOUS_BUNDLE"
