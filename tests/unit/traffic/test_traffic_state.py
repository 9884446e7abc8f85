"""The file that says what is served: what was written is read, and nothing else ever is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain.enums import Verdict
from engine.traffic.changes import ChangeList
from engine.traffic.files import DamagedFile, FileLock, held, is_held, read_sealed, seal
from engine.traffic.messages import change_record
from engine.traffic.model import (
    ArmShare,
    Author,
    Bound,
    ChangeKind,
    CutOutRule,
    Experiment,
    FlowTraffic,
    ShadowSetting,
    Traffic,
)
from engine.traffic.state import TrafficFile, parse_traffic, write_traffic

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
TRAFFIC = Traffic(
    generation=7,
    default=A,
    previous=B,
    flows={
        "consumer_loan.application": FlowTraffic(
            Experiment("price_2026", (ArmShare("champion", A, 9_000), ArmShare("challenger", B, 1_000))),
            (ShadowSetting("next", C), ShadowSetting("small", B, 250)),
            CutOutRule(
                (Bound(Verdict.DECLINE, None, 0.6), Bound(Verdict.APPROVE, 0.25, 0.9)), 1_800.5, 50, 0.0, 0.0, True
            ),
        ),
        "sme_loan.application": FlowTraffic(cut_out=CutOutRule((Bound(Verdict.REFER, None, 0.5),))),
    },
    change_id="0197",
    kind=ChangeKind.SET_TRAFFIC,
    who="ann",
    on_behalf_of="bob",
    why="price test, 试验\u2028 2026",
    changed_us=1_770_000_000_123_456,
    effective_us=1_770_000_000_623_456,
    configured=A,
)


def _put(file: TrafficFile, traffic: Traffic, before: Traffic | None = None) -> None:
    replacement = file.prepare(traffic, before)
    replacement.put()
    replacement.discard()


def test_what_was_written_is_read_back() -> None:
    assert parse_traffic(write_traffic(TRAFFIC), "here") == TRAFFIC


def test_another_process_sees_a_change_by_one_look(tmp_path: Path) -> None:
    ours, theirs = TrafficFile(tmp_path), TrafficFile(tmp_path)
    assert theirs.read() is None and not theirs.changed()
    _put(ours, TRAFFIC)
    assert theirs.changed()
    assert theirs.read() == TRAFFIC
    assert not theirs.changed()


def test_what_is_not_in_place_yet_is_not_seen(tmp_path: Path) -> None:
    file = TrafficFile(tmp_path)
    replacement = file.prepare(TRAFFIC, None)
    assert file.read() is None
    replacement.discard()
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_is_taken_for_another_state(at: int, flip: int) -> None:
    content = bytearray(seal(write_traffic(TRAFFIC)))
    content[at % len(content)] ^= flip
    with pytest.raises(DamagedFile):
        _read(bytes(content))


@given(st.integers(0, 10_000))
def test_no_torn_file_is_taken_for_a_whole_one(length: int) -> None:
    content = seal(write_traffic(TRAFFIC))
    with pytest.raises(DamagedFile):
        _read(content[: length % len(content)])


@given(st.binary(max_size=300))
def test_garbage_is_garbage(content: bytes) -> None:
    with pytest.raises(DamagedFile):
        _read(content)


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"generation": 1}', '{"generation": "x"}', '{"defaultBundle": "a"}'])
def test_a_sealed_file_that_says_nothing_is_damaged(body: str) -> None:
    with pytest.raises(DamagedFile):
        _read(seal(body))


def _read(content: bytes) -> Traffic | None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "traffic.json"
        path.write_bytes(content)
        return TrafficFile(Path(name)).read()


def test_the_last_good_version_is_used_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = TrafficFile(tmp_path)
    after = Traffic(generation=8, default=B)
    _put(file, TRAFFIC)
    _put(file, after, TRAFFIC)
    assert file.read_last_good() == after
    (tmp_path / "traffic.json").write_bytes(b"torn")
    with caplog.at_level(logging.ERROR, "assay.traffic"):
        assert file.read_last_good() == TRAFFIC
        (tmp_path / "traffic.last.json").write_bytes(b"torn, too")
        assert file.read_last_good() is None
    assert "damaged" in caplog.text and "damaged, too" in caplog.text


def test_a_file_that_is_not_there_is_no_damage(tmp_path: Path) -> None:
    assert read_sealed(tmp_path / "none") is None


def test_a_lock_keeps_threads_apart_and_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    with held(path, 0.0) as had:
        assert had and is_held(path)
        with held(path, 0.05) as again:
            assert not again
        assert is_held(path)
    assert not is_held(path)
    lock = FileLock(path)
    assert lock.acquire(0.0)
    lock.release()
    lock.release()


# --- the list of changes ------------------------------------------------------------------------------------------


def _record(number: int, why: str = "because") -> object:
    return change_record(ChangeKind.ACTIVATE, Author("ann", why), f"change-{number:05}", number, TRAFFIC, TRAFFIC)


def test_changes_are_listed_the_latest_first_and_once(tmp_path: Path) -> None:
    changes = ChangeList(tmp_path)
    for number in (1, 2, 3, 3):
        changes.add(_record(number, why="两行\nand \u2028 more"))  # type: ignore[arg-type]
    assert [one.change_id for one in changes.latest(2)] == ["change-00003", "change-00002"]
    assert len(changes.latest(100)) == 3
    assert changes.latest(1)[0].why == "两行\nand \u2028 more"


def test_the_list_is_bounded(tmp_path: Path) -> None:
    changes = ChangeList(tmp_path, kept=5)
    for number in range(42):
        changes.add(_record(number))  # type: ignore[arg-type]
    assert [one.change_id for one in changes.latest(100)] == [f"change-{n:05}" for n in (41, 40, 39, 38, 37)]
    assert len((tmp_path / "changes.jsonl").read_text().splitlines()) <= 10


def test_a_torn_line_costs_nothing_but_itself(tmp_path: Path) -> None:
    changes = ChangeList(tmp_path)
    changes.add(_record(1))  # type: ignore[arg-type]
    with (tmp_path / "changes.jsonl").open("a") as stream:
        stream.write('{"changeId": "torn')
    changes.add(_record(2))  # type: ignore[arg-type]
    assert [one.change_id for one in changes.latest(9)] == ["change-00002", "change-00001"]
