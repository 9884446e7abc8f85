"""A journal copied while it is written and let go verifies; what was let go is still known after a restore; erasures
reach what was there before them and nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.backup.create import create
from engine.backup.erasures import Erasure, apply_to_features, apply_to_keys, read_list
from engine.backup.parts import Places
from engine.backup.restore import restore
from engine.backup.snapshot import copy_segments, snapshot
from engine.bundle.load import default_bundle
from engine.errors import RecordError
from engine.features.store import entity_prefix, row_key
from engine.features.stores.embedded import EmbeddedStore
from engine.record.journal import MIN_SEGMENT_BYTES
from engine.record.log import Claimed, DecisionLog, Existing, Position
from engine.record.master import MasterKey
from engine.record.segments import list_segments
from engine.record.subject_keys import SubjectKeys
from engine.record.verify import verify

KEY = b"m" * 32
MASTER = MasterKey(KEY)
DIGEST = b"d" * 33


def opened(directory: Path) -> DecisionLog:
    return DecisionLog.open(directory, segment_bytes=MIN_SEGMENT_BYTES, master=MASTER)


def decide(log: DecisionLog, n: int) -> Position:
    assert log.claim(b"r%d" % n, DIGEST) == Claimed()
    return log.commit(b"r%d" % n, f"id-{n}", DIGEST, b"x" * 6000, b"personal", f"s{n}")


def places(home: Path) -> Places:
    bundle = default_bundle()
    return Places(home / "decisions", home / "key", home / "features", home / "traffic", home / "bundles", bundle)


def test_a_journal_copied_while_it_is_written_and_let_go_verifies(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    log, stop = opened(journal), threading.Event()
    written = [decide(log, n) for n in range(30)]

    def work() -> None:
        n = len(written)
        while not stop.is_set():
            written.append(decide(log, n))
            n += 1
            if n % 11 == 0:
                log.drop_through(written[-5])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        begun = set()
        for turn in range(12):
            copy = tmp_path / f"copy-{turn}"
            copy.mkdir()
            with snapshot(journal) as taken:
                copy_segments(taken, copy, lambda _: None)
            (report,) = verify(copy, MASTER.heads, processes=1)
            assert report.findings == []
            assert report.decisions
            begun.add(report.first)
    finally:
        stop.set()
        thread.join()
        log.close()
    assert len(begun) > 3, "segments were let go meanwhile"


def test_request_ids_of_what_was_let_go_are_known_after_a_restore(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    log = opened(places(home).journal)
    positions = [decide(log, n) for n in range(40)]
    gone = log.drop_through(positions[-1])
    assert len(gone) > 2
    log.close()
    made = create(tmp_path / "backup", places(home), "", "embedded", MASTER)
    assert made.decisions < 40
    assert made.findings == 0
    restore(tmp_path / "backup", places(other), MASTER)
    log = opened(places(other).journal)
    try:
        assert log.claim(b"r0", DIGEST) == Existing("id-0", positions[0])
        assert log.claim(b"r39", DIGEST) == Existing("id-39", positions[39])
        # The chain goes on where it stood.
        chain = made.chains["w0"]
        after = decide(log, 40)
        assert after.segment not in list_segments(places(home).journal)
    finally:
        log.close()
    (report,) = verify(places(other).journal, MASTER.heads, processes=1)
    assert report.findings == []
    assert report.last == chain[0] + 1


def test_only_keys_made_before_the_erasure_go(tmp_path: Path) -> None:
    keys = SubjectKeys(tmp_path, MASTER, "w0")
    sealed = {name: keys.seal(f"id-{name}", name, b"personal") for name in ("a", "b")}
    created = keys.key_of(sealed["a"])
    assert created is not None
    mark = MASTER.subject_mark("a")
    assert apply_to_keys(tmp_path / "keys", [Erasure(created.created_us - 1, "subject", mark)]) == 0
    assert apply_to_keys(tmp_path / "keys", [Erasure(created.created_us, "entity", mark)]) == 0
    assert apply_to_keys(tmp_path / "keys", [Erasure(created.created_us, "subject", mark)]) == 1
    assert keys.unseal("id-a", sealed["a"]) is None
    assert keys.unseal("id-b", sealed["b"]) == b"personal"
    keys.close()


def test_rows_of_erased_persons_go_and_those_of_a_device_of_the_same_id_stay(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    rows = [row_key("applicant", "1001", view) for view in ("credit_file", "income")]
    others = [row_key("device", "1001", "device"), row_key("applicant", "1002", "income")]
    store.update([(key, lambda _: b"row") for key in (*rows, *others)])
    store.close()
    person = Erasure(5, "subject", MASTER.subject_mark("1001"))
    assert apply_to_features(tmp_path, [person], ["applicant"], None) == 0
    assert apply_to_features(tmp_path, [person], ["applicant"], MASTER) == 2
    store = EmbeddedStore(tmp_path)
    assert [key for key, _ in store.scan()] == sorted(others)
    store.close()
    from hashlib import blake2b

    device = Erasure(5, "entity", blake2b(entity_prefix("device", "1001"), digest_size=16).digest())
    assert apply_to_features(tmp_path, [device], [], None) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"at_us": 1, "kind": "subject", "mark": "00"}',
        '{"at_us": 1, "kind": "all", "mark": "' + "0" * 32 + '"}',
    ],
)
def test_a_list_that_makes_no_sense_is_not_taken_for_a_shorter_one(tmp_path: Path, line: str) -> None:
    good = Erasure(1, "subject", b"m" * 16)
    path = tmp_path / "erasures.jsonl"
    path.write_text(good.line() + "\n")
    assert read_list(path) == [good]
    path.write_text(good.line() + "\n" + line + "\n")
    with pytest.raises(RecordError, match="line 2"):
        read_list(path)


def test_a_broken_off_backup_is_no_backup(tmp_path: Path) -> None:
    home = tmp_path / "home"
    log = opened(places(home).journal)
    decide(log, 0)
    log.close()
    (tmp_path / "backup").write_text("a file")
    with pytest.raises(RecordError, match="there already"):
        create(tmp_path / "backup", places(home), "", "embedded", MASTER)
    # What fails half-way leaves nothing behind.
    (home / "features").mkdir()
    (home / "features" / "data.mdb").write_bytes(b"no store")
    with pytest.raises(Exception, match="embedded store"):
        create(tmp_path / "second", places(home), "", "embedded", MASTER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "home"]
