"""Replay with the recorded bundle: identical, or the first difference and its cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine import __version__
from engine.errors import RecordError
from engine.pipeline import Conclusion
from engine.record.build import Parts, build_decision, build_record
from engine.record.read import parse_record
from engine.replay.again import Impossible, Ready, SamePlan, decide, decided_us
from engine.replay.cause import differences_of, find_cause
from engine.replay.compare import Found, first_difference
from engine.replay.items import Item
from engine.replay.shelf import OnShelf, Shelf
from engine.replay.tally import Difference, Tally


class _Taken(NamedTuple):
    """A record and the bundle that decides it again."""

    item: Item
    record: DecisionRecord
    shelf: OnShelf


class SameReplay:
    """Replays chunks of records. One process, one of these."""

    def __init__(self, shelf: Shelf, environment: bytes, environment_digest: str) -> None:
        """environment: the description of the environment that this process runs in, and its digest."""
        self._shelf, self._environment, self._digest = shelf, environment, environment_digest
        self._plans: dict[str, SamePlan] = {}
        self._libraries: dict[bytes, list[str]] = {}

    def run(self, items: Sequence[Item]) -> Tally:
        """What came of these records."""
        tally = Tally()
        taken: list[_Taken] = []
        ready: list[Ready] = []
        for item in items:
            tally.count("records")
            tally.saw(item.decided_us)
            try:
                record = parse_record(item.record)
            except RecordError as error:
                tally.count("unreadable")
                tally.keep("unreadable", (item.decision_id, str(error)))
                continue
            if (gone := what_is_gone(item, record)) is not None:
                tally.count(gone)
                continue
            self._describe(item, record, tally)
            found = self._bundle(record)
            if found is None:
                tally.differ(self._no_bundle(item, record))
                continue
            try:
                made = self._plan(found).ready(len(taken), record)
            except Impossible as error:
                again = Found("features", "facts", "as recorded", str(error))
                tally.differ(self._difference(item, record, found, again))
                continue
            ready.append(made)
            taken.append(_Taken(item, record, found))
        concluded = decide(ready)
        for place, one in enumerate(taken):
            self._compare(one, concluded[place], tally)
        return tally

    def _plan(self, found: OnShelf) -> SamePlan:
        plan = found.loaded.plan
        if plan.digest not in self._plans:
            self._plans[plan.digest] = SamePlan(plan)
        return self._plans[plan.digest]

    def _bundle(self, record: DecisionRecord) -> OnShelf | None:
        """The recorded bundle, or else the nearest of its name, so that it can be said what differs."""
        wanted = record.decision.bundle
        return self._shelf.get(wanted.digest) or self._shelf.nearest(wanted.name, wanted.version)

    def _describe(self, item: Item, record: DecisionRecord, tally: Tally) -> None:
        """What was replayed, for the report."""
        decision = record.decision
        tally.count("bundle", decision.bundle.name, decision.bundle.version, decision.bundle.digest)
        tally.count("flow", decision.flow)
        tally.count("engine", record.engine_version)
        if record.environment_digest != self._digest:
            tally.count("environment", record.environment_digest, ", ".join(self._differing(item)))

    def _differing(self, item: Item) -> list[str]:
        if item.environment not in self._libraries:
            self._libraries[item.environment] = differences_of(item.environment, self._environment)
        return self._libraries[item.environment]

    def _compare(self, one: _Taken, concluded: Conclusion | Exception, tally: Tally) -> None:
        item, record, shelf = one
        found: Found | None
        if isinstance(concluded, Exception):
            found = Found("scores", "decision", "as recorded", f"it could not be decided: {concluded}")
        else:
            flow = concluded.prepared.flow
            found = first_difference(record, record_of(concluded, shelf, decided_us(record)), flow)
        digest = shelf.loaded.plan.digest
        if found is None and digest != record.decision.bundle.digest:
            found = Found("bundle", "digest", record.decision.bundle.digest, digest)
        if found is None:
            tally.count("identical")
        else:
            tally.differ(self._difference(item, record, shelf, found))

    def _difference(self, item: Item, record: DecisionRecord, shelf: OnShelf, found: Found) -> Difference:
        wanted = record.decision.bundle.digest
        cause, detail = find_cause(
            (wanted, shelf.loaded.plan.digest),
            (record.engine_version, __version__),
            (record.environment_digest, self._digest),
            self._differing(item),
        )
        if wanted in self._shelf.faults:
            detail += f"; {self._shelf.faults[wanted]}"
        return Difference(item.decision_id, record.decision.flow, *found, cause=cause, detail=detail)

    def _no_bundle(self, item: Item, record: DecisionRecord) -> Difference:
        bundle = record.decision.bundle
        why = self._shelf.faults.get(bundle.digest, "no bundle of this digest or name is in the directories given")
        return Difference(
            item.decision_id, record.decision.flow, "bundle", "digest", bundle.digest, "none", "bundle", why
        )


def what_is_gone(item: Item, record: DecisionRecord) -> str | None:
    """Why a record cannot be replayed: `erased`, its personal part is gone; `locked`, it is sealed and was not opened.
    None: it can."""
    if item.erased:
        return "erased"
    return None if record.HasField("application") and record.packed_facts.statuses else "locked"


def record_of(concluded: Conclusion, shelf: OnShelf, now_us: int) -> DecisionRecord:
    """The record of a conclusion, as the engine writes it."""
    prepared = concluded.prepared
    labels = shelf.labels.flows[prepared.flow.name]
    parts = Parts(
        prepared.application,
        concluded.facts,
        concluded.scores,
        concluded.outcome,
        concluded.reasons,
        now_us,
        prepared.marks,
    )
    decision = build_decision(labels, parts, "-", "", 0)
    return parse_record(build_record(labels, parts, decision, b"", b""))
