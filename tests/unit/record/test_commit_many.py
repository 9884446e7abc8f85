"""Decisions that are recorded together are recorded as each alone would be, and one that cannot be harms no other."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.record.journal import MIN_SEGMENT_BYTES
from engine.record.key_files import HEADER_BYTES, key_files
from engine.record.log import Claimed, Commit, DecisionLog, Existing, Position
from engine.record.master import MasterKey
from engine.record.segments import Frame, list_segments, scan, segment_path
from engine.record.subject_keys import SubjectKeys
from engine.record.verify import verify

MASTER = MasterKey(b"m" * 32)
DIGEST, OPEN, PERSONAL = b"d" * 33, b"verdict and scores ", b"income 4711"


def items(log: DecisionLog, names: range, subjects: int = 5, size: int = 0) -> list[Commit]:
    """Decisions about a few subjects, claimed."""
    made = [
        Commit(b"r%d" % n, f"id-{n}", DIGEST, OPEN + b"%d" % n + b"x" * size, PERSONAL, f"subject-{n % subjects}", "DE")
        for n in names
    ]
    assert all(log.claim(one.request_key, DIGEST) == Claimed() for one in made)
    return made


def is_kept(log: DecisionLog, one: Commit, position: Position | RecordError) -> bool:
    stored = log.get_by_decision_id(one.decision_id)
    return (
        stored is not None
        and stored.position == position
        and stored.record == one.record + one.personal
        and log.claim(one.request_key, DIGEST) == Existing(one.decision_id, position)
    )


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """As a full disk: no file of this process may grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("durability", ["process", "disk"])
@pytest.mark.parametrize("master", [None, MASTER])
def test_what_is_recorded_together_is_found_read_and_chained(
    tmp_path: Path, durability: str, master: MasterKey | None
) -> None:
    log = DecisionLog.open(tmp_path, durability=durability, master=master, segment_bytes=MIN_SEGMENT_BYTES)  # type: ignore[arg-type]
    # Over several segments, and more than one write takes.
    many = items(log, range(600), size=200)
    positions = log.commit_many(many)
    one = items(log, range(600, 601))[0]
    positions.append(log.commit(*one))
    assert len(list_segments(tmp_path)) > 1
    assert sorted(positions, key=lambda p: p if isinstance(p, Position) else Position("", 0)) == positions
    for _ in range(2):
        assert all(is_kept(log, *pair) for pair in zip([*many, one], positions, strict=True))
        log._feed.flush()
    assert log.commit_many([]) == []
    log.close()
    assert all(report.is_whole for report in verify(tmp_path, head_key=None if master is None else master.heads))
    again = DecisionLog.open(tmp_path, durability=durability, master=master)  # type: ignore[arg-type]
    assert all(is_kept(again, *pair) for pair in zip([*many, one], positions, strict=True))
    again.close()


def test_together_is_the_same_bytes_as_one_by_one(tmp_path: Path) -> None:
    payloads = []
    for name in ("together", "alone"):
        log = DecisionLog.open(tmp_path / name)
        many = items(log, range(20))
        if name == "together":
            log.commit_many(many)
        else:
            for one in many:
                log.commit(*one)
        head = log.head()
        log.close()
        frames = [item for s in list_segments(tmp_path / name) for item in scan(tmp_path / name, s)]
        payloads.append((head, [(f.payload, f.sequence, f.link, f.position) for f in frames if isinstance(f, Frame)]))
    assert payloads[0] == payloads[1]
    assert len(payloads[0][1]) == 20


def test_one_that_cannot_be_recorded_harms_no_other(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, master=MASTER)
    good = items(log, range(3))
    claimed = items(log, range(10, 12))
    bad = [
        claimed[0]._replace(decision_id=""),
        good[0]._replace(request_key=b"not claimed"),
        claimed[1]._replace(record=b"x" * ((64 << 20) + 1)),
    ]
    given = [good[0], bad[0], good[1], bad[1], bad[2], good[2]]
    found = log.commit_many(given)
    assert [isinstance(one, RecordError) for one in found] == [False, True, False, True, True, False]
    assert all(is_kept(log, *pair) for pair in zip(given, found, strict=True) if pair[0] in good)
    # A claim stands that was not committed: by who has it, it can be committed still.
    assert isinstance(log.commit_many([claimed[0], claimed[1]._replace(record=b"")])[0], Position)
    with pytest.raises(RecordError, match="not claimed"):
        raise log.commit_many([claimed[0]])[0]  # type: ignore[misc]
    log.close()


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_what_a_full_disk_has_room_for_is_recorded_and_the_rest_said(tmp_path: Path, durability: str) -> None:
    log = DecisionLog.open(tmp_path, durability=durability)  # type: ignore[arg-type]
    first = items(log, range(1))
    positions = log.commit_many(first)
    path = segment_path(tmp_path, list_segments(tmp_path)[0])
    many = items(log, range(1, 11), size=1000)
    with file_size_limit(path.stat().st_size + 4500):
        found = log.commit_many(many)
    lost = [one for one, place in zip(many, found, strict=True) if isinstance(place, RecordError)]
    assert 0 < len(lost) < 10
    assert all(log.get_by_decision_id(one.decision_id) is None for one in lost)
    positions += found
    assert all(
        is_kept(log, *pair) for pair in zip([*first, *many], positions, strict=True) if isinstance(pair[1], Position)
    )
    later = log.commit_many(lost)
    assert all(is_kept(log, *pair) for pair in zip(lost, later, strict=True))
    log.close()
    assert all(report.is_whole for report in verify(tmp_path))


def test_a_bound_is_kept_item_by_item(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, bytes_max=3_000_000, segment_bytes=1 << 20)
    many = items(log, range(40), size=100_000)
    found = log.commit_many(many)
    kept = [isinstance(one, Position) for one in found]
    assert any(kept)
    assert not all(kept)
    assert all("bound" in str(one) for one in found if isinstance(one, RecordError))
    log.close()


def test_on_disk_they_share_one_sync_and_none_is_told_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog.open(tmp_path, durability="disk", master=MASTER)
    log.commit_many(items(log, range(1)))
    synced: dict[int, int] = {}
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        found = os.fstat(fd)
        real(fd)
        synced[found.st_ino] = found.st_size

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fdatasync)
        # A subject for each.
        many = items(log, range(1, 21), subjects=100)
        positions = log.commit_many(many)
    (segment,) = list_segments(tmp_path)
    (keys,) = key_files(tmp_path / "keys")
    # The keys and the segment, each once, and whole.
    assert synced == {path.stat().st_ino: path.stat().st_size for path in (keys, segment_path(tmp_path, segment))}
    assert all(is_kept(log, *pair) for pair in zip(many, positions, strict=True))

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    lost = items(log, range(30, 35))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        found = log.commit_many(lost)
    assert ["durable" in str(one) for one in found if isinstance(one, RecordError)] == [True] * 5
    log._feed.flush()
    assert all(log.get_by_decision_id(one.decision_id) is None for one in lost)
    assert all(is_kept(log, *pair) for pair in zip(lost, log.commit_many(lost), strict=True))
    log.close()
    assert all(report.is_whole for report in verify(tmp_path, head_key=MASTER.heads))


def test_new_keys_are_written_together_and_each_is_its_subjects_own(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, master=MASTER)
    many = items(log, range(40), subjects=20)
    positions = log.commit_many(many)
    (path,) = key_files(tmp_path / "keys")
    # A subject that comes twice has one key.
    assert (path.stat().st_size - HEADER_BYTES) % 20 == 0
    assert log.erase("subject-3")
    for one, position in zip(many, positions, strict=True):
        assert isinstance(position, Position)
        assert log.read(position).erased == (one.subject == "subject-3")
    # A key that was made earlier is looked at again, and an erased one not used.
    later = items(log, range(100, 110), subjects=10)
    for one, position in zip(later, log.commit_many(later), strict=True):
        assert is_kept(log, one, position)
    log.close()


def test_keys_that_cannot_be_written_fail_their_records_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DecisionLog.open(tmp_path, master=MASTER)
    log.commit_many(items(log, range(2)))
    many = items(log, range(5, 10), subjects=100) + items(log, range(10, 12))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        found = log.commit_many(many)
    assert [isinstance(one, RecordError) for one in found] == [True] * 5 + [False] * 2
    assert "key of a subject cannot be written" in str(found[0])
    again = log.commit_many(many[:5])
    assert all(is_kept(log, *pair) for pair in zip(many, again + found[5:], strict=True))
    log.close()


def test_keys_made_together_fill_their_files(tmp_path: Path) -> None:
    keys = SubjectKeys(tmp_path, MASTER, "w0", slots_per_file=4)
    given = [(f"id-{n}", f"s{n}", b"p%d" % n, "") for n in range(10)]
    sealed = keys.seal_many(given)
    sizes = [path.stat().st_size for path in key_files(tmp_path / "keys")]
    assert len(sizes) == 3
    assert sizes[0] == sizes[1] > sizes[2]
    for (decision_id, subject, personal, _), part in zip(given, sealed, strict=True):
        assert isinstance(part, bytes)
        assert keys.unseal(decision_id, part) == personal
        assert keys.erase(subject) == 1
        assert keys.unseal(decision_id, part) is None
    keys.close()


def test_threads_that_record_together_keep_one_chain(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, master=MASTER, segment_bytes=MIN_SEGMENT_BYTES)

    def work(thread: int) -> bool:
        many = [items(log, range(thread * 1000 + n, thread * 1000 + n + 8), size=300) for n in range(0, 80, 8)]
        return all(is_kept(log, *pair) for each in many for pair in zip(each, log.commit_many(each), strict=True))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    log.close()
    (report,) = verify(tmp_path, head_key=MASTER.heads)
    assert report.is_whole
