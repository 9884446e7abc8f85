"""Holds a journal against its chains: what was altered, removed, put in or moved, and where.

Every segment is checked by itself, from the place in the chain that its header states; then the segments of a worker
are held against one another, and against the places that were noted beside the journal. Read-only: a journal may be
written meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from engine.errors import RecordError
from engine.record.check import FINDINGS_MAX, Finding, SegmentCheck, check_segment
from engine.record.heads import SUFFIX as HEADS_SUFFIX
from engine.record.heads import Head, HeadFile, Signed
from engine.record.layouts import Chain, genesis
from engine.record.segments import list_segments, own_segments, segment_path, worker_of

# Below this, starting processes costs more than it saves.
_PARALLEL_BYTES = 128 << 20


@dataclass(slots=True)
class WorkerReport:
    """What was found of one worker. frames: those that check out by themselves; unchained: those of an earlier layout,
    which are not linked."""

    worker: str
    segments: int = 0
    frames: int = 0
    decisions: int = 0
    unchained: int = 0
    size: int = 0
    first: int = 0
    last: int = 0
    heads: int = 0
    signed: bool = False
    findings: list[Finding] = field(default_factory=list)
    dropped: int = 0

    def add(self, finding: Finding) -> None:
        """Keep a finding; beyond a thousand they are only counted."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.dropped += 1

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found but notes."""
        return not self.dropped and all(finding.is_note for finding in self.findings)


def verify(
    directory: Path,
    head_key: bytes | None = None,
    *,
    processes: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[WorkerReport]:
    """Check all workers of a journal.

    head_key: what heads are signed with; without it signatures are not looked at. processes: 0 for one a core.
    on_progress: told the bytes read and the bytes there are. Raises RecordError for a directory that cannot be read.
    """
    try:
        # Heads first: what is written after them is longer than they say, never shorter.
        workers = [path.name.removesuffix(HEADS_SUFFIX) for path in directory.glob("*" + HEADS_SUFFIX)]
        noted = {worker: HeadFile(directory, worker, head_key).read() for worker in workers}
        names = list_segments(directory)
    except OSError as e:
        raise RecordError(f"the journal {directory} cannot be read: {e.strerror}") from e
    held = {w: HeadFile(directory, w, head_key) for w in sorted({*map(worker_of, names), *workers})}
    for worker, file in held.items():
        # Of one that began meanwhile, its very first.
        noted[worker] = noted.get(worker) or file.read()[:1]
    wanted = {w: frozenset(h.chain.sequence for h in noted[w]) for w in held}
    sizes = {name: _size(directory, name) for name in names}
    checks: dict[str, SegmentCheck] = {}
    total, done = sum(sizes.values()), 0
    with _executor(processes, total) as pool:
        running = {pool.submit(check_segment, directory, name, wanted[worker_of(name)]): name for name in names}
        for future in as_completed(running):
            name = running[future]
            checks[name] = future.result()
            done += sizes[name]
            if on_progress is not None:
                on_progress(done, total)
    reports = []
    for worker, file in held.items():
        here = set(own_segments(directory, worker))
        mine = [checks[name] for name in names if worker_of(name) == worker and name in here]
        # Segments may have been let go while they were read.
        anchors = [head for head in file.read() if head.is_anchor and head not in noted[worker]]
        report = _join(worker, mine)
        _hold_against_heads(report, file, noted[worker] + anchors, mine)
        report.findings.sort(key=lambda f: (f.is_note, f.segment, f.offset))
        reports.append(report)
    return reports


def _size(directory: Path, segment: str) -> int:
    with suppress(OSError):
        return segment_path(directory, segment).stat().st_size
    return 0


def _executor(processes: int, total: int) -> Executor:
    count = processes or os.cpu_count() or 1
    if count > 1 and (processes or total >= _PARALLEL_BYTES):
        # Not forked: whoever asks may have threads.
        return ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    return ThreadPoolExecutor(1)


def _join(worker: str, checks: list[SegmentCheck]) -> WorkerReport:
    """Holds the segments of a worker against one another."""
    report = WorkerReport(worker, segments=len(checks))
    current: Chain | None = None
    gaps: list[tuple[int, int, str, int]] = []
    strays: dict[int, tuple[str, int, str]] = {}
    damaged = False
    for check in checks:
        report.frames, report.decisions = report.frames + check.frames, report.decisions + check.decisions
        report.size += check.size
        for finding in check.findings:
            report.add(finding)

        def find(what: str, message: str, sequence: int = 0, segment: str = check.segment) -> None:
            report.add(Finding(worker, segment, 0, sequence, what, message))

        if check.torn is not None:
            _judge_tail(report, check, check is checks[-1])
        if not check.is_whole:
            damaged = damaged or check.torn is None
            continue
        if check.worker != worker or check.number != int(check.segment.rpartition("-")[2]):
            find("moved", f"the file holds segment {check.number} of {check.worker}")
        if check.begin is None:
            report.unchained += check.frames
            if current is not None:
                find("altered", "a segment without a chain stands after one with a chain")
            continue
        if current is None:
            report.first = check.begin.sequence + 1
        elif check.begin.sequence > current.sequence and not damaged:
            gaps.append((current.sequence + 1, check.begin.sequence, check.segment, 0))
        elif check.begin.sequence < current.sequence:
            find("moved", f"it begins after record {check.begin.sequence}, and {current.sequence} stands before it")
        elif check.begin.sequence == current.sequence and check.begin.link != current.link:
            message = "it does not follow the segment before it: the last record there, or this header, was altered"
            find("altered", message, current.sequence + 1)
        gaps += [(first, last, check.segment, at) for first, last, at in check.gaps]
        strays.update({number: (check.segment, *place) for number, place in check.strays.items()})
        current, damaged = check.end, check.ends_damaged
        report.last = max(report.last, 0 if current is None else current.sequence)
    _report_gaps(report, gaps, strays)
    return report


def _judge_tail(report: WorkerReport, check: SegmentCheck, is_last: bool) -> None:
    tail = check.torn
    assert tail is not None
    message = f"{tail.length} bytes of an unfinished record"
    if is_last:
        message += ": being written, or left by a crash and cut at the next start"
    report.add(Finding(report.worker, tail.position.segment, tail.position.offset, 0, "torn", message, "", is_last))


def _report_gaps(
    report: WorkerReport, gaps: list[tuple[int, int, str, int]], strays: Mapping[int, tuple[str, int, str]]
) -> None:
    """A number that is missing in one place and stands in another was moved; all others are gone, or put in."""
    missing = [range(first, last + 1) for first, last, _, _ in gaps]
    for first, last, segment, at in gaps:
        gone = last - first + 1 - sum(1 for number in strays if first <= number <= last)
        if gone > 0:
            text = f"{gone} records between {first} and {last}" if gone > 1 else f"record {first}"
            message = f"{text} should stand before this place"
            report.add(Finding(report.worker, segment, at, first, "missing", message))
    for number, (segment, at, decision_id) in strays.items():
        moved = any(number in one for one in missing)
        message = f"record {number} does not belong here" if moved else f"record {number} stands here once more"
        what = "moved" if moved else "repeated"
        report.add(Finding(report.worker, segment, at, number, what, message, decision_id))


def _hold_against_heads(report: WorkerReport, file: HeadFile, heads: list[Head], checks: list[SegmentCheck]) -> None:
    """Holds a worker's chain against where it was noted to stand."""
    worker = report.worker
    chained = [check for check in checks if check.begin is not None]
    report.heads = len(heads)

    def find(what: str, message: str, sequence: int = 0) -> None:
        report.add(Finding(worker, checks[-1].segment if checks else "", 0, sequence, what, message))

    if file.unreadable:
        find("head", f"{file.unreadable} lines of {worker}.heads make no sense")
    wrong = [head for head in heads if file.signed(head) is Signed.WRONG]
    for head in wrong[:10]:
        find("head", f"what {worker}.heads says of record {head.chain.sequence} is not signed with this key")
    good = [head for head in heads if file.signed(head) is not Signed.WRONG]
    states = [file.signed(head) for head in good]
    report.signed = Signed.RIGHT in states
    if Signed.RIGHT in states and Signed.NOT in states[states.index(Signed.RIGHT) :]:
        find("head", f"{worker}.heads has lines without a signature after signed ones")
    if chained and not good:
        find("head", f"{worker}.heads is gone: whether the newest records were cut off cannot be told")
    elif chained and file.has_key and Signed.RIGHT not in states:
        find("head", f"{worker}.heads is not signed: whether the newest records were cut off cannot be told")
    if not chained and not good:
        return
    begin = chained[0].begin if chained else None
    anchors = {head.chain for head in good if head.is_anchor}
    if begin is not None and begin != genesis(worker) and begin not in anchors:
        message = f"records 1 to {begin.sequence} are gone, and it was not noted that they were let go"
        find("missing", message, 1)
    links = {number: link for check in checks for number, link in check.heads.items()}
    ends = {check.begin.sequence: check.begin.link for check in chained if check.begin is not None}
    for number, link in {head.chain for head in good}:
        if links.get(number, ends.get(number, link)) != link:
            find("altered", f"record {number} is not the one that was noted in {worker}.heads", number)
    reached = max((head.chain.sequence for head in good if not head.is_anchor), default=0)
    let_go = max((head.chain.sequence for head in good if head.is_anchor), default=0)
    stands_at = max(report.last, let_go if not chained else 0)
    if reached > stands_at:
        message = f"records {stands_at + 1} to {reached} were there once and are gone from the end"
        find("missing", message, stands_at + 1)
