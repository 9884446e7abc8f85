"""What the shipper reads of segments that are written, torn or damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.record.segments import Frame, FrameKind, list_segments, segment_path
from engine.shipping.state import Checkpoint, ShippingState
from engine.shipping.tail import DAMAGED, Batch, oldest_moment_us, read_batch, waiting, workers_of
from tests.support.shipping import all_frames, commit, open_log


def read_all(directory: Path, worker: str = "w0", rows: int = 7, size: int = 1 << 20) -> list[Batch]:
    batches: list[Batch] = []
    at = None
    while (batch := read_batch(directory, worker, at, rows, size, now_s=2e9)) is not None:
        batches.append(batch)
        at = batch.upto
    return batches


def frames_of(batches: list[Batch]) -> list[Frame]:
    return [frame for batch in batches for frame in batch.frames]


def test_batches_hold_every_frame_once_and_are_bounded(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.declare_catalogue("sha256:c", b"slots")
    for _ in range(200):
        commit(log, size=1000)
    assert len(list_segments(tmp_path)) > 3
    batches = read_all(tmp_path)
    assert frames_of(batches) == all_frames(tmp_path)
    assert max(len(batch.frames) for batch in batches) <= 7
    assert [done.segment for batch in batches for done in batch.passed] == list_segments(tmp_path)[:-1]
    # One frame may be more than the bound, and then it is alone.
    assert all(len(batch.frames) <= 1 for batch in read_all(tmp_path, size=10))
    # What is written later is met by who goes on.
    last = batches[-1].upto
    assert read_batch(tmp_path, "w0", last, 100, 1 << 20) is None
    late = commit(log)
    (more,) = [read_batch(tmp_path, "w0", last, 100, 1 << 20)]
    assert more is not None
    assert late.encode() in more.frames[-1].payload
    log.close()


def test_a_torn_tail_is_waited_for_until_a_later_segment_begins(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    first = commit(log)
    commit(log)
    log.close()
    (segment,) = list_segments(tmp_path)
    path = segment_path(tmp_path, segment)
    os.truncate(path, path.stat().st_size - 5)
    found = read_batch(tmp_path, "w0", None, 100, 1 << 20)
    assert found is not None
    assert [first.encode() in frame.payload for frame in found.frames] == [True]
    assert not found.upto.complete
    assert waiting(tmp_path, "w0", found.upto)[0] > 0
    # Nobody waits for what is no frame.
    assert oldest_moment_us(tmp_path, segment, found.upto.offset) is None
    path.with_name("w0-00000002.journal").write_bytes(b"")
    following = read_batch(tmp_path, "w0", found.upto, 100, 1 << 20)
    assert following is not None
    assert following.passed == [Checkpoint(segment, found.upto.offset, complete=True)]


def test_damaged_bytes_are_handed_on_as_they_are(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for _ in range(100):
        commit(log, size=1000)
    log.close()
    whole = all_frames(tmp_path)
    first, second, *_ = list_segments(tmp_path)
    hit = whole[3]
    path = segment_path(tmp_path, first)
    content = bytearray(path.read_bytes())
    content[hit.end - 10] ^= 0xFF
    path.write_bytes(content)
    ruined = segment_path(tmp_path, second)
    header = bytearray(ruined.read_bytes())
    header[:400] = bytes(400)
    ruined.write_bytes(header)
    batches = read_all(tmp_path, size=4096)
    assert sum(batch.damage for batch in batches) >= 2
    got = frames_of(batches)
    damaged = [frame for frame in got if frame.kind == DAMAGED]
    here = b"".join(frame.payload for frame in damaged if frame.position.segment == first)
    assert here == bytes(content[hit.position.offset : hit.end])
    # A segment without a header is handed on whole, in portions.
    portions = [frame for frame in damaged if frame.position.segment == second]
    assert b"".join(frame.payload for frame in portions) == bytes(header)
    assert max(len(frame.payload) for frame in portions) <= 4096
    lost = [f for f in whole if f == hit or f.position.segment == second]
    assert [f for f in got if f.kind != DAMAGED] == [f for f in whole if f not in lost]


def test_fresh_damage_at_the_very_end_may_be_a_frame_on_its_way(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    commit(log)
    commit(log)
    log.close()
    (segment,) = list_segments(tmp_path)
    path = segment_path(tmp_path, segment)
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)
    now_s = path.stat().st_mtime
    fresh = read_batch(tmp_path, "w0", None, 100, 1 << 20, now_s=now_s + 1)
    assert fresh is not None
    assert [frame.kind for frame in fresh.frames] == [FrameKind.DECISION]
    settled = read_batch(tmp_path, "w0", fresh.upto, 100, 1 << 20, now_s=now_s + 3600)
    assert settled is not None
    assert [frame.kind for frame in settled.frames] == [DAMAGED]


def test_how_much_waits_is_told_by_files_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for _ in range(150):
        commit(log, size=1000, decided_us=1_700_000_000_000_000)
    log.close()
    log = open_log(tmp_path, "w1")
    commit(log)
    log.close()
    assert workers_of(tmp_path) == ["w0", "w1"]
    size, count, first = waiting(tmp_path, "w0", None)
    assert (count, first) == (len(list_segments(tmp_path)) - 1, "w0-00000001")
    assert size > 150 * 1000
    assert oldest_moment_us(tmp_path, first, 0) == 1_700_000_000_000_000
    assert waiting(tmp_path, "w0", read_all(tmp_path)[-1].upto) == (0, 0, "")


def test_checkpoints_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    state = ShippingState(tmp_path)
    assert state.checkpoint("w0") is None
    lock = state.lead()
    assert lock is not None
    assert state.lead() is None
    name = state.source()
    assert state.source() == name != state.rename()
    state.keep_checkpoint("w0", Checkpoint("w0-00000003", 77))
    assert state.checkpoint("w0") == Checkpoint("w0-00000003", 77)
    assert state.shipped_through() == {"w0": ("w0-00000003", 77)}
    assert state.checkpoint("status") is None
    file = tmp_path / "shipping" / "shipped-w0.json"
    assert file.stat().st_mode & 0o077 == 0
    file.write_text(file.read_text()[:-9])
    assert state.checkpoint("w0") is None
    lock.release()
    again = state.lead()
    assert again is not None
    again.release()


@pytest.mark.parametrize("content", ["", "no name", "x" * 31])
def test_a_name_that_was_spoilt_is_not_replaced_in_silence(tmp_path: Path, content: str) -> None:
    from engine.errors import RecordError

    state = ShippingState(tmp_path)
    lock = state.lead()
    assert lock is not None
    (tmp_path / "shipping" / "source").write_text(content)
    with pytest.raises(RecordError, match="does not hold the name of a journal"):
        state.source()
    lock.release()
