"""`assay audit` as it is used: exit codes, what is printed, and records with what was erased marked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.cli_audit import audit_app
from engine.record.log import DecisionLog
from engine.record.master import MasterKey
from engine.record.segments import list_segments, segment_path

runner = CliRunner()


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """The options that name a journal with three decisions, one of an erased person."""
    journal, key = tmp_path / "journal", tmp_path / "master.key"
    log = DecisionLog.open(journal, master=MasterKey.load(key, journal))
    for n in range(3):
        record, personal = record_pb.DecisionRecord(engine_version="1"), record_pb.DecisionRecord()
        record.decision.decision_id = f"id-{n}"
        personal.application.subject.id = f"subject-{n}"
        log.claim(b"%d" % n, b"d")
        parts = record.SerializeToString(), personal.SerializeToString()
        log.commit(b"%d" % n, f"id-{n}", b"d", *parts, f"subject-{n}")
    log.erase("subject-1")
    log.close()
    return ["--journal", str(journal), "--master-key", str(key)]


def test_a_whole_journal_ends_with_0(sources: list[str]) -> None:
    done = runner.invoke(audit_app, ["verify", *sources])
    assert done.exit_code == 0, done.output
    assert "w0: 1 segments, 4 frames, 3 decisions, records 1 to 4" in done.output
    assert "The journal is whole." in done.output
    told = json.loads(runner.invoke(audit_app, ["verify", "--json", *sources]).output)
    assert (told["is_whole"], told["signatures_checked"]) == (True, True)
    assert told["workers"][0]["decisions"] == 3


def test_an_altered_journal_ends_with_1_and_names_the_place(sources: list[str]) -> None:
    journal = Path(sources[1])
    path = segment_path(journal, list_segments(journal)[0])
    content = bytearray(path.read_bytes())
    content[content.index(b"id-1") + 10] ^= 1
    path.write_bytes(content)
    done = runner.invoke(audit_app, ["verify", *sources])
    assert done.exit_code == 1
    assert "w0-00000001:" in done.output
    assert "record 2: damaged:" in done.output
    assert "The journal is not as it was written." in done.output
    told = json.loads(runner.invoke(audit_app, ["verify", "--json", *sources]).output)
    assert [f["sequence"] for f in told["workers"][0]["findings"]] == [2]
    assert not told["is_whole"]


def test_a_record_is_shown_and_what_was_erased_is_said_to_be(sources: list[str]) -> None:
    whole = json.loads(runner.invoke(audit_app, ["show", "id-0", *sources]).output)
    assert whole["personal_part"] == "readable"
    assert whole["record"]["application"]["subject"]["id"] == "subject-0"
    erased = json.loads(runner.invoke(audit_app, ["show", "id-1", *sources]).output)
    assert erased["personal_part"] == "erased"
    assert erased["record"] == {"engine_version": "1", "decision": {"decision_id": "id-1"}}
    assert runner.invoke(audit_app, ["show", "id-9", *sources]).exit_code == 1


def test_what_cannot_be_used_is_said(sources: list[str], tmp_path: Path) -> None:
    for wrong in (["--journal", str(tmp_path / "none"), *sources[2:]], [*sources[:2], "--master-key", str(tmp_path)]):
        assert runner.invoke(audit_app, ["verify", *wrong]).exit_code == 1
