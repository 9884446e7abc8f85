"""Reads a journal without being one of those who write it: no lock, no index, nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from engine.errors import RecordError
from engine.record.entries import StoredDecision, Unsealer, unpack_decision, unpack_declared, unseal
from engine.record.segments import (
    Damage,
    Frame,
    FrameKind,
    Position,
    TornTail,
    list_segments,
    scan,
    worker_of,
)


class JournalReader:
    """All that the workers of one directory wrote. The journal may be written meanwhile: what is appended while a
    worker's frames are read is met too, as far as it goes on in the segment being read or a later one.

    Not safe to use from several threads; make one for each.
    """

    def __init__(self, directory: Path, keys: Unsealer | None = None) -> None:
        """keys: opens personal parts; without it records hold what was never sealed. Raises RecordError for a directory
        that cannot be read."""
        self._directory, self._keys = Path(directory), keys
        self._declared: dict[tuple[FrameKind, str], bytes] = {}
        try:
            list_segments(self._directory)
        except OSError as e:
            raise RecordError(f"the journal {directory} cannot be read: {e.strerror}") from e

    def workers(self) -> list[str]:
        """The workers that have segments here."""
        return sorted({worker_of(segment) for segment in list_segments(self._directory)})

    def frames(self, worker: str, start: Position | None = None) -> Iterator[Frame | Damage | TornTail]:
        """All frames of a worker, by age, of every kind, from a position (where a frame starts or ends) on. A TornTail
        may be a frame being written right now. Raises RecordError for a segment that cannot be read."""
        for segment in list_segments(self._directory):
            if worker_of(segment) != worker or (start is not None and segment < start.segment):
                continue
            yield from scan(
                self._directory, segment, start.offset if start is not None and segment == start.segment else 0
            )

    def decisions(
        self, start: Mapping[str, Position] | None = None, on_damage: Callable[[Damage], None] | None = None
    ) -> Iterator[StoredDecision]:
        """All decisions, by worker and age. start: where to begin with each worker. on_damage: told of what does not
        check out, and the rest follows; without it the first damage raises RecordError."""
        for worker in self.workers():
            for item in self.frames(worker, None if start is None else start.get(worker)):
                if isinstance(item, Frame):
                    if item.kind == FrameKind.DECISION:
                        yield unpack_decision(item, self._keys)
                elif isinstance(item, Damage):
                    if on_damage is None:
                        at, length, why, *_ = item
                        raise RecordError(f"segment {at.segment} is damaged at {at.offset} for {length} bytes: {why}")
                    on_damage(item)

    def find(self, decision_id: str) -> StoredDecision | None:
        """One decision by its id, whichever worker made it: the journal is read until it is found. What is damaged is
        passed over. Raises RecordError when its own bytes do not open."""
        wanted = decision_id.encode()
        for worker in self.workers():
            for item in self.frames(worker):
                if isinstance(item, Frame) and item.kind == FrameKind.DECISION and wanted in item.payload[:2048]:
                    stored = unpack_decision(item)
                    if stored.decision_id == decision_id:
                        return unseal(stored, self._keys)
        return None

    def catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest; None when no segment holds it."""
        return self._find(FrameKind.CATALOGUE, digest)

    def environment(self, digest: str) -> bytes | None:
        """A description of a pinned environment by its digest; None when no segment holds it."""
        return self._find(FrameKind.ENVIRONMENT, digest)

    def _find(self, kind: FrameKind, digest: str) -> bytes | None:
        if (kind, digest) not in self._declared:
            # Every segment begins with all that is declared: no need to read beyond.
            for segment in reversed(list_segments(self._directory)):
                for item in scan(self._directory, segment):
                    if not isinstance(item, Frame):
                        continue
                    if item.kind not in (FrameKind.CATALOGUE, FrameKind.ENVIRONMENT):
                        break
                    name, payload = unpack_declared(item.payload)
                    self._declared[FrameKind(item.kind), name] = payload
                if (kind, digest) in self._declared:
                    break
        return self._declared.get((kind, digest))
