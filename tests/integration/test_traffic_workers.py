"""Several worker processes of one host: all switch, or none does."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from assay.admin.v1 import traffic_pb2
from engine.traffic.changes import ChangeList
from tests.support.traffic_processes import WorkerProcess, word_bundle, workers

NAMES = ("w0", "w1", "w2")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return word_bundle(tmp_path / "first", "first")


def _keep(worker: WorkerProcess, tmp_path: Path, word: str) -> str:
    digest: str = worker.ask("keep", root=str(word_bundle(tmp_path / word, word)))["digest"]
    return digest


def _journal(home: Path, worker: str) -> list[traffic_pb2.ChangeRecord]:
    content, found = (home / f"{worker}.journal").read_bytes(), []
    while content:
        length = int.from_bytes(content[:4], "big")
        found.append(traffic_pb2.ChangeRecord.FromString(content[4 : 4 + length]))
        content = content[4 + length :]
    return found


def _standings(worker: WorkerProcess) -> dict[str, Any]:
    found: dict[str, Any] = worker.ask("standings")["workers"]
    return found


def test_a_change_reaches_all_workers_in_one_moment(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, *NAMES) as (w0, w1, w2):
        second = _keep(w0, tmp_path, "second")
        answer = w1.ask("activate", digest=second, expected=1)
        assert (answer["generation"], answer["changed"], answer["workers"]) == (2, True, 3)
        switches = [one.switched(2) for one in (w0, w1, w2)]
        assert [switch["word"] for switch in switches] == ["second"] * 3
        # Whoever changes next sees it, wherever.
        assert w2.ask("activate", digest=second, expected=2)["changed"] is False
        assert w0.ask("rollback", expected=2)["generation"] == 3
        assert {one.switched(3)["word"] for one in (w0, w1, w2)} == {"first"}
        assert w1.ask("activate", digest=second, expected=2)["reason"] == "GENERATION_CHANGED"
        # Experiments go the same way.
        initial = json.loads((home / "traffic" / "traffic.json").read_text().split("\n", 1)[1])["defaultBundle"]
        assert w2.ask("set", arms=[initial, second])["generation"] == 4
        for one in (w0, w1, w2):
            one.switched(4)
            assert one.mixed == []
    kinds = [traffic_pb2.ChangeKind.Name(one.kind) for one in ChangeList(home / "traffic").latest(10)]
    assert [kind.removeprefix("CHANGE_KIND_") for kind in kinds] == ["SET_TRAFFIC", "ROLLBACK", "ACTIVATE", "START"]
    # Each change is in the journal of the worker that made it.
    assert 2 in [one.after.generation for one in _journal(home, "w1")]
    assert 4 in [one.after.generation for one in _journal(home, "w2")]


def test_a_bundle_that_fails_in_one_worker_changes_nothing(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, *NAMES) as (w0, w1, w2):
        for word, reason in (("fails_in_w2", "PREPARE_FAILED"), ("fails_in_w0", "BundleError")):
            answer = w0.ask("activate", digest=_keep(w0, tmp_path, word))
            assert answer["reason"] == reason and "not liked here" in answer["message"]
        assert _standings(w1) == {"w0": [1, ""], "w1": [1, ""], "w2": [1, ""]}
        assert not (home / "traffic" / "proposal.json").exists()
        # And the next change is made as if nothing had been.
        assert w0.ask("activate", digest=_keep(w0, tmp_path, "good"))["workers"] == 3
        for one in (w0, w1, w2):
            assert [event["generation"] for event in one.seen if event["event"] == "switch"] in ([1, 2], [1])
            assert one.switched(2)["word"] == "good"
    assert len([one for one in ChangeList(home / "traffic").latest(10)]) == 2


def test_a_worker_that_hangs_or_dies_while_getting_ready(
    home: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREPARE_TIMEOUT_S", "2")
    with workers(home, first, "w0", "w1", "w2") as (w0, w1, w2):
        # One that is not ready in time keeps the change from all.
        answer = w0.ask("activate", digest=_keep(w0, tmp_path, "hangs_in_w1"))
        assert answer["reason"] == "PREPARE_FAILED" and "w1" in answer["message"]
        assert _standings(w2)["w2"] == [1, ""]
        w1.end()
        # One that ended is waited for no more.
        answer = w0.ask("activate", digest=_keep(w0, tmp_path, "dies_in_w2"))
        assert (answer["generation"], answer["workers"]) == (2, 1)
        w2.process.wait(20)
        assert _standings(w0) == {"w0": [2, ""]}


def test_one_who_dies_between_record_and_switch_leaves_all_as_it_was(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0", "w1") as (w0, w1):
        digest = _keep(w0, tmp_path, "second")
        (home / "w0_dies_after_the_record").touch()
        w0.tell("activate", digest=digest)
        w0.process.wait(20)
        assert _journal(home, "w0")[-1].after.generation == 2
        assert _standings(w1) == {"w1": [1, ""]}
        # The lock went with it; the same generation is made by another.
        assert w1.ask("activate", digest=digest, expected=1)["generation"] == 2
        assert w1.switched(2)["word"] == "second"
        assert w1.mixed == []


def test_a_change_that_cannot_be_recorded_is_not_made(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0", "w1") as (w0, w1):
        digest = _keep(w0, tmp_path, "second")
        (home / "journal_is_full").touch()
        answer = w1.ask("activate", digest=digest)
        assert answer["reason"] == "RECORD_FAILED" and "full" in answer["message"]
        assert _standings(w0) == {"w0": [1, ""], "w1": [1, ""]}
        (home / "journal_is_full").unlink()
        assert w1.ask("activate", digest=digest)["generation"] == 2


def test_changes_of_two_workers_come_one_after_the_other(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0", "w1") as pair:
        digests = [_keep(pair[0], tmp_path, word) for word in ("second", "third")]
        for turn in range(4):
            pair[0].tell("activate", digest=digests[turn % 2])
            pair[1].tell("activate", digest=digests[(turn + 1) % 2])
            for one in pair:
                assert one.next("done", "refused")["event"] == "done"
        last = ChangeList(home / "traffic").latest(1)[0].after.generation
        for one in pair:
            assert _standings(one)[one.name] == [last, ""]
            assert one.mixed == []
            generations = [event["generation"] for event in one.seen if event["event"] == "switch"]
            assert generations == sorted(set(generations))
    records = ChangeList(home / "traffic").latest(100)
    assert [one.after.generation for one in records] == list(range(last, 0, -1))
    # Every change follows from the one before.
    for after, before in pairwise(records):
        assert after.before == before.after


def test_a_change_that_was_not_listed_is_listed_with_the_next(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0") as (w0,):
        w0.ask("activate", digest=_keep(w0, tmp_path, "second"))
        listed = home / "traffic" / "changes.jsonl"
        lines = listed.read_text().splitlines(keepends=True)
        listed.write_text(lines[0])  # as if it had ended right after the switch
        w0.ask("rollback")
    records = ChangeList(home / "traffic").latest(10)
    assert [one.after.generation for one in records] == [3, 2, 1]
    assert records[1].why == "a test" and records[1].after == records[0].before


def test_a_worker_that_starts_serves_what_the_others_do(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0") as (w0,):
        w0.ask("activate", digest=_keep(w0, tmp_path, "second"))
        with workers(home, first, "w1", "w2") as (w1, w2):
            assert w1.seen[-1] == {"event": "ready", "generation": 2, "word": "second"}
            assert w2.seen[-1]["word"] == "second"
            assert w2.ask("activate", digest=_keep(w0, tmp_path, "third"))["workers"] == 3
    # After all have ended, too.
    with workers(home, first, "w3") as (w3,):
        assert w3.seen[-1] == {"event": "ready", "generation": 3, "word": "third"}


def test_a_name_that_is_taken_is_told(home: Path, first: Path) -> None:
    with workers(home, first, "w0"):
        second = WorkerProcess(home, "w0", first)
        try:
            assert second.process.wait(30) != 0
        finally:
            second.end()
        assert "another process serves as worker 'w0'" in (home / "w0.log").read_text()


def test_another_bundle_in_the_settings_is_a_change_like_any_other(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0") as (w0,):
        w0.ask("activate", digest=_keep(w0, tmp_path, "second"))
    with workers(home, word_bundle(tmp_path / "named", "named"), "w0") as (w0,):
        assert w0.seen[-1] == {"event": "ready", "generation": 3, "word": "named"}
        assert w0.ask("rollback")["generation"] == 4
        assert w0.switched(4)["word"] == "second"
    latest = ChangeList(home / "traffic").latest(2)[1]
    assert (latest.who, traffic_pb2.ChangeKind.Name(latest.kind)) == ("settings", "CHANGE_KIND_START")
    # Nothing else is changed by a restart, nor by settings whose bundle cannot be loaded.
    with workers(home, tmp_path / "named", "w0") as (w0,):
        assert w0.seen[-1] == {"event": "ready", "generation": 4, "word": "second"}
    with workers(home, word_bundle(tmp_path / "bad", "fails_in_w0"), "w0") as (w0,):
        assert w0.seen[-1] == {"event": "ready", "generation": 4, "word": "second"}
    assert "what was served is served on" in (home / "w0.log").read_text()


def test_a_damaged_state_is_last_good_to_who_serves_and_to_who_starts(home: Path, first: Path, tmp_path: Path) -> None:
    state = home / "traffic" / "traffic.json"
    with workers(home, first, "w0") as (w0,):
        w0.ask("activate", digest=_keep(w0, tmp_path, "second"))
        state.write_bytes(state.read_bytes()[:-20])
        end_s = time.monotonic() + 20
        while not _standings(w0)["w0"][1] and time.monotonic() < end_s:
            time.sleep(0.02)
        assert "torn or was changed" in _standings(w0)["w0"][1]
        assert w0.ask("activate", digest=_keep(w0, tmp_path, "third"), expected=2)["generation"] == 3
        assert _standings(w0)["w0"] == [3, ""]
        state.write_bytes(b"\x00" * 400)
    with workers(home, first, "w0") as (w0,):
        # The version before the last: what can be known.
        assert w0.seen[-1] == {"event": "ready", "generation": 2, "word": "second"}
    assert "last good version is used" in (home / "w0.log").read_text()


def test_without_any_state_the_generation_rises_all_the_same(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0") as (w0,):
        w0.ask("activate", digest=_keep(w0, tmp_path, "second"))
    for name in ("traffic.json", "traffic.last.json"):
        (home / "traffic" / name).write_text("garbage")
    with workers(home, first, "w1") as (w1,):
        assert w1.seen[-1] == {"event": "ready", "generation": 3, "word": "first"}


def test_a_registry_that_lost_what_was_served_falls_to_the_settings(home: Path, first: Path, tmp_path: Path) -> None:
    with workers(home, first, "w0") as (w0,):
        digest = _keep(w0, tmp_path, "second")
        w0.ask("activate", digest=digest)
    for file in (home / "bundles" / digest.removeprefix("sha256:")).iterdir():
        file.write_text("other")
    with workers(home, first, "w0") as (w0,):
        assert w0.seen[-1] == {"event": "ready", "generation": 3, "word": "first"}
    assert "holds other files than its name says" in ChangeList(home / "traffic").latest(1)[0].why
