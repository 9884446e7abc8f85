"""The journal keeps what it said it kept, whatever the disk does."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.record.journal import MIN_SEGMENT_BYTES, Durability, Journal, unpack_declared
from engine.record.segments import Frame, FrameKind, Position, list_segments, scan, segment_path

DURABILITIES: tuple[Durability, ...] = ("process", "disk")


def frames(directory: Path) -> list[Frame]:
    found = [item for segment in list_segments(directory) for item in scan(directory, segment)]
    assert all(isinstance(item, Frame) for item in found), found
    return [item for item in found if isinstance(item, Frame)]


def decisions(directory: Path) -> list[bytes]:
    return [frame.payload for frame in frames(directory) if frame.kind == FrameKind.DECISION]


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


@pytest.mark.parametrize("durability", DURABILITIES)
def test_threads_append_and_every_frame_is_where_it_was_said_to_be(tmp_path: Path, durability: Durability) -> None:
    journal = Journal(tmp_path, "w0", durability=durability, segment_bytes=MIN_SEGMENT_BYTES)
    payloads = [b"%d:" % i + b"x" * (i * 37 % 3000) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        positions = list(pool.map(lambda p: journal.append(FrameKind.DECISION, p[:2], p[2:]), payloads))
    journal.close()
    found = {frame.position: frame.payload for frame in frames(tmp_path)}
    assert found == dict(zip(positions, payloads, strict=True))
    assert len(list_segments(tmp_path)) > 5


def test_segments_end_before_the_bound_and_only_a_larger_frame_goes_beyond(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0", segment_bytes=MIN_SEGMENT_BYTES)
    payloads = [b"a" * 20_000] * 5 + [b"b" * (MIN_SEGMENT_BYTES * 2)] + [b"c"]
    for payload in payloads:
        journal.append(FrameKind.DECISION, payload)
    journal.close()
    assert decisions(tmp_path) == payloads
    sizes = [segment_path(tmp_path, segment).stat().st_size for segment in list_segments(tmp_path)]
    assert [size > MIN_SEGMENT_BYTES for size in sizes] == [False, False, True, False]


def test_a_journal_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    for i in range(3):
        journal = Journal(tmp_path, "w0")
        assert journal.append(FrameKind.DECISION, b"%d" % i).segment == f"w0-{i + 1:08d}"
        journal.close()
    assert decisions(tmp_path) == [b"0", b"1", b"2"]
    Journal(tmp_path, "w0").close()
    assert len(list_segments(tmp_path)) == 3


def test_what_is_declared_stands_in_every_segment_before_its_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0", segment_bytes=MIN_SEGMENT_BYTES)
    noted: list[tuple[object, Position]] = []
    journal.on_append = lambda tag, position, end, mark: noted.append((tag, position))
    journal.declare(FrameKind.CATALOGUE, "sha256:a", b"slots")
    journal.append(FrameKind.DECISION, b"1")
    journal.declare(FrameKind.ENVIRONMENT, "sha256:e", b"libraries")
    journal.declare(FrameKind.CATALOGUE, "sha256:a", b"slots")
    for _ in range(4):
        journal.append(FrameKind.DECISION, b"x" * 30_000)
    journal.close()
    by_segment = [[f for f in scan(tmp_path, s) if isinstance(f, Frame)] for s in list_segments(tmp_path)]
    kinds = [[frame.kind for frame in found] for found in by_segment]
    assert kinds == [[2, 1], [2, 3, 1, 1], [2, 3, 1, 1]]
    assert unpack_declared(by_segment[1][0].payload) == ("sha256:a", b"slots")
    assert unpack_declared(by_segment[1][1].payload) == ("sha256:e", b"libraries")
    assert [position for _, position in noted] == [f.position for found in by_segment for f in found if f.kind != 1]


def test_two_writers_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0")
    with pytest.raises(RecordError, match="another process"):
        Journal(tmp_path, "w0")
    Journal(tmp_path, "w1").close()
    journal.close()
    Journal(tmp_path, "w0").close()


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal", "w0")
    journal.append(FrameKind.DECISION, b"1")
    journal.close()
    assert stat.S_IMODE((tmp_path / "deep" / "journal").stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "deep" / "journal").iterdir()} == {0o600}


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0")
    journal.append(FrameKind.DECISION, b"1")
    journal.close()
    journal.close()
    with pytest.raises(RecordError, match="closed"):
        journal.append(FrameKind.DECISION, b"2")
    assert decisions(tmp_path) == [b"1"]


@pytest.mark.parametrize(
    "settings", [{"segment_bytes": 1}, {"segment_bytes": 1 << 40}, {"durability": "ram"}, {"worker": "a-b"}]
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Journal(tmp_path, **{"worker": "w0", **settings})  # type: ignore[arg-type]


def test_a_record_too_large_is_refused_and_the_next_is_taken(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0")
    with pytest.raises(RecordError, match="more than a journal takes"):
        journal.append(FrameKind.DECISION, b"x" * ((64 << 20) + 1))
    journal.append(FrameKind.DECISION, b"1")
    journal.close()
    assert decisions(tmp_path) == [b"1"]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_full_disk_fails_the_append_leaves_nothing_behind_and_heals(tmp_path: Path, durability: Durability) -> None:
    journal = Journal(tmp_path, "w0", durability=durability)
    kept = [b"%03d" % i + b"x" * 1000 for i in range(20)]
    for payload in kept[:10]:
        journal.append(FrameKind.DECISION, payload)
    path = segment_path(tmp_path, list_segments(tmp_path)[0])
    size = path.stat().st_size
    # Room for a part of a frame, then for none at all.
    for room in (500, 0):
        with file_size_limit(size + room):
            for _ in range(3):
                with pytest.raises(RecordError, match="cannot be written"):
                    journal.append(FrameKind.DECISION, b"lost" * 1000)
        assert path.stat().st_size == size
        assert decisions(tmp_path) == kept[:10]
    for payload in kept[10:]:
        journal.append(FrameKind.DECISION, payload)
    journal.close()
    assert decisions(tmp_path) == kept


def test_a_disk_too_full_to_begin_a_segment_heals_as_well(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0")
    with file_size_limit(10), pytest.raises(RecordError, match="cannot begin a segment"):
        journal.append(FrameKind.DECISION, b"lost")
    assert list_segments(tmp_path) == []
    journal.append(FrameKind.DECISION, b"kept")
    journal.close()
    assert decisions(tmp_path) == [b"kept"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_file_system_without_space_fails_the_append_and_heals(tmp_path: Path) -> None:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"no tmpfs here: {mount.stderr.decode()}")
    try:
        filler = tmp_path / "filler"
        journal = Journal(tmp_path, "w0")
        journal.append(FrameKind.DECISION, b"first")
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(RecordError, match=r"No space|only a part"):
            journal.append(FrameKind.DECISION, b"x" * 9000)
        filler.unlink()
        journal.append(FrameKind.DECISION, b"x" * 9000)
        journal.close()
        assert decisions(tmp_path) == [b"first", b"x" * 9000]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_failed_fdatasync_fails_all_who_waited_and_the_segment_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "w0", durability="disk")
    marks: list[int] = []
    journal.on_append = lambda tag, position, end, mark: marks.append(mark)
    first = journal.append(FrameKind.DECISION, b"1", tag=1)
    everybody, broken = threading.Barrier(4), threading.Event()

    def fail(_: int) -> None:
        broken.wait(60)
        raise OSError(5, "Input/output error")

    def append(i: int) -> bool:
        everybody.wait()
        try:
            journal.append(FrameKind.DECISION, b"lost %d" % i, tag=i)
        except RecordError:
            return False
        return True

    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(os, "fdatasync", fail)
        answers = [pool.submit(append, i) for i in range(4)]
        while len(marks) < 5:
            threading.Event().wait(0.005)
        broken.set()
        assert [a.result() for a in answers] == [False] * 4
    after = journal.append(FrameKind.DECISION, b"2", tag=2)
    assert after.segment > first.segment
    assert [journal.is_durable(mark) for mark in marks] == [True, False, False, False, False, True]
    assert journal.is_durable(marks[-1] + 1) is None
    journal.close()


def test_in_disk_mode_nothing_returns_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power loss keeps what was there at the last fdatasync and no more: everything reported must be in it."""
    synced: dict[int, int] = {}
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        found = os.fstat(fd)
        real(fd)
        synced[found.st_ino] = max(synced.get(found.st_ino, 0), found.st_size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal = Journal(tmp_path, "w0", durability="disk", segment_bytes=MIN_SEGMENT_BYTES)
    failures: list[Position] = []
    calls = len(synced)

    def append(i: int) -> None:
        payload = b"x" * (i * 131 % 5000)
        position = journal.append(FrameKind.DECISION, payload)
        inode = segment_path(tmp_path, position.segment).stat().st_ino
        if synced.get(inode, 0) < position.offset + len(payload):
            failures.append(position)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(300)))
    journal.close()
    assert calls == 0
    assert not failures
    assert len(decisions(tmp_path)) == 300


def test_appends_that_wait_together_share_one_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "w0", durability="disk")
    journal.append(FrameKind.DECISION, b"begin")
    count, entered, go = 0, threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        nonlocal count
        count += 1
        entered.set()
        go.wait(60)

    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(journal.append, FrameKind.DECISION, b"0")
        entered.wait(60)
        rest = [pool.submit(journal.append, FrameKind.DECISION, b"%d" % i) for i in range(1, 21)]
        while len(decisions(tmp_path)) < 22:
            threading.Event().wait(0.005)
        assert not first.done()
        go.set()
        for future in (first, *rest):
            future.result(60)
    assert count == 2
    journal.close()


def test_the_journal_stands_alone() -> None:
    """The record stage stands on its own: importing the journal loads no protobuf, no store and no model runtime."""
    code = (
        "import sys, engine.record.log; print(sorted(m for m in sys.modules if m.split('.')[0] in ('google', 'numpy')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert out.stdout.strip() == "[]"
