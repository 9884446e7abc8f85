"""A backup of a real server, made under load, restored, and served: nothing that was given is lost, nobody erased is
back, and nothing that is there is overwritten."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from assay.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from assay.outcome.v1 import outcome_service_pb2 as outcome_service
from assay.outcome.v1 import outcome_service_pb2_grpc
from engine.backup.check import check
from engine.backup.parts import Places
from engine.backup.restore import restore
from engine.errors import RecordError
from engine.record.master import MasterKey
from tests.support.applications import all_ids, consumer, load_rows, new_id, now_us
from tests.support.outcomes import outcome, status
from tests.support.served_commands import assay, assert_journal_is_whole
from tests.support.served_load import TIMEOUT_S, Load
from tests.support.server import Client, open_store, running

EARLY, LATE, STAYS = "erased-before-the-backup", "erased-after-the-backup", "stays"
KEY = Path("var/master.key")
# Two workers write; segments are closed every few decisions, so that a backup meets many.
SETTINGS = {"ASSAY_SERVER_WORKERS": "2", "ASSAY_RECORD_SEGMENT_BYTES": "65536", "ASSAY_RECORD_DURABILITY": "disk"}


class Made(NamedTuple):
    """A host that was served, its backup, what was given before the backup began, and the list of erasures."""

    home: Path
    backup: Path
    before: dict[str, decision_pb2.Decision]
    by_person: dict[str, str]
    rows: dict[str, int]
    erasures: Path


def features_of(client: Client) -> feature_service_pb2_grpc.FeatureServiceStub:
    return feature_service_pb2_grpc.FeatureServiceStub(client.channel)


def rows_of(client: Client, subject: str) -> int:
    """How many rows of an applicant there are."""
    asked = feature_service_pb2.GetFeaturesRequest(entity="applicant", entity_id=subject)
    views = features_of(client).GetFeatures(asked, timeout=TIMEOUT_S).views
    return sum(1 for view in views if view.HasField("event_time"))


def get(client: Client, decision_id: str) -> pb.GetDecisionResponse:
    wanted = pb.GetDecisionRequest(decision_id=decision_id, view=pb.DECISION_VIEW_FULL)
    return client.stub.GetDecision(wanted, timeout=TIMEOUT_S)


def outcomes_of(client: Client, decision_id: str) -> int:
    stub = outcome_service_pb2_grpc.OutcomeServiceStub(client.channel)
    asked = outcome_service.ListOutcomesRequest(decision_id=decision_id)
    return len(stub.ListOutcomes(asked, timeout=TIMEOUT_S).outcomes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    home = tmp_path_factory.mktemp("lost")
    with open_store(home) as store:
        for person in (EARLY, LATE, STAYS):
            load_rows(store, all_ids(person))
    by_person, backup = {}, home / "backups" / "monday"
    backup.parent.mkdir()
    with running(home, settings=SETTINGS) as (server, client):
        for person in (EARLY, LATE, STAYS):
            by_person[person] = client.stub.Decide(consumer(person), timeout=TIMEOUT_S).decision.decision_id
        said = outcome(by_person[STAYS], now_us(), repayment_status=status(0))
        stub = outcome_service_pb2_grpc.OutcomeServiceStub(client.channel)
        stub.RecordOutcome(outcome_service.RecordOutcomeRequest(outcome=said), timeout=TIMEOUT_S)
        rows = {person: rows_of(client, person) for person in (EARLY, LATE, STAYS)}
        features_of(client).DeleteSubject(feature_service_pb2.DeleteSubjectRequest(entity_id=EARLY), timeout=TIMEOUT_S)
        with Load(server.address, lambda: consumer(STAYS, request_id=new_id("load"))) as load:
            load.wait(30)
            before = {told.request.request_id: told.decision for told in list(load.told)}
            done = assay(home, "backup", "create", str(backup), settings=SETTINGS)
            assert done.returncode == 0, done.stdout + done.stderr
            load.wait(5)
        assert not load.failed
        features_of(client).DeleteSubject(feature_service_pb2.DeleteSubjectRequest(entity_id=LATE), timeout=TIMEOUT_S)
        listed = assay(home, "backup", "erasures", settings=SETTINGS)
        assert listed.returncode == 0, listed.stderr
        (home / "erasures.jsonl").write_text(listed.stdout)
        server.stop(signal.SIGKILL)
    yield Made(home, backup, before, by_person, rows, home / "erasures.jsonl")


def new_home(made: Made, home: Path) -> Path:
    """A host with nothing but the master key."""
    (home / KEY).parent.mkdir(parents=True)
    shutil.copy(made.home / KEY, home / KEY)
    return home


def test_what_was_given_before_the_backup_is_there_and_decided_once(made: Made, tmp_path: Path) -> None:
    home = new_home(made, tmp_path)
    done = assay(home, "backup", "restore", str(made.backup), "--erasures", str(made.erasures), settings=SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "erased again: " in done.stdout
    assert_journal_is_whole(home, SETTINGS)
    # With another number of workers than wrote it.
    with running(home, settings=SETTINGS | {"ASSAY_SERVER_WORKERS": "1"}) as (server, client):
        for request_id, decision in made.before.items():
            again = client.stub.Decide(consumer(STAYS, request_id=request_id), timeout=TIMEOUT_S).decision
            assert again.decision_id == decision.decision_id
            assert again.replayed
        assert get(client, made.by_person[STAYS]).record.application.subject.id == STAYS
        assert outcomes_of(client, made.by_person[STAYS]) == 1
        assert rows_of(client, STAYS) == made.rows[STAYS] > 0
        for person in (EARLY, LATE):
            assert get(client, made.by_person[person]).erased, person
            # Only what a decision of today counts could be there, and there was none.
            assert rows_of(client, person) == 0, person
        client.stub.Decide(consumer(STAYS), timeout=TIMEOUT_S)
        assert server.stop() == 0
    assert_journal_is_whole(home, SETTINGS)
    # The next restore, and the next list, know what was done again.
    listed = assay(home, "backup", "erasures", settings=SETTINGS)
    known = {(one["kind"], one["mark"]) for one in map(json.loads, listed.stdout.splitlines())}
    noted = {(one["kind"], one["mark"]) for one in map(json.loads, made.erasures.read_text().splitlines())}
    assert noted <= known
    assert {kind for kind, _ in noted} == {"subject", "entity"}


def test_without_a_list_of_erasures_it_says_who_is_back(made: Made, tmp_path: Path) -> None:
    home = new_home(made, tmp_path)
    done = assay(home, "backup", "restore", str(made.backup), settings=SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "persons erased after" in done.stderr
    shown = {person: assay(home, "audit", "show", made.by_person[person]).stdout for person in (EARLY, LATE)}
    assert '"personal_part": "erased"' in shown[EARLY]
    assert '"personal_part": "readable"' in shown[LATE]


def test_what_is_there_is_not_overwritten(made: Made, tmp_path: Path) -> None:
    home = new_home(made, tmp_path)
    (home / "decisions").mkdir()
    (home / "decisions" / "w0-00000001.journal").write_bytes(b"somebody's")
    done = assay(home, "backup", "restore", str(made.backup), settings=SETTINGS)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert (home / "decisions" / "w0-00000001.journal").read_bytes() == b"somebody's"
    assert not (home / "features").exists(), "nothing else was put in place either"
    assert assay(made.home, "backup", "create", str(made.backup), settings=SETTINGS).returncode == 1


def test_another_master_key_opens_nothing(made: Made, tmp_path: Path) -> None:
    home = new_home(made, tmp_path)
    (home / KEY).write_text("7" * 64 + "\n")
    done = assay(home, "backup", "restore", str(made.backup), settings=SETTINGS)
    assert done.returncode == 1
    assert "another master key" in done.stderr
    (home / KEY).unlink()
    assert assay(home, "backup", "restore", str(made.backup), settings=SETTINGS).returncode == 1
    assert not (home / "decisions").exists()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _segment(backup: Path) -> Path:
    return sorted((backup / "decisions").glob("*.journal"))[1]


def _put_in(backup: Path) -> None:
    (backup / "decisions" / "w7-00000001.journal").write_bytes(b"x")


def _drop_a_segment_and_its_entry(backup: Path) -> None:
    """Who alters the manifest as well is found by its signature."""
    path = _segment(backup)
    manifest = json.loads((backup / "manifest.json").read_text())
    manifest["files"] = [one for one in manifest["files"] if not one["path"].endswith(path.name)]
    (backup / "manifest.json").write_text(json.dumps(manifest))
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda backup: _flip(_segment(backup)), "digest differs"),
        (lambda backup: _flip(next((backup / "keys").iterdir())), "digest differs"),
        (lambda backup: _segment(backup).unlink(), "is missing"),
        (_put_in, "not in the manifest"),
        (_drop_a_segment_and_its_entry, "altered"),
        (lambda backup: (backup / "manifest.json").unlink(), "no whole backup"),
    ],
    ids=["segment", "keys", "missing", "put in", "manifest", "no manifest"],
)
def test_a_backup_that_was_changed_is_not_restored(
    made: Made, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    home, backup = new_home(made, tmp_path / "home"), tmp_path / "backup"
    shutil.copytree(made.backup, backup)
    spoil(backup)
    places = Places(
        home / "decisions", home / KEY, home / "features", home / "traffic", home / "bundles", home / "bundle"
    )
    with pytest.raises(RecordError, match=said):
        restore(backup, places, MasterKey.read(home / KEY))
    assert [path.name for path in home.iterdir()] == ["var"], "nothing was put in place, and nothing left over"
    if (backup / "manifest.json").exists() and said != "altered":
        assert not check(backup, None).is_whole, "also found without the key"


def test_one_file_and_no_keys(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "tuesday.tar"
    done = assay(made.home, "backup", "create", str(file), "--without", "keys", settings=SETTINGS)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tuesday.tar"]
    assert file.stat().st_mode & 0o077 == 0
    said = json.loads(assay(made.home, "backup", "verify", str(file), "--json", settings=SETTINGS).stdout)
    assert said["is_whole"]
    assert said["signatures_checked"]
    assert "keys" not in said["parts"]
    home = new_home(made, tmp_path / "home")
    assert assay(home, "backup", "restore", str(file), settings=SETTINGS).returncode == 0
    shown = assay(home, "audit", "show", made.by_person[STAYS]).stdout
    assert '"personal_part": "locked"' in shown
    assert_journal_is_whole(home, SETTINGS)


def test_no_secret_is_in_a_backup(made: Made) -> None:
    key = (made.home / KEY).read_text().strip()
    for path in made.backup.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert key.encode() not in content, path
            assert bytes.fromhex(key) not in content, path
            assert path.stat().st_mode & 0o077 == 0, path
