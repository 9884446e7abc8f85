"""Decides recorded applications again, many at once: with the plan that they were decided with, or with another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.domain.enums import FeatureStatus
from engine.domain.facts import Facts
from engine.domain.outcome import Terms
from engine.errors import AssayError, RequestError
from engine.features.plan import FeaturePlan
from engine.features.rebuild import Asked, Known, Rebuild, at_terms
from engine.features.refit import Note, Refit
from engine.pipeline import Conclusion, Prepared, conclude_facts_many, prepare
from engine.plan import BundlePlan, FlowPlan

_KNOWN = frozenset(map(int, FeatureStatus))
_PRESENT = int(FeatureStatus.PRESENT)
# Prepared, the rows read, the features gathered: noted by the shell when an application is decided for the first time.
_MARKS_BEFORE = 4


class Impossible(AssayError):
    """A record cannot be decided again: its facts or its application are not what the plan takes."""


class Refused(AssayError):
    """The other bundle does not take the application. field: where; why: for a person, without what was sent."""

    def __init__(self, field: str, why: str) -> None:
        self.field, self.why = field, why
        super().__init__(f"{field}: {why}")


class Ready(NamedTuple):
    """One recorded application, ready to be decided: its place among the records given, and its facts."""

    place: int
    prepared: Prepared
    facts: Facts
    at_terms: Callable[[Terms], Facts]


def known_of_record(record: DecisionRecord) -> Known:
    """The packed facts of a record. Raises Impossible when they are of unequal lengths."""
    packed = record.packed_facts
    if not len(packed.values) == 8 * len(packed.statuses) == 8 * len(packed.origins):
        raise Impossible("the packed facts are of unequal lengths")
    if len(packed.view_statuses) != len(packed.view_event_times_us):
        raise Impossible("the packed rows are of unequal lengths")
    if not _KNOWN.issuperset(packed.statuses) or not _KNOWN.issuperset(packed.view_statuses):
        raise Impossible("the packed facts hold a status that this engine does not know")
    return Known(
        np.frombuffer(packed.values, "<f8"),
        np.frombuffer(packed.statuses, np.uint8),
        np.frombuffer(packed.origins, np.uint8),
        tuple(packed.view_statuses),
        tuple(packed.view_event_times_us),
    )


def decided_us(record: DecisionRecord) -> int:
    """The moment of the decision, microseconds since 1970 UTC."""
    return record.decision.decided_at.seconds * 1_000_000 + record.decision.decided_at.nanos // 1000


class SamePlan:
    """Makes recorded applications ready in the plan that they were decided with."""

    def __init__(self, bundle: BundlePlan) -> None:
        self._bundle = bundle
        self._rebuilds = {name: Rebuild(flow.features) for name, flow in bundle.flows.items()}

    def ready(self, place: int, record: DecisionRecord) -> Ready:
        """Raises Impossible."""
        decision, now_us = record.decision, decided_us(record)
        request = DecideRequest(
            request_id=decision.request_id, application=record.application, language=decision.language
        )
        try:
            prepared = _prepared(self._bundle, request, now_us)
        except RequestError as error:
            raise Impossible(f"the application is refused now: {error}") from error
        flow = prepared.flow
        if flow.name != decision.flow:
            raise Impossible(f"the application is for the flow {flow.name}, and was decided by {decision.flow}")
        known, asked = known_of_record(record), _asked(prepared, now_us)
        try:
            facts = self._rebuilds[flow.name].facts(known, asked)
        except ValueError as error:
            raise Impossible(f"the facts do not fit the plan: {error}") from error
        _as_sent(flow.features, prepared, facts)
        return Ready(place, prepared, facts, partial(_at_terms, prepared, facts, now_us))


def _as_sent(plan: FeaturePlan, prepared: Prepared, facts: Facts) -> None:
    """What the caller sent is in a record twice. Raises Impossible when the two differ."""
    read, start = facts.read.tolist(), plan.request_start
    for slot, value in (*enumerate(prepared.application.request, start), *prepared.application.sent):
        if value == read[slot] or (value != value and read[slot] != read[slot]) or facts.statuses[slot] != _PRESENT:
            continue
        raise Impossible(f"{plan.features[slot].name} is {value!r} in the application and {read[slot]!r} in the facts")


class OtherPlan:
    """Makes recorded applications ready in the plan of another bundle."""

    def __init__(self, bundle: BundlePlan, absent: FeatureStatus) -> None:
        self._bundle, self._absent = _without_required(bundle), absent
        self._refits: dict[tuple[bytes, str], Refit] = {}

    def ready(self, place: int, record: DecisionRecord, catalogue: bytes, notes: list[Note]) -> Ready:
        """notes: is added what could not be carried as it was. Raises Refused, Impossible."""
        now_us = decided_us(record)
        request = DecideRequest(request_id=record.decision.request_id, application=record.application)
        # Facts are carried by name, what the caller sent among them; only what is asked for is checked anew.
        request.application.ClearField("fields")
        self._keep_known_entities(request)
        try:
            prepared = _prepared(self._bundle, request, now_us)
        except RequestError as error:
            first = error.violations[0]
            raise Refused(first.field, first.description) from error
        flow = prepared.flow
        try:
            refit = self._refit(catalogue, flow)
            facts = refit.facts(known_of_record(record), _asked(prepared, now_us), notes)
        except ValueError as error:
            raise Impossible(f"the facts cannot be carried: {error}") from error
        notes += refit.notes
        return Ready(place, prepared, facts, partial(_at_terms, prepared, facts, now_us))

    def _keep_known_entities(self, request: DecideRequest) -> None:
        application = request.application
        flow = self._bundle.flows.get(f"{application.product}.{application.moment or 'application'}")
        if flow is None:
            return
        kept = [entity for entity in application.entities if entity.entity in flow.features.entity_places]
        if len(kept) < len(application.entities):
            del application.entities[:]
            application.entities.extend(kept)

    def _refit(self, catalogue: bytes, flow: FlowPlan) -> Refit:
        key = (catalogue, flow.name)
        if key not in self._refits:
            if len(self._refits) >= 256:
                self._refits.clear()
            self._refits[key] = Refit(catalogue, flow.features, self._absent)
        return self._refits[key]


def decide(ready: Sequence[Ready]) -> dict[int, Conclusion | Exception]:
    """Decides, sharing the runs of the models; one that fails harms no other. By place."""
    found: dict[int, Conclusion | Exception] = {}
    by_flow: dict[int, list[Ready]] = {}
    for one in ready:
        by_flow.setdefault(id(one.prepared.flow), []).append(one)
    for group in by_flow.values():
        _decide(group, found)
    return found


def _decide(group: Sequence[Ready], found: dict[int, Conclusion | Exception]) -> None:
    try:
        concluded = conclude_facts_many(
            [one.prepared for one in group],
            [one.facts for one in group],
            lambda which, offered: [group[i].at_terms(t) for i, t in zip(which, offered, strict=True)],
            0,
            no_clock,
        )
        found.update((one.place, conclusion) for one, conclusion in zip(group, concluded, strict=True))
    except Exception as error:
        for one in group:
            del one.prepared.marks[_MARKS_BEFORE:]
        if len(group) == 1:
            found[group[0].place] = error
            return
        for one in group:
            _decide([one], found)


def no_clock() -> int:
    """Times mean nothing in a replay."""
    return 0


def _prepared(bundle: BundlePlan, request: DecideRequest, now_us: int) -> Prepared:
    prepared = prepare(bundle, request, now_us, no_clock)
    prepared.marks += [0] * (_MARKS_BEFORE - len(prepared.marks))
    return prepared


def _asked(prepared: Prepared, now_us: int, terms: Terms | None = None) -> Asked:
    application, flow = prepared.application, prepared.flow
    asked = terms or Terms(application.amount_minor, application.term_months)
    unnamed = [place for place, key in enumerate(prepared.reads) if key is None]
    return Asked(asked.amount_minor / flow.minor_per_major, float(asked.term_months), now_us, unnamed)


def _at_terms(prepared: Prepared, facts: Facts, now_us: int, terms: Terms) -> Facts:
    return at_terms(prepared.flow.features, facts, _asked(prepared, now_us, terms))


def _without_required(bundle: BundlePlan) -> BundlePlan:
    """The same bundle, which takes applications without the fields that it requires: what an earlier application did
    not have to state is NOT_FOUND, and what that leads to is for the catalogue to say."""
    flows = {
        name: dataclasses.replace(flow, features=dataclasses.replace(flow.features, required_fields=()))
        for name, flow in bundle.flows.items()
    }
    return dataclasses.replace(bundle, flows=flows)
