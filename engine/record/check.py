"""Holds one segment against the chain that its frames form: what was altered, removed, put in or moved in it.

The chain is followed from where the segment's header says that it stands. Where a frame is missing, the next one cannot
be held against it; what follows is held against that one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.errors import RecordError
from engine.record.entries import unpack_decision
from engine.record.layouts import Chain, link_of
from engine.record.segments import (
    Damage,
    Frame,
    FrameKind,
    TornTail,
    read_head,
    scan,
    segment_path,
    worker_of,
)

FINDINGS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written.

    what: altered, missing, moved, repeated, damaged, torn, head. sequence: the number of the record it begins with, 0
    where it is not known. is_note: no sign of a change, only worth knowing.
    """

    worker: str
    segment: str
    offset: int
    sequence: int
    what: str
    message: str
    decision_id: str = ""
    is_note: bool = False


@dataclass(slots=True)
class SegmentCheck:
    """What one segment came to. begin: where its header says that the chain stands; None without one. gaps: numbers
    that are missing inside, first and last; strays: those that stand where they do not belong."""

    segment: str
    number: int = 0
    worker: str = ""
    layout: int = 0
    is_whole: bool = False
    begin: Chain | None = None
    end: Chain | None = None
    frames: int = 0
    decisions: int = 0
    size: int = 0
    ends_damaged: bool = False
    findings: list[Finding] = field(default_factory=list)
    gaps: list[tuple[int, int, int]] = field(default_factory=list)
    strays: dict[int, tuple[int, str]] = field(default_factory=dict)
    heads: dict[int, bytes] = field(default_factory=dict)
    torn: TornTail | None = None


def check_segment(directory: Path, segment: str, wanted: frozenset[int] = frozenset()) -> SegmentCheck:
    """Check one segment by itself. wanted: the numbers whose links are asked for."""
    check, worker = SegmentCheck(segment), worker_of(segment)

    def find(offset: int, sequence: int, what: str, message: str, frame: Frame | None = None) -> None:
        if len(check.findings) < FINDINGS_MAX:
            decision_id = "" if frame is None else _decision_id(frame)
            check.findings.append(Finding(worker, segment, offset, sequence, what, message, decision_id))

    try:
        check.size = segment_path(directory, segment).stat().st_size
        head = read_head(directory, segment)
    except (OSError, RecordError) as e:
        if segment_path(directory, segment).exists():
            find(0, 0, "damaged", f"the segment cannot be read: {e}")
        return check
    if isinstance(head, TornTail):
        check.torn = head
        return check
    if isinstance(head, Damage):
        find(0, 0, "damaged", f"{head.length} bytes: {head.why}; nothing in it can be read")
        check.ends_damaged = True
        return check
    check.is_whole, check.layout, check.number, check.worker = True, head.layout, head.number, head.worker
    if not head.is_whole:
        find(0, 0, "damaged", "one of the two copies of the segment's header was changed")
    current = check.begin = check.end = head.chain
    after_damage = False
    try:
        for item in scan(directory, segment):
            if isinstance(item, TornTail):
                check.torn = item
                break
            if isinstance(item, Damage):
                find(item.position.offset, item.sequence, "damaged", f"{item.length} bytes: {item.why}")
                after_damage = True
                if current is not None and item.link:
                    # Its own header is whole, so it is known what the next frame is linked to.
                    if item.sequence > current.sequence + 1:
                        check.gaps.append((current.sequence + 1, item.sequence - 1, item.position.offset))
                    if item.sequence > current.sequence:
                        current, after_damage = Chain(item.sequence, item.link), False
                continue
            check.frames += 1
            check.decisions += item.kind == FrameKind.DECISION
            if current is None:
                continue
            sequence, at = item.sequence, item.position.offset
            if sequence in wanted:
                check.heads[sequence] = item.link
            if sequence <= current.sequence:
                check.strays[sequence] = (at, _decision_id(item))
                continue
            if sequence == current.sequence + 1:
                link = link_of(current.link, item.kind, item.flags, len(item.payload), sequence, item.digest)
                if link != item.link:
                    message = "it is not linked to the record before it: one of the two was altered"
                    find(at, sequence, "altered", message, item)
            elif after_damage:
                first, damage = current.sequence + 1, check.findings[-1]
                records = f"record {first}" if sequence == first + 1 else f"records {first} to {sequence - 1}"
                check.findings[-1] = replace(damage, sequence=first, message=f"{damage.message}: {records}")
            else:
                check.gaps.append((current.sequence + 1, sequence - 1, at))
            current, after_damage = Chain(sequence, item.link), False
    except RecordError as e:
        if segment_path(directory, segment).exists():
            find(0, 0, "damaged", str(e))
    check.end, check.ends_damaged = current, after_damage
    return check


def _decision_id(frame: Frame) -> str:
    if frame.kind not in (FrameKind.DECISION, FrameKind.SHADOW):
        return ""
    try:
        return unpack_decision(frame).decision_id
    except RecordError:
        return ""
