"""Shadows: the same facts, decided behind the answers, recorded beside them, compared, and never waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.domain.enums import Verdict
from engine.errors import RecordError
from engine.record.entries import unpack_decision
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind
from engine.traffic.compare import Pair, Tally
from engine.traffic.model import Author, ChangeKind, FlowTraffic, ShadowSetting
from engine.traffic.moves import set_flows
from engine.traffic.shadow import ShadowRunner, ShadowSettings, shadow_report
from tests.support.tiny import change
from tests.support.traffic import Host, host, tiny_variant

FLOW = "tiny_loan.application"
ANN = Author("ann", "a test")
FREE = ShadowSettings(cpu_share=1.0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path / "home", tiny_variant(tmp_path / "first", "0.1.0")) as one:
        yield one


def _keep(opened: Host, root: Path) -> str:
    with opened.registry.incoming(root) as incoming:
        return opened.registry.keep(incoming, "tiny", "0.2.0", [FLOW])[0].digest


def _shadow(opened: Host, *digests: str, share: int = 10_000) -> None:
    shadows = tuple(ShadowSetting(f"shadow{n}", digest, share) for n, digest in enumerate(digests))
    flows = {FLOW: FlowTraffic(shadows=shadows)}
    opened.control.change(ChangeKind.SET_TRAFFIC, ANN, lambda traffic: set_flows(traffic, flows))


def _reports(opened: Host) -> dict[Pair, Tally]:
    assert opened.shadows.settle(60.0)
    return shadow_report([standing.shadows for standing in opened.control.standings().values()])[0]


def _only(opened: Host) -> Tally:
    (tally,) = _reports(opened).values()
    return tally


def test_a_shadow_decides_what_was_answered_and_is_recorded_with_it(opened: Host, tmp_path: Path) -> None:
    digest = _keep(opened, tiny_variant(tmp_path / "second", "0.2.0", 9.0))
    _shadow(opened, digest)
    answers = [opened.decide(f"p{n}") for n in range(5)]
    ((pair, tally),) = _reports(opened).items()
    assert pair == (FLOW, "shadow0", digest, answers[0].bundle.digest)
    assert (tally.decided, tally.refused, tally.failed, tally.by_name, tally.unrecorded) == (5, 0, 0, 0, 0)
    # The rate differs, and nothing else.
    assert tally.verdicts == {"APPROVE/APPROVE": 5} and tally.offers_differ == 5 and tally.reasons_differ == 0
    assert tally.shifts["CREDIT/points"].count == 5 and tally.shifts["CREDIT/points"].most == 0.0
    assert all(answer.offer.annual_rate_percent == 6.0 for answer in answers)

    frames = [item for item in JournalReader(opened.home / "decisions").frames("w0") if isinstance(item, Frame)]
    stored = [unpack_decision(frame) for frame in frames if frame.kind == FrameKind.SHADOW]
    assert [one.decision_id for one in stored] == [answer.decision_id for answer in answers]
    record = DecisionRecord.FromString(stored[0].record)
    assert record.decision.bundle.digest == digest and record.decision.offer.annual_rate_percent == 9.0
    assert record.decision.decided_at == answers[0].decided_at
    assert (record.shadow_of, record.arm) == (answers[0].decision_id, "shadow0")
    assert record.runs and record.rules and record.packed_facts.values
    assert record.application.subject.id == "p0"


def test_another_verdict_and_its_reasons_are_counted_and_can_be_looked_up(opened: Host, tmp_path: Path) -> None:
    strict = tiny_variant(tmp_path / "strict", "0.2.0")
    for row in range(1, 4):
        change(strict / "policy" / "cut_offs.json", ["nodes", 1, "content", "rules", row, "o0"], '"DECLINE"')
        change(strict / "policy" / "cut_offs.json", ["nodes", 1, "content", "rules", row, "o2"], '"PL_SCORE_LOW"')
    _shadow(opened, _keep(opened, strict))
    answers = [opened.decide(f"p{n}") for n in range(30)]
    tally = _only(opened)
    assert tally.verdicts == {"APPROVE/DECLINE": 30} and tally.reasons_differ == 30
    assert list(tally.differing) == [answer.decision_id for answer in answers[-20:]]
    assert {answer.verdict for answer in answers} == {int(Verdict.APPROVE)}


def test_a_shadow_that_reads_other_rows_gets_what_is_known_by_name(opened: Host, tmp_path: Path) -> None:
    other = tiny_variant(tmp_path / "other", "0.2.0")
    features = other / "features.yaml"
    import yaml

    content = yaml.safe_load(features.read_text("utf-8"))
    content["views"]["dwelling"] = content["views"].pop("home")
    features.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    change(other / "flows" / "tiny_loan.yaml", ["views"], ["account", "dwelling"])
    change(other / "scenarios" / "tiny_loan.yaml", ["scenarios", 0, "features", "dwelling"], {"values": {}})
    change(other / "scenarios" / "tiny_loan.yaml", ["scenarios", 0, "features", "home"], None)
    _shadow(opened, _keep(opened, other))
    opened.decide()
    tally = _only(opened)
    assert (tally.decided, tally.by_name) == (1, 1)
    # The same features under another view: the same scores.
    assert tally.verdicts == {"APPROVE/APPROVE": 1} and tally.shifts["CREDIT/points"].most == 0.0


def test_what_a_shadow_would_refuse_is_counted(opened: Host, tmp_path: Path) -> None:
    narrow = tiny_variant(tmp_path / "narrow", "0.2.0")
    change(narrow / "flows" / "tiny_loan.yaml", ["terms_months"], [24, 48])
    _shadow(opened, _keep(opened, narrow))
    opened.decide()
    tally = _only(opened)
    assert (tally.decided, tally.refused) == (0, 1)


def test_several_shadows_and_shares(opened: Host, tmp_path: Path) -> None:
    digests = [_keep(opened, tiny_variant(tmp_path / f"v{n}", f"0.{n}.0", 7.0 + n)) for n in (2, 3)]
    _shadow(opened, *digests, share=5_000)
    for number in range(40):
        opened.decide(f"p{number}")
    reports = _reports(opened)
    assert [pair.shadow for pair in reports] == ["shadow0", "shadow1"]
    assert all(8 <= tally.decided <= 32 for tally in reports.values())


def test_what_is_personal_in_a_shadows_record_goes_with_the_person(opened: Host, tmp_path: Path) -> None:
    _shadow(opened, _keep(opened, tiny_variant(tmp_path / "second", "0.2.0")))
    parts: list[tuple[str, bytes, bytes, str]] = []
    runner = ShadowRunner(lambda *given: parts.append(given), FREE)
    opened.shadows, usual = runner, opened.shadows
    answer = opened.decide("somebody")
    assert runner.settle(60.0)
    runner.stop()
    opened.shadows = usual
    ((decision_id, kept, personal, subject),) = parts
    assert (decision_id, subject) == (answer.decision_id, "somebody")
    assert b"somebody" not in kept and b"somebody" in personal
    record = DecisionRecord.FromString(kept)
    assert record.decision.verdict == answer.verdict and not record.decision.HasField("offer")
    assert not record.HasField("application") and not record.runs


def test_without_a_shadow_nothing_is_made_and_no_thread_runs(opened: Host) -> None:
    opened.decide()
    assert opened.shadows.state() == {}
    assert not any(thread.name == "shadow" for thread in threading.enumerate())


def test_answers_never_wait_for_a_shadow_that_hangs(opened: Host, tmp_path: Path) -> None:
    _shadow(opened, _keep(opened, tiny_variant(tmp_path / "second", "0.2.0")))
    let_go, stuck = threading.Event(), threading.Event()

    def record(decision_id: str, record: bytes, personal: bytes, subject: str) -> None:
        stuck.set()
        let_go.wait(60)

    runner = ShadowRunner(record, ShadowSettings(queue_max=8, cpu_share=1.0))
    opened.shadows, usual = runner, opened.shadows
    try:
        opened.decide()
        assert stuck.wait(20)
        # The shadow stands still; answers go on, what does not fit is dropped, and that is counted.
        for number in range(20):
            assert opened.decide(f"p{number}").verdict == int(Verdict.APPROVE)
        assert runner.depth == 8
        assert runner.state()["dropped"] == 12
    finally:
        let_go.set()
        assert runner.settle(60.0)
        runner.stop()
        opened.shadows = usual
    _, dropped = shadow_report([runner.state()])
    assert dropped == 12


def test_a_journal_that_fails_a_shadow_fails_nothing_else(opened: Host, tmp_path: Path) -> None:
    _shadow(opened, _keep(opened, tiny_variant(tmp_path / "second", "0.2.0")))

    def record(decision_id: str, record: bytes, personal: bytes, subject: str) -> None:
        raise RecordError("the journal is full")

    runner = ShadowRunner(record, FREE, opened.counters)
    opened.shadows, usual = runner, opened.shadows
    opened.decide()
    opened.decide()
    assert runner.settle(60.0)
    runner.stop()
    opened.shadows = usual
    (tally,) = shadow_report([runner.state()])[0].values()
    assert (tally.decided, tally.unrecorded) == (2, 2)
    assert opened.counters.get("shadow_unrecorded") == 2


def test_a_shadow_takes_no_more_than_its_share_of_a_core(opened: Host, tmp_path: Path) -> None:
    _shadow(opened, _keep(opened, tiny_variant(tmp_path / "second", "0.2.0")))

    def record(decision_id: str, record: bytes, personal: bytes, subject: str) -> None:
        end_s = time.thread_time() + 0.004
        while time.thread_time() < end_s:
            pass

    runner = ShadowRunner(record, ShadowSettings(queue_max=100, cpu_share=0.2))
    opened.shadows, usual = runner, opened.shadows
    for number in range(30):
        opened.decide(f"p{number}")
    begun_s, spent = time.monotonic(), _cpu_of("shadow")
    assert runner.settle(60.0)
    took_s, used_s = time.monotonic() - begun_s, spent()
    runner.stop()
    opened.shadows = usual
    # However busy the machine is, the thread rests four times as long as it works.
    assert used_s <= 0.2 * took_s + 0.05


def _cpu_of(name: str) -> Callable[[], float]:
    """The CPU time that the thread of this name takes from now on."""
    (thread,) = [one for one in threading.enumerate() if one.name == name]
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    begun_s = time.clock_gettime(clock)
    return lambda: time.clock_gettime(clock) - begun_s


def test_counts_of_several_processes_are_added_up() -> None:
    pair, other = ["f.application", "next", "b", "a"], ["g.application", "next", "b", "a"]
    one, two = Tally(decided=2, verdicts={"APPROVE/DECLINE": 2}, since_us=50), Tally(decided=3, since_us=40)
    two.verdicts = {"APPROVE/DECLINE": 1, "REFER/REFER": 2}
    states = [
        {"dropped": 1, "tallies": [[pair, one.plain()]]},
        {"dropped": 2, "tallies": [[pair, two.plain()], [other, one.plain()]]},
        {},
    ]
    found, dropped = shadow_report(states, "f.application")
    ((key, tally),) = found.items()
    assert key == Pair("f.application", "next", "b", "a") and dropped == 3
    assert (tally.decided, tally.since_us) == (5, 40)
    assert tally.verdicts == {"APPROVE/DECLINE": 3, "REFER/REFER": 2}
    assert len(shadow_report(states)[0]) == 2
