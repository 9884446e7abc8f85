"""How a journal lets go: whole segments, oldest first, and an anchor where each chain then begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from engine.errors import RecordError
from engine.record.heads import Head, HeadFile, head_now
from engine.record.segments import (
    Damage,
    Frame,
    Position,
    TornTail,
    own_segments,
    read_head,
    scan,
    segment_path,
)
from engine.record.worker_lock import WorkerLock

_US_PER_DAY = 86_400_000_000


def drop_through(directory: Path, position: Position, worker: str, head_key: bytes | None, *, own: bool) -> list[str]:
    """Let a worker's segments go that end at or before a position. What was let go.

    own: this process is the worker; its newest segment stays then, and so does that of another one that is alive. The
    place where the chain goes on is noted, durably, before anything is removed. Raises RecordError.
    """
    segments = own_segments(directory, worker)
    gone = [name for name in segments if name < position.segment]
    if position.segment in segments and not own and _ends_at(directory, position) and _is_dead(directory, worker):
        gone.append(position.segment)
    elif segments and gone and gone[-1] == segments[-1]:
        gone.pop()
    return _remove(directory, worker, segments, gone, head_key)


def prune(
    directory: Path,
    worker: str,
    now_us: int,
    retain_days: Mapping[str, int],
    shipped_through: Position | None,
    head_key: bytes | None,
) -> list[str]:
    """Let a worker's segments go whose newest record is older than the longest of the days by country.

    shipped_through: up to where its records are shipped; None when nothing is shipped and age alone counts. A country
    with 0 days keeps its records for ever, and with them all segments. Raises RecordError.
    """
    if not retain_days or min(retain_days.values()) <= 0:
        return []
    before_us = now_us - max(retain_days.values()) * _US_PER_DAY
    segments = own_segments(directory, worker)
    gone = []
    for name, following in pairwise(segments):
        begin = read_head(directory, following)
        # All that stands in a segment is older than the one that follows it.
        if isinstance(begin, (Damage, TornTail)) or begin.created_us >= before_us:
            break
        if shipped_through is not None and name >= shipped_through.segment:
            break
        gone.append(name)
    return _remove(directory, worker, segments, gone, head_key)


def _remove(directory: Path, worker: str, segments: list[str], gone: list[str], head_key: bytes | None) -> list[str]:
    if not gone:
        return []
    try:
        HeadFile(directory, worker, head_key).add(
            [anchor for name in gone if (anchor := _anchor_after(directory, segments, name)) is not None], durable=True
        )
        for name in gone:
            segment_path(directory, name).unlink(missing_ok=True)
    except OSError as e:
        raise RecordError(f"segments of {worker} cannot be let go: {e.strerror}") from e
    return gone


def _anchor_after(directory: Path, segments: list[str], name: str) -> Head | None:
    """Where the chain stands behind a segment: what the next one says, or else its own last frame."""
    after = segments.index(name) + 1
    if after < len(segments):
        begin = read_head(directory, segments[after])
        if isinstance(begin, (Damage, TornTail)) or begin.chain is None:
            return None
        return head_now(begin.chain, segments[after], begin.first_frame, is_anchor=True)
    begin = read_head(directory, name)
    if isinstance(begin, (Damage, TornTail)) or begin.chain is None:
        return None
    chain, end = begin.chain, begin.first_frame
    for item in scan(directory, name):
        if isinstance(item, Frame):
            chain, end = type(chain)(item.sequence, item.link), item.end
    return head_now(chain, name, end, is_anchor=True)


def _ends_at(directory: Path, position: Position) -> bool:
    with suppress(OSError):
        return os.stat(segment_path(directory, position.segment)).st_size <= position.offset
    return False


def _is_dead(directory: Path, worker: str) -> bool:
    try:
        WorkerLock(directory, worker).release()
    except OSError:
        return False
    return True
