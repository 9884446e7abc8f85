"""The shell around writing and reading features: it has the clock and the store, and hands rows to the pure rules.

Threads may call it at once. It knows nothing of gRPC.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engine.clock import Clock
from engine.domain.facts import NoRow
from engine.errors import FieldViolation, RecordError, Refusal, RequestError, StoreError
from engine.features.show import ShownView, show_view
from engine.features.store import FeatureStore, entity_prefix
from engine.features.stores.partial import PartialRead
from engine.features.velocity.definition import Event
from engine.features.velocity.state import Outcome
from engine.features.writing.checks import id_fault
from engine.features.writing.events import SentEvent
from engine.features.writing.outcome import CleaningRule, Fault
from engine.features.writing.plan import DeskPlan, ReadingView, SentRow
from engine.telemetry.counters import Counters

_log = logging.getLogger("assay.features")
VIEWS_MAX = 100


class EventCounter(Protocol):
    """What counts events for good. `engine.features.velocity.VelocityApplier` is one."""

    def apply_now(self, events: Sequence[Event], deadline_s: float | None = None) -> Sequence[Outcome]:
        """Counts events, and says what became of each. Raises StoreError."""


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """What became of rows. rejected: by place; repairs: by view, feature and rule."""

    written: int
    ignored_older: int
    rejected: Mapping[int, Sequence[Fault]]
    repairs: Mapping[tuple[str, str, CleaningRule], int]


@dataclass(frozen=True, slots=True)
class EventsOutcome:
    """What became of events. outcomes: how many came to each; rejected: by position."""

    outcomes: Mapping[Outcome, int]
    rejected: Sequence[tuple[int, Sequence[Fault]]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of one entity at a moment, microseconds since 1970 UTC."""

    views: tuple[ShownView, ...]
    now_us: int


class _Served(NamedTuple):
    plan: DeskPlan
    counter: EventCounter | None


class FeatureDesk:
    """Writes, counts, reads and erases features with the bundle in service.

    forget: told the prefix of an erased entity's keys, so that what is kept of it elsewhere in this process goes too.
    read_budget_s: the most that one read may take.
    """

    def __init__(
        self,
        store: FeatureStore,
        clock: Clock,
        counters: Counters | None = None,
        forget: Callable[[bytes], None] | None = None,
        read_budget_s: float = 5.0,
    ) -> None:
        self._store, self._clock = store, clock
        self._counters = counters or Counters()
        self._forget = forget
        # Set where something counts behind the answers: waits for that, and is told what was erased.
        self.settle: Callable[[bytes], None] | None = None
        self.erased: Callable[[bytes], None] | None = None
        # Set where decisions are sealed: makes the personal parts of a subject's records unreadable for good.
        self.erase_records: Callable[[str], None] | None = None
        self._read_budget_s = read_budget_s
        self._served: _Served | None = None
        # Views whose schema is in the store already, by fingerprint.
        self._kept: set[bytes] = set()

    def serve(self, plan: DeskPlan, counter: EventCounter | None) -> None:
        """Puts a bundle in service: calls that begin from now on use it. counter: None where nothing counts events."""
        self._served = _Served(plan, counter if plan.writes.counted else None)

    def put(self, sent: Sequence[SentRow]) -> PutOutcome:
        """Writes rows. What was written is durable. Raises Refusal."""
        plan = self._in_service().plan.writes
        cleaned = plan.clean(sent, self._clock.now_us())
        try:
            for view in cleaned.views:
                # A row must not lie in a store that does not know how to read it.
                schema = plan.views[view].schema
                if schema.fingerprint not in self._kept:
                    self._store.put_schema(schema.fingerprint, schema.canonical)
                    self._kept.add(schema.fingerprint)
            result = self._store.write(cleaned.rows)
        except StoreError as error:
            raise self._unavailable(error, "the rows") from error
        self._note_rejected("feature_rows_rejected", cleaned.rejected.values())
        for (view, _, rule), count in cleaned.repairs.items():
            self._counters.add("feature_values_cleaned", count, view=view, rule=rule.name)
        return PutOutcome(result.written, result.ignored_older, cleaned.rejected, cleaned.repairs)

    def check_counting(self) -> None:
        """Raises Refusal when events cannot be counted."""
        if self._in_service().counter is None:
            raise Refusal("NO_COUNTERS", "Nothing counts events here: the bundle in service declares no counters.")

    def count(self, sent: Sequence[SentEvent]) -> EventsOutcome:
        """Counts events for good. Raises Refusal, after which some may be counted, and all may be sent again."""
        self.check_counting()
        plan, counter = self._in_service()
        assert counter is not None
        now_us = self._clock.now_us()
        events: list[Event] = []
        rejected: list[tuple[int, Sequence[Fault]]] = []
        for one in sent:
            event, faults = plan.writes.events.clean(one, now_us)
            if event is None:
                rejected.append((one.position, faults))
            else:
                events.append(event)
        outcomes: Mapping[Outcome, int] = {}
        if events:
            try:
                outcomes = Counter(counter.apply_now(events))
            except StoreError as error:
                raise self._unavailable(error, "the events") from error
        self._note_rejected("feature_events_rejected", (faults for _, faults in rejected))
        return EventsOutcome(outcomes, rejected)

    def read(
        self, entity: str, entity_id: str, views: Sequence[str] = (), flow: str = "", deadline_s: float | None = None
    ) -> Reading:
        """What is known of one entity now. views: those wanted; flow: the one whose views are wanted; neither: all that
        are about the entity. deadline_s: on `time.monotonic()`. Raises RequestError, Refusal."""
        plan = self._in_service().plan
        wanted = _wanted(plan, entity, entity_id, views, flow)
        keys = [one.plan.views[0].key(entity_id) for one in wanted]
        end_s = time.monotonic() + self._read_budget_s
        try:
            rows = self._read(keys, end_s if deadline_s is None else min(end_s, deadline_s))
            now_us = self._clock.now_us()
            shown = [
                show_view(one, key, row, now_us, self._store.get_schema)
                for one, key, row in zip(wanted, keys, rows, strict=True)
            ]
        except StoreError as error:
            raise self._unavailable(error, "the rows", verb="read") from error
        return Reading(tuple(shown), now_us)

    def _read(self, keys: Sequence[bytes], end_s: float) -> Sequence[bytes | NoRow | None]:
        try:
            return self._store.read(keys, end_s) if keys else []
        except PartialRead as part:
            return part.rows

    def erase(self, entity: str, entity_id: str) -> int:
        """Removes every row of one entity, and of a subject all that is personal in records of decisions. entity: ""
        for the subject's. Gives how many rows there were. Raises
        RequestError, Refusal."""
        plan = self._in_service().plan
        bad = []
        if not entity:
            if len(plan.subjects) == 1:
                entity = plan.subjects[0]
            else:
                bad.append(FieldViolation("entity", f"is required: one of {', '.join(plan.subjects)}"))
        elif entity not in plan.writes.entities:
            bad.append(_unknown_entity(plan))
        bad += _id_violation(entity_id)
        if bad:
            raise RequestError(bad)
        prefix = entity_prefix(entity, entity_id)
        try:
            if self.settle is not None:
                self.settle(prefix)
            if self.erased is not None:
                self.erased(prefix)
            if self.erase_records is not None and entity in plan.subjects:
                self.erase_records(entity_id)
            removed = self._store.delete_entity(entity, entity_id)
        except (StoreError, RecordError, OSError) as error:
            _log.error("an erasure is not complete", extra={"store": self._store.name, "error": str(error)})
            message = f"Not everything is erased yet, repeat the call: {error}"
            raise Refusal("STORE_UNAVAILABLE", message, {"store": self._store.name}) from error
        finally:
            if self._forget is not None:
                self._forget(prefix)
        self._counters.add("feature_rows_erased", removed)
        return removed

    def _in_service(self) -> _Served:
        if self._served is None:
            raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
        return self._served

    def _unavailable(self, error: StoreError, what: str, verb: str = "written") -> Refusal:
        _log.error("the feature store failed", extra={"store": self._store.name, "error": str(error)})
        message = f"The feature store failed, so {what} could not all be {verb}; send the call again."
        return Refusal("STORE_UNAVAILABLE", message, {"store": self._store.name})

    def _note_rejected(self, name: str, rejected: Iterable[Sequence[Fault]]) -> None:
        for faults in rejected:
            self._counters.add(name, reason=faults[0].reason.name)


def _wanted(plan: DeskPlan, entity: str, entity_id: str, views: Sequence[str], flow: str) -> list[ReadingView]:
    """The views to read. Raises RequestError with everything that is wrong."""
    bad = _id_violation(entity_id)
    known = {name: one for name, one in plan.readings.items() if one.entity == entity}
    if entity not in plan.writes.entities:
        bad.append(_unknown_entity(plan))
    elif views and flow:
        bad.append(FieldViolation("flow", "does not go together with `views`"))
    names: Sequence[str] = tuple(known)
    if flow:
        if flow not in plan.flows:
            bad.append(FieldViolation("flow", f"is no flow of the bundle in service; flows: {', '.join(plan.flows)}"))
        names = [name for name in plan.flows.get(flow, ()) if name in known]
    elif views:
        names = list(dict.fromkeys(views))
        if len(views) > VIEWS_MAX:
            bad.append(FieldViolation("views", f"holds {len(views)} names; at most {VIEWS_MAX} are taken"))
        for index, name in enumerate(views[:VIEWS_MAX]):
            if entity in plan.writes.entities and name not in known:
                message = f"is no view about this entity; views: {', '.join(known) or 'none'}"
                bad.append(FieldViolation(f"views[{index}]", message))
    if bad:
        raise RequestError(bad)
    return [known[name] for name in names]


def _unknown_entity(plan: DeskPlan) -> FieldViolation:
    return FieldViolation("entity", f"must be one of {', '.join(sorted(plan.writes.entities))}")


def _id_violation(entity_id: str) -> list[FieldViolation]:
    fault = id_fault("entity_id", entity_id)
    return [] if fault is None else [FieldViolation(fault.field, fault.message)]
