"""A journal of an earlier version is read on, and the chain begins where this version begins to write."""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

from engine.record.entries import pack_ids
from engine.record.log import Claimed, DecisionLog, Existing
from engine.record.segments import Damage, Frame, FrameKind, Position, TornTail, list_segments, scan, segment_path
from engine.record.verify import verify

SALT = b"s" * 16


def old_frame(kind: int, payload: bytes) -> bytes:
    seed = crc32(SALT)
    head = struct.pack("<2sBBI", b"\xf4\xa7", kind, 0, len(payload))
    head_check = crc32(head, seed)
    return head + struct.pack("<II", head_check, crc32(payload, head_check)) + payload


def old_header(worker: str, number: int) -> bytes:
    fields = struct.pack("<8sII16sq32s", b"AsJrnl\r\n", 1, number, SALT, 1_700_000_000_000_000, worker.encode())
    return 2 * (fields + struct.pack("<I", crc32(fields)))


def old_segment(directory: Path, count: int = 5) -> list[bytes]:
    frames = [old_frame(FrameKind.CATALOGUE, b"\x08sha256:cslots")]
    frames += [
        old_frame(FrameKind.DECISION, pack_ids(b"r%d" % n, f"id-{n}", b"d" * 32) + b"x" * 300) for n in range(count)
    ]
    segment_path(directory, "w0-00000001").write_bytes(old_header("w0", 1) + b"".join(frames))
    return frames


def test_what_an_earlier_version_wrote_is_found_and_the_chain_begins_after_it(tmp_path: Path) -> None:
    old_segment(tmp_path)
    log = DecisionLog.open(tmp_path)
    assert log.get_catalogue("sha256:c") == b"slots"
    stored = log.get_by_decision_id("id-3")
    assert stored is not None
    assert stored.record == b"x" * 300
    assert log.claim(b"r3", b"d" * 32) == Existing("id-3", stored.position)
    assert log.claim(b"new", b"d" * 33) == Claimed()
    log.commit(b"new", "id-new", b"d" * 33, b"record")
    assert [d.decision_id for d in log.iterate()] == [*(f"id-{n}" for n in range(5)), "id-new"]
    log.close()
    (report,) = verify(tmp_path, processes=1)
    assert report.is_whole
    assert (report.unchained, report.frames, report.first, report.last) == (6, 7, 1, 1)


def test_damage_in_an_old_segment_is_found_and_a_torn_tail_cut(tmp_path: Path) -> None:
    frames = old_segment(tmp_path)
    path = segment_path(tmp_path, "w0-00000001")
    whole = path.read_bytes()
    at = len(whole) - 5
    path.write_bytes(whole[:at] + b"y" + whole[at + 1 :])
    *good, damage = scan(tmp_path, "w0-00000001")
    assert len(good) == len(frames) - 1
    assert isinstance(damage, Damage)
    assert not verify(tmp_path, processes=1)[0].is_whole
    path.write_bytes(whole[:-5])
    *good, tail = scan(tmp_path, "w0-00000001")
    assert all(isinstance(item, Frame) for item in good)
    start = len(whole) - len(frames[-1])
    assert tail == TornTail(Position("w0-00000001", start), len(frames[-1]) - 5)
    log = DecisionLog.open(tmp_path)
    assert [t.position.offset for t in log.recovery.torn] == [start]
    log.close()
    assert path.stat().st_size == start


def test_an_old_segment_cannot_take_the_place_of_a_chained_one(tmp_path: Path) -> None:
    for n in range(3):
        log = DecisionLog.open(tmp_path)
        log.claim(b"%d" % n, b"d")
        log.commit(b"%d" % n, f"id-{n}", b"d", b"record")
        log.close()
    forged = old_header("w0", 2) + old_frame(FrameKind.DECISION, pack_ids(b"1", "id-1", b"d") + b"another record")
    segment_path(tmp_path, list_segments(tmp_path)[1]).write_bytes(forged)
    (report,) = verify(tmp_path, processes=1)
    assert {f.what for f in report.findings} == {"altered", "missing"}
