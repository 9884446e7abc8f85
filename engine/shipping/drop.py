"""Lets segments go that are wholly in Cassandra, that nobody needs here any more, and that are old enough."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from engine.errors import RecordError
from engine.record.retention import drop_through
from engine.record.segments import Position, segment_path
from engine.shipping.state import Checkpoint
from engine.shipping.tail import segments_of

# Up to where another reader of a worker's segments has got: what is beyond has to stay. None: it needs nothing.
Hold = Callable[[str], Position | None]


def velocity_hold(journal: Path) -> Hold:
    """Up to where the applications of a worker are counted, from the checkpoint that `VelocityOutbox` keeps."""

    def counted(worker: str) -> Position | None:
        try:
            content = json.loads((journal / f"velocity.{worker}.json").read_text(encoding="utf-8"))
            return Position(str(content["segment"]), int(content["offset"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    return counted


class SegmentDropper:
    """Decides what may go. keep_s: how long a segment stays after its last frame was written. holds: readers that are
    not through yet. head_key: signs where the chain goes on."""

    def __init__(self, journal: Path, keep_s: float, holds: tuple[Hold, ...], head_key: bytes | None) -> None:
        self._journal, self._keep_s, self._holds, self._head_key = journal, keep_s, holds, head_key

    def drop(self, worker: str, checkpoint: Checkpoint) -> int:
        """Let a worker's segments go, the oldest first, but for the newest one. Gives how many went. Raises
        RecordError."""
        through: Position | None = None
        segments = segments_of(self._journal, worker)
        held = [position for hold in self._holds if (position := hold(worker)) is not None]
        # The newest stays in any case: its number is what the worker goes on from.
        for segment, following in pairwise(segments):
            shipped = segment < checkpoint.segment or (segment == checkpoint.segment and checkpoint.complete)
            if not shipped or any(position.segment <= segment for position in held):
                break
            try:
                found = segment_path(self._journal, segment).stat()
            except OSError as e:
                raise RecordError(f"segment {segment} cannot be read: {e.strerror}") from e
            if time.time() - found.st_mtime < self._keep_s:
                break
            through = Position(following, 0)
        if through is None:
            return 0
        return len(drop_through(self._journal, through, worker, self._head_key, own=False))
