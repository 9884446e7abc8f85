"""All outcomes of a portfolio, to be joined with decisions: from journals, their indexes, or wherever records are.

The same outcome may be met in several places; it counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from assay.outcome.v1 import outcome_pb2 as pb
from engine.outcomes.catch_up import parse_outcome
from engine.outcomes.index import read_payloads
from engine.outcomes.standing import NOW_US, Observed, holding, observed
from engine.record.reader import JournalReader
from engine.record.segments import Damage, Frame, FrameKind

INDEX_FILE = "outcomes.sqlite"


class OutcomeBook:
    """Outcomes by decision, by its id or by its request's. unreadable: those that could not be used."""

    def __init__(self) -> None:
        self.count = self.unreadable = self.damaged = 0
        self._by_decision: dict[str, list[Observed]] = {}
        self._by_request: dict[tuple[str, str], list[Observed]] = {}
        # An id met twice with the same moment of recording is the same frame met twice.
        self._met: set[tuple[str, str, int]] = set()
        self._joined: set[str] = set()

    def add(self, record: pb.OutcomeRecord) -> None:
        """Takes one outcome in."""
        try:
            one = observed(record)
        except ValueError:
            self.unreadable += 1
            return
        key = (record.tenant, one.outcome_id, one.recorded_us)
        if key in self._met:
            return
        self._met.add(key)
        self.count += 1
        if record.decision_id:
            self._by_decision.setdefault(record.decision_id, []).append(one)
        else:
            self._by_request.setdefault((record.tenant, record.request_id), []).append(one)

    def add_payloads(self, payloads: Iterable[bytes]) -> None:
        """Takes in what frames hold."""
        for payload in payloads:
            record = parse_outcome(payload)
            if record is None:
                self.unreadable += 1
            else:
                self.add(record)

    def add_journal(self, directory: Path) -> None:
        """Takes in what a journal holds, and what its index still knows of segments that were let go. Raises
        RecordError."""
        reader = JournalReader(directory)
        for worker in reader.workers():
            for item in reader.frames(worker):
                if isinstance(item, Frame) and item.kind == FrameKind.OUTCOME:
                    self.add_payloads((item.payload,))
                elif isinstance(item, Damage):
                    self.damaged += 1
        index = Path(directory) / INDEX_FILE
        if index.exists():
            self.add_payloads(read_payloads(index))

    def holding(
        self, decision_id: str, request_id: str = "", tenant: str = "", as_of_us: int = NOW_US
    ) -> list[Observed]:
        """What held of a decision as known at a moment, by time of observation."""
        found = self._by_decision.get(decision_id, [])
        if self._by_request:
            found = found + self._by_request.get((tenant, request_id), [])
        if not found:
            return []
        self._joined.update(one.outcome_id for one in found)
        return holding(found, as_of_us)

    @property
    def unjoined(self) -> int:
        """How many outcomes belong to no decision that was asked about."""
        return len({outcome_id for _, outcome_id, _ in self._met} - self._joined)
