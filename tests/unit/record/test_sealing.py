"""A person can be erased: nobody reads the personal part any more, the rest still reads, and the chain is whole."""

from __future__ import annotations

import hmac
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, sha256
from pathlib import Path

import pytest

from engine.errors import ConfigError, RecordError
from engine.record import key_files as key_files_module
from engine.record import subject_keys
from engine.record.entries import KeyNotHere, unpack_decision, unpack_erasure
from engine.record.key_files import HEADER_BYTES, KeySlot, key_files
from engine.record.log import Claimed, Conflict, DecisionLog, Existing, StoredDecision
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind, segment_path
from engine.record.subject_keys import SubjectKeys
from engine.record.verify import verify

MASTER = MasterKey(b"m" * 32)
OPEN, PERSONAL = b"verdict and scores", b"income 4711, born 1980"
DAY_US = 86_400_000_000


def decide(log: DecisionLog, name: str, subject: str, country: str = "") -> StoredDecision:
    assert log.claim(name.encode(), b"d" * 33) == Claimed()
    log.commit(name.encode(), "id-" + name, b"d" * 33, OPEN, PERSONAL + name.encode(), subject, country)
    return get(log, name)


def get(log: DecisionLog, name: str) -> StoredDecision:
    stored = log.get_by_decision_id("id-" + name)
    assert stored is not None
    return stored


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    opened = DecisionLog.open(tmp_path, master=MASTER)
    yield opened
    opened.close()


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_a_sealed_record_reads_as_it_was_given_and_stands_nowhere_in_clear(log: DecisionLog, tmp_path: Path) -> None:
    stored = decide(log, "a", "anna-4711")
    assert (stored.record, stored.open_part) == (OPEN + PERSONAL + b"a", OPEN)
    assert not stored.erased
    assert not stored.locked
    assert stored.sealed
    on_disk = everything(tmp_path)
    assert OPEN in on_disk
    assert PERSONAL not in on_disk
    assert b"anna-4711" not in on_disk
    assert get(log, "a") == stored == log.get_by_request_key(b"a")


def test_an_erased_person_is_gone_and_nobody_else_and_the_chain_is_whole(log: DecisionLog, tmp_path: Path) -> None:
    for name, subject in (("a", "anna"), ("b", "bert"), ("c", "anna")):
        decide(log, name, subject)
    assert log.erase("anna")
    assert not log.erase("anna")
    assert not log.erase("nobody")
    for name in ("a", "c"):
        stored = get(log, name)
        assert (stored.record, stored.erased, stored.locked) == (OPEN, True, False)
    assert get(log, "b").record == OPEN + PERSONAL + b"b"
    # A later request is a new matter.
    assert decide(log, "d", "anna").record == OPEN + PERSONAL + b"d"
    assert get(log, "a").erased
    (report,) = verify(tmp_path, MASTER.heads, processes=1)
    assert report.is_whole
    assert (report.decisions, report.frames) == (4, 5)
    erasures = [f for f in JournalReader(tmp_path).frames("w0") if isinstance(f, Frame) and f.kind == FrameKind.ERASED]
    (erasure,) = map(unpack_erasure, erasures)
    assert (erasure.mark, erasure.keys) == (MASTER.subject_mark("anna"), 1)
    assert abs(erasure.moment_us - time.time_ns() // 1000) < 60_000_000


def test_an_erased_key_is_nowhere_in_the_files(log: DecisionLog, tmp_path: Path) -> None:
    stored = decide(log, "a", "anna")
    assert log.keys is not None
    key = log.keys.key_of(stored.sealed)
    assert isinstance(key, KeySlot)
    assert key.secret in everything(tmp_path / "keys")
    log.erase("anna")
    on_disk = everything(tmp_path / "keys")
    assert key.secret not in on_disk
    assert MASTER.subject_mark("anna") not in on_disk


def test_a_key_is_a_subjects_own_and_shared_by_its_records(log: DecisionLog) -> None:
    assert log.keys is not None
    keys = [log.keys.key_of(decide(log, name, s).sealed) for name, s in (("a", "anna"), ("b", "bert"), ("c", "anna"))]
    assert keys[0] == keys[2] != keys[1]
    assert keys[0] is not None
    assert keys[0].mark == MASTER.subject_mark("anna")


def test_every_worker_sees_an_erasure_at_once(tmp_path: Path) -> None:
    """What one erases, the other neither reads nor seals with, though it holds the key in memory."""
    one, two = SubjectKeys(tmp_path, MASTER, "w0"), SubjectKeys(tmp_path, MASTER, "w1")
    sealed = [one.seal("id", "anna", b"p"), two.seal("id", "anna", b"p"), two.seal("id", "bert", b"p")]
    for keys in (one, two):
        assert [keys.unseal("id", part) for part in sealed] == [b"p"] * 3
    assert one.erase("anna") == 2
    for keys in (one, two):
        assert [keys.unseal("id", part) for part in sealed] == [None, None, b"p"]
        again = keys.seal("id", "anna", b"p")
        assert one.unseal("id", again) == two.unseal("id", again) == b"p"
    two.close()
    one.close()


def test_records_and_erasures_outlive_a_restart(tmp_path: Path) -> None:
    for run in range(3):
        log = DecisionLog.open(tmp_path, master=MASTER)
        decide(log, f"anna-{run}", "anna")
        decide(log, f"bert-{run}", "bert")
        if run == 1:
            log.erase("anna")
        log.close()
    log = DecisionLog.open(tmp_path, master=MASTER)
    assert [get(log, f"anna-{run}").erased for run in range(3)] == [True, True, False]
    assert [get(log, f"bert-{run}").record for run in range(3)] == [OPEN + PERSONAL + b"bert-%d" % r for r in range(3)]
    assert len(key_files(tmp_path / "keys")) == 1
    log.close()


def test_what_a_crash_left_of_a_key_is_written_over(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, master=MASTER)
    decide(log, "a", "anna")
    log.close()
    (path,) = key_files(tmp_path / "keys")
    with path.open("ab") as file:
        file.write(b"\x01half a slot")
    log = DecisionLog.open(tmp_path, master=MASTER)
    decide(log, "b", "bert")
    assert get(log, "a").record == OPEN + PERSONAL + b"a"
    assert get(log, "b").record == OPEN + PERSONAL + b"b"
    log.close()


def test_after_another_start_of_the_machine_no_slot_is_used_for_two_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power was lost, and a key with it, while its record was kept: it is locked, and opens with nobody else's key."""
    keys = SubjectKeys(tmp_path, MASTER, "w0")
    kept, lost = keys.seal("id-1", "anna", b"1"), keys.seal("id-2", "bert", b"2")
    keys.close()
    (path,) = key_files(tmp_path / "keys")
    os.truncate(path, path.stat().st_size - 1)
    monkeypatch.setattr(key_files_module, "boot_mark", lambda: b"b" * 16)
    monkeypatch.setattr(subject_keys, "boot_mark", lambda: b"b" * 16)
    keys = SubjectKeys(tmp_path, MASTER, "w0")
    assert keys.unseal("id-3", keys.seal("id-3", "carl", b"3")) == b"3"
    assert keys.unseal("id-1", kept) == b"1"
    with pytest.raises(KeyNotHere):
        keys.unseal("id-2", lost)
    # The file that takes no further key gives its space back with its last one.
    assert keys.expire(time.time_ns() // 1000 + 9 * DAY_US, {"": 1}) == 2
    assert path.stat().st_size == HEADER_BYTES
    assert keys.unseal("id-1", kept) is None
    keys.close()


def test_without_the_key_a_record_is_locked_and_not_called_erased(log: DecisionLog, tmp_path: Path) -> None:
    decide(log, "a", "anna")
    (stored,) = JournalReader(tmp_path).decisions()
    assert (stored.record, stored.erased, stored.locked) == (OPEN, False, True)
    (opened,) = JournalReader(tmp_path, SubjectKeys(tmp_path, MASTER)).decisions()
    assert opened == get(log, "a")
    shutil.copytree(tmp_path, tmp_path.parent / "copy", ignore=shutil.ignore_patterns("keys"))
    (elsewhere,) = JournalReader(tmp_path.parent / "copy", SubjectKeys(tmp_path.parent / "copy", MASTER)).decisions()
    assert (elsewhere.erased, elsewhere.locked) == (False, True)


def test_a_sealed_part_belongs_to_its_decision_and_cannot_be_changed(log: DecisionLog) -> None:
    stored = decide(log, "a", "anna")
    assert log.keys is not None
    assert log.keys.unseal("id-a", stored.sealed) == PERSONAL + b"a"
    changed = bytearray(stored.sealed)
    changed[-1] ^= 1
    for decision_id, sealed in (("id-b", stored.sealed), ("id-a", bytes(changed))):
        with pytest.raises(RecordError, match="altered"):
            log.keys.unseal(decision_id, sealed)
    with pytest.raises(RecordError, match="cut short"):
        log.keys.unseal("id-a", stored.sealed[:5])


def test_sealing_can_be_turned_off_and_sealed_records_still_read(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, master=MASTER)
    decide(log, "a", "anna")
    log.close()
    log = DecisionLog.open(tmp_path, master=MASTER, seal=False)
    stored = decide(log, "b", "anna")
    assert (stored.record, stored.sealed) == (OPEN + PERSONAL + b"b", b"")
    assert get(log, "a").record == OPEN + PERSONAL + b"a"
    assert log.erase("anna")
    assert get(log, "a").erased
    assert get(log, "b").record == stored.record
    log.close()
    plain = DecisionLog.open(tmp_path / "plain")
    assert decide(plain, "c", "anna").record == OPEN + PERSONAL + b"c"
    assert not plain.erase("anna")
    plain.close()


def test_a_shadow_is_sealed_as_a_decision_is(log: DecisionLog, tmp_path: Path) -> None:
    position = log.append_shadow("id-s", OPEN, PERSONAL, "anna")
    (frame,) = [f for f in JournalReader(tmp_path).frames("w0") if isinstance(f, Frame)]
    assert (frame.position, frame.kind) == (position, FrameKind.SHADOW)
    assert unpack_decision(frame, log.keys).record == OPEN + PERSONAL
    assert log.get_by_decision_id("id-s") is None
    log.erase("anna")
    assert unpack_decision(frame, log.keys).erased


def test_threads_seal_while_subjects_are_erased(log: DecisionLog, tmp_path: Path) -> None:
    """Whatever the order: a record reads whole or is said to be erased, and what was begun after an erasure reads."""

    def work(thread: int) -> None:
        for n in range(60):
            decide(log, f"{thread}-{n}", f"s{n % 3}")
            if n % 7 == thread % 7:
                log.erase(f"s{n % 3}")
                # Another thread may erase it again at once; one that nobody else erases may not be lost.
                own = f"own-{thread}-{n}"
                assert decide(log, own, own).record.startswith(OPEN + PERSONAL)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    for stored in log.iterate():
        assert not stored.locked
        assert stored.record == OPEN if stored.erased else stored.record.startswith(OPEN + PERSONAL)
    assert verify(tmp_path, MASTER.heads, processes=1)[0].is_whole


def test_many_keys_go_over_many_files_and_all_of_a_subject_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_keys, "_CACHED", 4)
    keys = SubjectKeys(tmp_path, MASTER, "w0", slots_per_file=10)
    sealed = [keys.seal(f"id-{n}", "anna" if n % 5 == 0 else f"s{n}", b"%d" % n) for n in range(100)]
    assert len(key_files(tmp_path / "keys")) == 10
    assert keys.erase("anna") == 20
    assert [keys.unseal(f"id-{n}", sealed[n]) for n in range(100)] == [
        None if n % 5 == 0 else b"%d" % n for n in range(100)
    ]
    keys.close()


def test_keys_go_by_age_and_country_and_their_files_give_the_space_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SubjectKeys(tmp_path, MASTER, "w0", slots_per_file=4)
    sealed = {c + str(n): keys.seal("id", f"{c}{n}", b"p", c) for c in ("DE", "AT") for n in range(4)}
    now_us = time.time_ns() // 1000
    assert keys.expire(now_us + 9 * DAY_US, {"DE": 10, "AT": 20}) == 0
    assert keys.expire(now_us + 12 * DAY_US, {"DE": 10, "": 20}) == 4
    assert [name for name, part in sealed.items() if keys.unseal("id", part) is None] == ["DE0", "DE1", "DE2", "DE3"]
    assert sorted(p.stat().st_size == HEADER_BYTES for p in key_files(tmp_path / "keys")) == [False, True]
    assert keys.expire(now_us + 99 * DAY_US, {"DE": 10, "AT": 0}) == 0
    keys.close()
    again = SubjectKeys(tmp_path, MASTER, "w0", slots_per_file=4)
    assert again.unseal("id", sealed["DE1"]) is None
    assert again.unseal("id", sealed["AT1"]) == b"p"
    again.close()


def test_a_key_that_is_too_old_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = SubjectKeys(tmp_path, MASTER, "w0")
    monkeypatch.setattr(subject_keys, "REUSE_S", -1)
    first, second = (keys.key_of(keys.seal("id", "anna", b"p")) for _ in range(2))
    assert first != second
    assert keys.erase("anna") == 2
    keys.close()


# --- the master key -----------------------------------------------------------------------------------------------


def test_the_master_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "master.key"
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: MasterKey.load(path, tmp_path), range(8)))
    assert len({key.fingerprint for key in loaded}) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="read by others"):
        MasterKey.load(path, tmp_path)


def test_a_lost_master_key_is_not_made_anew_where_records_were_sealed(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    log = DecisionLog.open(tmp_path / "journal", master=MasterKey.load(path, tmp_path / "journal"))
    decide(log, "a", "anna")
    log.close()
    path.unlink()
    with pytest.raises(ConfigError, match="Restore it"):
        MasterKey.load(path, tmp_path / "journal")
    assert not path.exists()
    with pytest.raises(RecordError, match="another master key"):
        DecisionLog.open(tmp_path / "journal", master=MASTER)
    for wrong in ("", "zz", "00" * 31):
        path.write_text(wrong)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="holds no key"):
            MasterKey.load(path, tmp_path / "journal")


def test_what_is_derived_differs_by_purpose_and_by_key() -> None:
    other = MasterKey(b"n" * 32)
    derived = [MASTER.subject_mark("x"), MASTER.payload_digest(b"x"), MASTER.wrap_key(b"x"), MASTER.heads]
    assert len({bytes(d[-16:]) for d in derived}) == 4
    assert other.subject_mark("x") != MASTER.subject_mark("x")
    assert other.payload_digest(b"x") != MASTER.payload_digest(b"x")
    assert MASTER.payload_digest(b"x") != MASTER.payload_digest(b"y")
    with pytest.raises(ValueError, match="32 bytes"):
        MasterKey(b"short")


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000])
def test_what_is_derived_stays_what_it_was(content: bytes) -> None:
    """Journals are read for years: keys, marks and digests are those of the algorithms' own definitions."""

    def derived(purpose: bytes) -> bytes:
        return blake2b(key=b"m" * 32, digest_size=32, person=purpose).digest()

    name = content.decode()
    assert MASTER.payload_digest(content) == b"\x01" + hmac.digest(derived(b"payloads"), content, "sha256")
    assert MASTER.wrap_key(content) == blake2b(content, key=derived(b"subject keys"), digest_size=32).digest()
    assert MASTER.subject_mark(name) == blake2b(content, key=derived(b"subjects"), digest_size=16).digest()
    # Taking one changes nothing of the next.
    assert MASTER.payload_digest(content) == MASTER.payload_digest(content)


def test_a_request_from_before_digests_were_keyed_is_known_again(log: DecisionLog) -> None:
    payload, plain = b"the application", sha256(b"the application").digest()
    log.claim(b"old", plain)
    position = log.commit(b"old", "id-old", plain, OPEN)
    keyed = MASTER.payload_digest(payload)
    assert log.claim(b"old", keyed, lambda: plain) == Existing("id-old", position)
    assert log.claim(b"old", keyed) == Conflict("id-old")
    assert log.claim(b"old", MASTER.payload_digest(b"other"), lambda: sha256(b"other").digest()) == Conflict("id-old")

    def never() -> bytes:
        raise AssertionError("asked for without need")

    log.claim(b"new", keyed, never)
    log.commit(b"new", "id-new", keyed, OPEN)
    assert isinstance(log.claim(b"new", keyed, never), Existing)
    assert log.claim(b"new", MASTER.payload_digest(b"other"), never) == Conflict("id-new")


# --- durability ---------------------------------------------------------------------------------------------------


def test_in_disk_mode_a_key_is_durable_before_its_record_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[int, int] = {}
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        found = os.fstat(fd)
        real(fd)
        synced[found.st_ino] = max(synced.get(found.st_ino, 0), found.st_size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    log = DecisionLog.open(tmp_path, master=MASTER, durability="disk", segment_bytes=1 << 16)
    failures: list[str] = []

    def work(thread: int) -> None:
        for n in range(40):
            log.claim(b"%d.%d" % (thread, n), b"d" * 33)
            name = f"{thread}.{n}"
            position = log.commit(name.encode(), name, b"d" * 33, OPEN, PERSONAL * 50, name)
            segment = segment_path(tmp_path, position.segment).stat().st_ino
            (path,) = key_files(tmp_path / "keys")
            slots = synced.get(path.stat().st_ino, 0)
            if synced.get(segment, 0) <= position.offset or slots < HEADER_BYTES or not _holds(path, slots, name):
                failures.append(name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    log.close()
    assert not failures


def _holds(path: Path, until: int, subject: str) -> bool:
    return MASTER.subject_mark(subject) in path.read_bytes()[:until]


def test_a_key_that_cannot_be_written_fails_the_commit_and_leaves_nothing(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(log, "a", "anna")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    log.claim(b"b", b"d" * 33)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(RecordError, match="key of a subject cannot be written: No space"):
            log.commit(b"b", "id-b", b"d" * 33, OPEN, PERSONAL, "bert")
    assert log.get_by_decision_id("id-b") is None
    log.commit(b"b", "id-b", b"d" * 33, OPEN, PERSONAL, "bert")
    assert get(log, "b").record == OPEN + PERSONAL


def test_erasing_reaches_processes_that_hold_the_key_in_memory(tmp_path: Path) -> None:
    """A real second process seals with a cached key, is told nothing, and seals with another one after the erasure."""
    code = """
import sys
from pathlib import Path
from engine.record.master import MasterKey
from engine.record.log import DecisionLog
log = DecisionLog.open(sys.argv[1], worker="w1", master=MasterKey(b"m" * 32))
for line in sys.stdin:
    name = line.strip()
    log.claim(name.encode(), b"d")
    log.commit(name.encode(), name, b"d", b"open", b"personal", "anna")
    print("done", flush=True)
log.close()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(name: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    try:
        ask("before-1")
        ask("before-2")
        log = DecisionLog.open(tmp_path, master=MASTER)
        assert log.erase("anna")
        ask("after")
        found = {d.decision_id: (d.erased, d.record) for d in log.iterate()}
        assert found == {
            "before-1": (True, b"open"),
            "before-2": (True, b"open"),
            "after": (False, b"openpersonal"),
        }
        log.close()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_a_master_key_can_be_sent_to_another_process() -> None:
    key = MasterKey(b"\x07" * 32)
    sent = pickle.loads(pickle.dumps(key))
    assert sent.payload_digest(b"payload") == key.payload_digest(b"payload")
    assert sent.subject_mark("s") == key.subject_mark("s")
    assert sent.wrap_key(b"secret") == key.wrap_key(b"secret")
    assert (sent.heads, sent.fingerprint) == (key.heads, key.fingerprint)
