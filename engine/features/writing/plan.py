"""What the writing side needs of a catalogue: how rows are made, what events may say, what readers are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.features.plan import FeaturePlan
from engine.features.store import Row
from engine.features.writing.checks import event_time_fault, id_fault
from engine.features.writing.events import EventRules
from engine.features.writing.outcome import CleaningRule, Fault, RejectReason
from engine.features.writing.view_writer import Repairs, ViewWriter


@dataclass(frozen=True, slots=True)
class SentRow:
    """One row as a writer sent it. event_time_us: microseconds since 1970 UTC, None without; values: by feature, as
    `FeatureRule.clean` takes them; units: by feature, where they are not its own; faults: what was wrong with it before
    anybody looked at what it says."""

    view: str
    entity_id: str
    event_time_us: int | None
    values: Mapping[str, object]
    units: Mapping[str, str]
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class CleanRows:
    """Rows that went through the rules. rows: those that are good; rejected: by place, what is wrong with the others;
    repairs: by view, feature and rule, over the good ones; views: those that rows were made for."""

    rows: list[Row]
    rejected: Mapping[int, Sequence[Fault]]
    repairs: Mapping[tuple[str, str, CleaningRule], int]
    views: frozenset[str]


@dataclass(frozen=True, slots=True)
class WritePlan:
    """How what is sent becomes rows. views: by name, those that writers may write; counted: those that the engine
    keeps itself; entities: all that are declared."""

    views: Mapping[str, ViewWriter]
    counted: frozenset[str]
    entities: frozenset[str]
    events: EventRules

    def clean(self, sent: Sequence[SentRow], now_us: int) -> CleanRows:
        """Makes rows of what was sent. now_us: the moment, microseconds since 1970 UTC. No row harms another."""
        rejected: dict[int, Sequence[Fault]] = {}
        repairs: Counter[tuple[str, str, CleaningRule]] = Counter()
        made: dict[str, tuple[list[str], list[int], list[list[float]]]] = {}
        for index, row in enumerate(sent):
            faults, applied = list(row.faults), Repairs()
            numbers = self._clean_one(row, now_us, faults, applied)
            if faults or numbers is None or row.event_time_us is None:
                rejected[index] = faults
                continue
            repairs.update({(row.view, name, rule): count for (name, rule), count in applied.items()})
            ids, times, matrix = made.setdefault(row.view, ([], [], []))
            ids.append(row.entity_id)
            times.append(row.event_time_us)
            matrix.append(numbers)
        rows: list[Row] = []
        for view, (ids, times, matrix) in made.items():
            rows += self.views[view].pack(ids, np.array(times, dtype=np.int64), np.array(matrix))
        return CleanRows(rows, rejected, repairs, frozenset(made))

    def _clean_one(self, row: SentRow, now_us: int, faults: list[Fault], applied: Repairs) -> list[float] | None:
        for fault in (id_fault("entity_id", row.entity_id), event_time_fault(row.event_time_us, now_us)):
            if fault is not None and all(fault.field != known.field for known in faults):
                faults.append(fault)
        writer = self.views.get(row.view)
        if writer is None:
            faults.append(self._no_view(row.view))
            return None
        return writer.clean(row.values, row.units, faults, applied)

    def _no_view(self, view: str) -> Fault:
        if not view:
            return Fault("view", RejectReason.UNKNOWN_VIEW, "is required")
        if view in self.counted:
            message = "its features are counters, which the engine keeps itself: send events"
            return Fault("view", RejectReason.KEPT_BY_ENGINE, message)
        return Fault("view", RejectReason.UNKNOWN_VIEW, "is no view of the bundle in service")


@dataclass(frozen=True, slots=True)
class ReadingView:
    """One view as readers are shown it. plan: of this view alone, without consents."""

    name: str
    entity: str
    plan: FeaturePlan


@dataclass(frozen=True, slots=True)
class DeskPlan:
    """All that the writing side needs of a bundle. readings: by view, in the catalogue's order; flows: by name, their
    views; subjects: the entities that applications are about."""

    writes: WritePlan
    readings: Mapping[str, ReadingView]
    flows: Mapping[str, tuple[str, ...]]
    subjects: tuple[str, ...]
