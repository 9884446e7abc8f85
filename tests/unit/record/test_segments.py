"""Damage is found and named, a torn tail is told from it, and nothing is skipped in silence."""

from __future__ import annotations

import random
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import RecordError
from engine.record.journal import Journal
from engine.record.segments import (
    FIRST_FRAME,
    FRAME_HEADER_BYTES,
    Damage,
    Frame,
    FrameKind,
    Position,
    TornTail,
    list_segments,
    read_frame,
    scan,
    segment_path,
)

PAYLOADS = [b"first", b"", b"x" * 1000, bytes(range(256)), b"last but one", b"last"]
SEGMENT = "w0-00000001"


def write(directory: Path, payloads: list[bytes] = PAYLOADS) -> list[Position]:
    journal = Journal(directory, "w0")
    positions = [journal.append(FrameKind.DECISION, payload[:3], payload[3:]) for payload in payloads]
    journal.close()
    return positions


def change(directory: Path, content: bytes) -> None:
    segment_path(directory, SEGMENT).write_bytes(content)


def content_of(directory: Path) -> bytes:
    return segment_path(directory, SEGMENT).read_bytes()


def test_frames_come_back_in_order_with_their_places(tmp_path: Path) -> None:
    positions = write(tmp_path)
    assert list_segments(tmp_path) == [SEGMENT]
    found = list(scan(tmp_path, SEGMENT))
    assert [item.payload for item in found if isinstance(item, Frame)] == PAYLOADS
    assert [item.position for item in found] == positions
    assert [item.end for item in found if isinstance(item, Frame)] == [
        *(p.offset for p in positions[1:]),
        len(content_of(tmp_path)),
    ]
    assert read_frame(tmp_path, positions[3]).payload == PAYLOADS[3]
    assert [item.position for item in scan(tmp_path, SEGMENT, positions[4].offset)] == positions[4:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Position], bytes]:
    directory = tmp_path_factory.mktemp("journal")
    positions = write(directory)
    return directory, positions, content_of(directory)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_byte_costs_one_frame_and_is_reported(
    whole: tuple[Path, list[Position], bytes], data: st.DataObject
) -> None:
    directory, positions, content = whole
    at = data.draw(st.integers(FIRST_FRAME, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    change(directory, bytes(changed))
    hit = max(i for i, position in enumerate(positions) if position.offset <= at)
    found = list(scan(directory, SEGMENT))
    frames = [item for item in found if isinstance(item, Frame)]
    damage = [item for item in found if isinstance(item, Damage)]
    assert [f.payload for f in frames] == [p for i, p in enumerate(PAYLOADS) if i != hit]
    assert [d.position for d in damage] == [positions[hit]]
    end = positions[hit + 1].offset if hit + 1 < len(positions) else len(content)
    assert damage[0].length == end - positions[hit].offset
    assert not [item for item in found if isinstance(item, TornTail)]
    with pytest.raises(RecordError, match="damaged"):
        read_frame(directory, positions[hit])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, FIRST_FRAME - 1), st.integers(1, 255))
def test_a_flipped_byte_in_the_header_costs_nothing(
    whole: tuple[Path, list[Position], bytes], at: int, flip: int
) -> None:
    directory, _, content = whole
    changed = bytearray(content)
    changed[at] ^= flip
    change(directory, bytes(changed))
    assert [item.payload for item in scan(directory, SEGMENT) if isinstance(item, Frame)] == PAYLOADS


def test_a_segment_without_a_header_is_reported_whole(whole: tuple[Path, list[Position], bytes]) -> None:
    directory, _, content = whole
    change(directory, b"\0" * FIRST_FRAME + content[FIRST_FRAME:])
    assert [type(item) for item in scan(directory, SEGMENT)] == [Damage]


def test_wherever_the_file_ends_whole_frames_are_kept_and_the_tail_is_torn(
    whole: tuple[Path, list[Position], bytes],
) -> None:
    directory, positions, content = whole
    ends = [*(p.offset for p in positions[1:]), len(content)]
    for length in range(len(content)):
        change(directory, content[:length])
        found = list(scan(directory, SEGMENT))
        kept = sum(end <= length for end in ends)
        assert [item.payload for item in found if isinstance(item, Frame)] == PAYLOADS[:kept]
        assert not [item for item in found if isinstance(item, Damage)]
        tails = [item for item in found if isinstance(item, TornTail)]
        whole_until = 0 if length < FIRST_FRAME else max([FIRST_FRAME, *(e for e in ends if e <= length)])
        expected = [TornTail(Position(SEGMENT, whole_until), length - whole_until)]
        assert tails == ([] if length == whole_until and length else expected)


def test_zeros_after_the_last_frame_are_a_torn_tail(whole: tuple[Path, list[Position], bytes]) -> None:
    directory, _, content = whole
    change(directory, content + b"\0" * 5000)
    *frames, tail = scan(directory, SEGMENT)
    assert len(frames) == len(PAYLOADS)
    assert tail == TornTail(Position(SEGMENT, len(content)), 5000)


def test_damage_of_many_frames_is_reported_and_the_rest_is_read(whole: tuple[Path, list[Position], bytes]) -> None:
    directory, positions, content = whole
    start, end = positions[1].offset, positions[4].offset + 3
    change(directory, content[:start] + random.Random(5).randbytes(end - start) + content[end:])
    found = list(scan(directory, SEGMENT))
    assert [item.payload for item in found if isinstance(item, Frame)] == [PAYLOADS[0], PAYLOADS[5]]
    assert [(d.position, d.length) for d in found if isinstance(d, Damage)] == [
        (positions[1], positions[5].offset - start)
    ]


def test_a_frame_inside_a_payload_is_never_taken_for_one(tmp_path: Path) -> None:
    """Who can put bytes into a record must not be able to forge another one, not even by damaging the first."""
    write(tmp_path / "a")
    stolen = content_of(tmp_path / "a")[FIRST_FRAME : FIRST_FRAME + FRAME_HEADER_BYTES + len(PAYLOADS[0])]
    (position, _) = write(tmp_path / "b", [stolen * 3, b"next"])
    content = bytearray(content_of(tmp_path / "b"))
    content[position.offset] ^= 1
    change(tmp_path / "b", bytes(content))
    found = list(scan(tmp_path / "b", SEGMENT))
    assert [type(item) for item in found] == [Damage, Frame]
    assert isinstance(found[1], Frame)
    assert found[1].payload == b"next"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000))
def test_any_file_can_be_scanned(tmp_path: Path, content: bytes) -> None:
    change(tmp_path, content)
    found = list(scan(tmp_path, SEGMENT))
    assert sum(item.length for item in found if not isinstance(item, Frame)) == len(content)


def test_a_layout_of_the_future_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    fields = bytearray(content_of(tmp_path)[: FIRST_FRAME // 2 - 4])
    fields[8] = 3
    header = bytes(fields) + crc32(fields).to_bytes(4, "little")
    change(tmp_path, 2 * header)
    with pytest.raises(RecordError, match="layout 3"):
        list(scan(tmp_path, SEGMENT))


def test_a_missing_segment_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="w0-00000001"):
        list(scan(tmp_path, SEGMENT))
