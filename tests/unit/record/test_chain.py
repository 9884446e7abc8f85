"""Whatever is done to a journal, verifying it says so, and where."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.record.check import Finding
from engine.record.entries import pack_ids
from engine.record.journal import MIN_SEGMENT_BYTES, Journal
from engine.record.layouts import (
    FRAME_HEADER_BYTES,
    Chain,
    SegmentHead,
    genesis,
    make_frame_header,
    make_header,
    seed_of,
)
from engine.record.segments import (
    FIRST_FRAME,
    Frame,
    FrameKind,
    list_segments,
    own_segments,
    read_head,
    scan,
    segment_path,
)
from engine.record.verify import WorkerReport, verify

KEY = b"k" * 32
FRAMES = 26


def write(directory: Path, worker: str = "w0", count: int = FRAMES, key: bytes | None = KEY) -> None:
    journal = Journal(directory, worker, segment_bytes=MIN_SEGMENT_BYTES, head_key=key)
    journal.declare(FrameKind.CATALOGUE, "sha256:c", b"slots")
    for i in range(count):
        ids = pack_ids(b"r%d" % i, f"id-{worker}-{i}", b"d" * 33)
        journal.append(FrameKind.DECISION, ids, b"%d " % i + b"x" * 7000)
    journal.close()


def found(directory: Path, key: bytes | None = KEY) -> list[Finding]:
    return [finding for report in reports(directory, key) for finding in report.findings]


def reports(directory: Path, key: bytes | None = KEY) -> list[WorkerReport]:
    return verify(directory, key, processes=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written")
    write(directory)
    write(directory, "w1", 5)
    return directory


@pytest.fixture
def journal(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "journal"))


@pytest.fixture(scope="module")
def shared(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what puts back what it changed."""
    return Path(shutil.copytree(written, tmp_path_factory.mktemp("shared") / "journal"))


def frames_of(directory: Path, segment: str) -> list[Frame]:
    return [item for item in scan(directory, segment) if isinstance(item, Frame)]


def rewrite(directory: Path, segment: str, content: bytes) -> None:
    segment_path(directory, segment).write_bytes(content)


def pieces(directory: Path, segment: str) -> tuple[bytes, list[bytes]]:
    """The header of a segment, and its frames as they stand in the file."""
    content = segment_path(directory, segment).read_bytes()
    frames = frames_of(directory, segment)
    return content[:FIRST_FRAME], [content[f.position.offset : f.end] for f in frames]


def test_an_untouched_journal_is_whole(journal: Path) -> None:
    first, second = reports(journal)
    assert (first.worker, second.worker) == ("w0", "w1")
    assert first.is_whole and second.is_whole
    assert not first.findings
    assert first.segments == len(own_segments(journal, "w0")) >= 3
    # Every segment begins with what is declared.
    assert (first.decisions, first.frames, first.last) == (FRAMES, FRAMES + first.segments, FRAMES + first.segments)
    assert first.signed


def test_a_restarted_worker_goes_on_with_its_chain(tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, count=4)
    (report,) = reports(tmp_path)
    assert report.is_whole
    assert report.last == report.frames == 15
    begins = [head.chain for s in list_segments(tmp_path) if isinstance(head := read_head(tmp_path, s), SegmentHead)]
    assert [chain.sequence for chain in begins if chain is not None] == [0, 5, 10]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whichever_byte_is_changed_its_frame_is_named(shared: Path, data: st.DataObject) -> None:
    segment = data.draw(st.sampled_from(list_segments(shared)))
    whole = segment_path(shared, segment).read_bytes()
    frames = frames_of(shared, segment)
    # As often in a header, a frame's header or its ids as in the long rest of a payload.
    near = data.draw(st.sampled_from([0, *(f.position.offset for f in frames)]))
    at = min(near + data.draw(st.one_of(st.integers(0, 150), st.integers(0, 7100))), len(whole) - 1)
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        rewrite(shared, segment, bytes(changed))
        findings = found(shared)
    finally:
        rewrite(shared, segment, whole)
    findings.sort(key=lambda f: f.what)
    assert [(f.segment, f.what) for f in findings[:1]] == [(segment, "damaged")]
    # When the header of the very last frame is gone, the heads miss its record as well.
    assert [f.what for f in findings[1:]] in ([], ["missing"])
    if at < FIRST_FRAME:
        assert findings[0].offset == 0
        return
    (hit,) = [f for f in frames if f.position.offset <= at < f.end]
    assert findings[0].offset == hit.position.offset
    in_its_header = at < hit.position.offset + FRAME_HEADER_BYTES
    # What number a frame had whose header is gone is known by the next one.
    assert findings[0].sequence == hit.sequence or (in_its_header and hit is frames[-1])


@pytest.mark.parametrize("which", range(5))
def test_a_removed_frame_is_missing_where_it_stood(journal: Path, which: int) -> None:
    segment = list_segments(journal)[1]
    head, frames = pieces(journal, segment)
    taken = frames_of(journal, segment)[which]
    rewrite(journal, segment, head + b"".join(frames[:which] + frames[which + 1 :]))
    (finding,) = found(journal)
    assert (finding.what, finding.sequence, finding.segment, finding.offset) == (
        "missing",
        taken.sequence,
        segment,
        taken.position.offset,
    )


def test_exchanged_frames_are_said_to_be_moved(journal: Path) -> None:
    segment = list_segments(journal)[0]
    head, frames = pieces(journal, segment)
    numbers = [f.sequence for f in frames_of(journal, segment)]
    frames[2], frames[3] = frames[3], frames[2]
    rewrite(journal, segment, head + b"".join(frames))
    (finding,) = found(journal)
    assert (finding.what, finding.sequence, finding.segment) == ("moved", numbers[2], segment)
    assert finding.decision_id == "id-w0-1"


def test_a_repeated_frame_is_reported(journal: Path) -> None:
    segment = list_segments(journal)[0]
    head, frames = pieces(journal, segment)
    rewrite(journal, segment, head + b"".join([*frames, frames[4]]))
    (finding,) = found(journal)
    assert (finding.what, finding.decision_id) == ("repeated", "id-w0-3")


def test_frames_exchanged_between_segments_do_not_check_out(journal: Path) -> None:
    """Every segment's checks start from a salt of its own."""
    one, two = list_segments(journal)[:2]
    (head_1, frames_1), (head_2, frames_2) = pieces(journal, one), pieces(journal, two)
    frames_1[2], frames_2[2] = frames_2[2], frames_1[2]
    rewrite(journal, one, head_1 + b"".join(frames_1))
    rewrite(journal, two, head_2 + b"".join(frames_2))
    assert [(f.what, f.segment) for f in found(journal)] == [("damaged", one), ("damaged", two)]


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_removed_segment_is_missing(journal: Path, which: int) -> None:
    segment = own_segments(journal, "w0")[which]
    numbers = [f.sequence for f in frames_of(journal, segment)]
    segment_path(journal, segment).unlink()
    (finding,) = found(journal)
    assert (finding.what, finding.sequence) == ("missing", numbers[0])


def test_all_segments_of_a_worker_removed_are_missing(journal: Path) -> None:
    for segment in own_segments(journal, "w1"):
        segment_path(journal, segment).unlink()
    (finding,) = found(journal)
    assert (finding.worker, finding.what, finding.sequence) == ("w1", "missing", 1)


def test_segments_under_one_anothers_names_are_reported(journal: Path) -> None:
    one, two = (segment_path(journal, segment) for segment in own_segments(journal, "w0")[:2])
    between = journal / "between"
    os.rename(one, between)
    os.rename(two, one)
    os.rename(between, two)
    assert {f.what for f in found(journal)} >= {"moved"}


def test_a_segment_of_one_worker_under_anothers_name_is_reported(journal: Path) -> None:
    shutil.copy(segment_path(journal, "w1-00000001"), segment_path(journal, "w1-00000002"))
    shutil.copy(segment_path(journal, "w0-00000002"), segment_path(journal, "w1-00000003"))
    assert [f.what for f in found(journal) if f.segment == "w1-00000003"].count("moved") >= 1
    assert [f.what for f in found(journal) if f.segment == "w1-00000002"].count("moved") >= 1


@pytest.mark.parametrize("left", [0, 1, 3])
def test_frames_cut_off_at_the_end_are_missed_by_the_heads(journal: Path, left: int) -> None:
    segment = own_segments(journal, "w0")[-1]
    frames = frames_of(journal, segment)
    os.truncate(segment_path(journal, segment), frames[left].position.offset)
    (finding,) = found(journal)
    assert (finding.what, finding.sequence) == ("missing", frames[left].sequence)


def test_what_was_cut_off_stays_missing_after_the_worker_went_on(journal: Path) -> None:
    """Who cuts the end off and lets the worker go on cannot cover it up: its chain says how long it was."""
    segment = own_segments(journal, "w0")[-1]
    frames = frames_of(journal, segment)
    os.truncate(segment_path(journal, segment), frames[-2].position.offset)
    write(journal, count=2)
    (finding,) = found(journal)
    assert (finding.what, finding.sequence) == ("missing", frames[-2].sequence)
    assert "2 records" in finding.message


def test_a_removed_newest_segment_stays_missing_after_the_worker_went_on(journal: Path) -> None:
    segment = own_segments(journal, "w0")[-1]
    gone = frames_of(journal, segment)
    segment_path(journal, segment).unlink()
    write(journal, count=2)
    assert own_segments(journal, "w0")[-1] > segment
    (finding,) = found(journal)
    assert (finding.what, finding.sequence) == ("missing", gone[0].sequence)


def forge(directory: Path, worker: str, segment_index: int, frame_index: int) -> int:
    """As somebody who knows the layout would: one payload is altered, and all checks and links after it are made anew.
    Gives the number of the frame."""
    chain, altered = genesis(worker), 0
    for number, segment in enumerate(own_segments(directory, worker)):
        frames, old = frames_of(directory, segment), read_head(directory, segment)
        salt = b"s" * 16
        content = make_header(worker, old.number, salt, old.created_us, chain)  # type: ignore[union-attr]
        for place, frame in enumerate(frames):
            payload = frame.payload
            if (number, place) == (segment_index, frame_index):
                payload, altered = payload.replace(b"x" * 7000, b"y" * 7000), frame.sequence
            head, link = make_frame_header(
                frame.kind, len(payload), sha256(payload).digest(), frame.sequence, chain.link, seed_of(salt)
            )
            content += head + payload
            chain = Chain(frame.sequence, link)
        rewrite(directory, segment, content)
    return altered


def test_a_chain_made_anew_does_not_fit_the_signed_heads(journal: Path) -> None:
    forge(journal, "w0", 1, 2)
    findings = found(journal)
    assert {f.what for f in findings} == {"altered"}
    assert all("w0.heads" in f.message for f in findings)


@pytest.mark.parametrize("cover", ["none", "unsigned", "other key"])
def test_heads_cannot_be_made_anew_without_the_key(journal: Path, cover: str) -> None:
    forge(journal, "w0", 1, 2)
    (journal / "w0.heads").unlink()
    if cover != "none":
        from engine.record.heads import HeadFile, head_now

        last = frames_of(journal, own_segments(journal, "w0")[-1])[-1]
        file = HeadFile(journal, "w0", None if cover == "unsigned" else b"o" * 32)
        file.add([head_now(Chain(last.sequence, last.link), last.position.segment, last.end)], durable=False)
    assert "head" in {f.what for f in found(journal)}


def test_one_altered_record_with_its_checks_made_anew_is_found_at_the_next(journal: Path) -> None:
    segment = own_segments(journal, "w0")[1]
    head, frames = pieces(journal, segment)
    frame, before = frames_of(journal, segment)[3], frames_of(journal, segment)[2]
    payload = frame.payload.replace(b"x", b"y")
    begin = read_head(journal, segment)
    made, _ = make_frame_header(
        frame.kind,
        len(payload),
        sha256(payload).digest(),
        frame.sequence,
        before.link,
        begin.seed,  # type: ignore[union-attr]
    )
    frames[3] = made + payload
    rewrite(journal, segment, head + b"".join(frames))
    (finding,) = found(journal)
    assert (finding.what, finding.sequence) == ("altered", frame.sequence + 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_head_is_reported(shared: Path, data: st.DataObject) -> None:
    path = shared / "w0.heads"
    whole = path.read_bytes()
    changed = bytearray(whole)
    at = data.draw(st.integers(0, len(whole) - 2))
    changed[at] ^= data.draw(st.integers(1, 127))
    try:
        path.write_bytes(changed)
        findings = found(shared)
    finally:
        path.write_bytes(whole)
    assert findings
    assert not all(f.is_note for f in findings)


def test_a_head_that_a_crash_cut_short_is_no_finding(journal: Path) -> None:
    path = journal / "w0.heads"
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 7)
    assert not found(journal)
    write(journal, count=2)
    assert not found(journal)
    assert path.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1) + 1])


def test_a_torn_tail_of_the_newest_segment_is_a_note_and_of_another_a_finding(journal: Path) -> None:
    for segment in (own_segments(journal, "w0")[1], own_segments(journal, "w1")[-1]):
        with segment_path(journal, segment).open("ab") as file:
            file.write(b"\xf4\xa7\x01\x00")
    findings = found(journal)
    assert [(f.what, f.worker, f.is_note) for f in findings] == [("torn", "w0", False), ("torn", "w1", True)]
    assert [r.is_whole for r in reports(journal)] == [False, True]


def test_without_the_key_all_is_checked_but_the_signatures(journal: Path) -> None:
    assert not found(journal, None)
    segment = own_segments(journal, "w0")[-1]
    os.truncate(segment_path(journal, segment), frames_of(journal, segment)[1].position.offset)
    assert [f.what for f in found(journal, None)] == ["missing"]


def test_a_journal_is_whole_while_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0", segment_bytes=MIN_SEGMENT_BYTES, head_key=KEY)

    def write_on() -> Iterator[None]:
        for i in range(60):
            journal.append(FrameKind.OUTCOME, b"%d" % i + b"o" * 5000)
            journal.tend()
            yield

    for _ in write_on():
        assert not [f for f in found(tmp_path) if not f.is_note]
    journal.close()


def test_segments_are_checked_in_processes_of_their_own_with_the_same_outcome(journal: Path) -> None:
    segment = list_segments(journal)[1]
    head, frames = pieces(journal, segment)
    rewrite(journal, segment, head + b"".join(frames[:2] + frames[3:]))
    assert verify(journal, KEY, processes=2) == reports(journal)
