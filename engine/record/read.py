"""Reads a stored record back: the answer as it was given, and the packed parts by name."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.errors import RecordError


def parse_record(content: bytes) -> record_pb.DecisionRecord:
    """The record of a decision. Raises RecordError for bytes that are none."""
    try:
        return record_pb.DecisionRecord.FromString(content)
    except DecodeError as error:
        raise RecordError("the stored record does not parse") from error


def replayed_decision(content: bytes) -> pb.Decision:
    """The answer as it was given, marked as replayed."""
    decision = parse_record(content).decision
    decision.replayed = True
    return decision


def unpack(
    record: record_pb.DecisionRecord, catalogue_json: bytes | None, inputs: Mapping[str, tuple[str, ...]]
) -> None:
    """Writes the packed parts of a record out by name: facts, rows, reasons, and the inputs of models.

    catalogue_json: the slot list that the record names by digest; None when it is lost, and slots then go by number.
    inputs: the inputs of the models that are known, by the digest of their file. Raises RecordError for parts that do
    not fit together.
    """
    features, views = _listing(record.packed_facts, catalogue_json)
    _unpack_views(record, [entry["name"] for entry in views])
    _unpack_facts(record, features)
    _unpack_reasons(record)
    for run in record.runs:
        names = inputs.get(run.digest)
        if names is not None and len(names) == len(run.contributions):
            run.inputs.extend(names)


def _listing(
    packed: record_pb.PackedFacts, catalogue_json: bytes | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Features and views by slot."""
    if catalogue_json is None:
        slots = [{"name": f"slot {i}", "view": ""} for i in range(len(packed.statuses))]
        return slots, [{"name": f"view {i}"} for i in range(len(packed.view_statuses))]
    listing = json.loads(catalogue_json)
    return listing["features"], listing["views"]


def _unpack_facts(record: record_pb.DecisionRecord, features: list[dict[str, Any]]) -> None:
    packed, count = record.packed_facts, len(features)
    if not len(packed.values) == 8 * count == 8 * len(packed.statuses) == 8 * len(packed.origins):
        raise RecordError("the packed facts do not fit their catalogue")
    stood_in = {one.feature: one for one in record.decision.substitutions}
    decided_us = record.decision.decided_at.ToMicroseconds()
    times_us = {view.view: view.event_time.ToMicroseconds() for view in record.views if view.HasField("event_time")}
    for index, value in enumerate(struct.unpack(f"<{count}d", packed.values)):
        entry = features[index]
        fact = record.facts.add(feature=entry["name"], view=entry["view"], purpose=entry.get("purpose", ""))
        fact.status = packed.statuses[index]  # type: ignore[assignment]
        fact.origin = packed.origins[index]  # type: ignore[assignment]
        if math.isfinite(value):
            fact.value_read = value
        if fact.status == pb.FEATURE_STATUS_PRESENT:
            fact.value = value
        elif entry["name"] in stood_in and stood_in[entry["name"]].HasField("value_used"):
            fact.value = stood_in[entry["name"]].value_used
        event_time_us = times_us.get(entry["view"])
        if event_time_us is not None and fact.origin == record_pb.VALUE_ORIGIN_STORE and math.isfinite(value):
            fact.age.FromMicroseconds(max(decided_us - event_time_us, 0))


def _unpack_views(record: record_pb.DecisionRecord, names: list[str]) -> None:
    packed = record.packed_facts
    if not len(names) == len(packed.view_statuses) == len(packed.view_event_times_us):
        raise RecordError("the packed rows do not fit their catalogue")
    for name, status, event_time_us in zip(names, packed.view_statuses, packed.view_event_times_us, strict=True):
        view = record.views.add(view=name)
        view.status = status  # type: ignore[assignment]
        if event_time_us:
            view.event_time.FromMicroseconds(event_time_us)


def _unpack_reasons(record: record_pb.DecisionRecord) -> None:
    packed = record.packed_reasons
    if not len(packed.codes) == len(packed.components) == len(packed.contributions) == len(packed.rules):
        raise RecordError("the packed reasons are of unequal lengths")
    ranks: dict[int, int] = {}
    for code, component, contribution, rule in zip(
        packed.codes, packed.components, packed.contributions, packed.rules, strict=True
    ):
        rank = ranks[component] = ranks.get(component, 0) + 1
        reason = record.all_reasons.add(code=code, rank=rank, rule=rule)
        reason.component = component  # type: ignore[assignment]
        if math.isfinite(contribution):
            reason.contribution = contribution
