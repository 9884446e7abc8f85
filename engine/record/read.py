"""Reads a stored record back: the answer as it was given, and the packed parts by name."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping

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
    features, views = _names(record.packed_facts, catalogue_json)
    _unpack_facts(record, features)
    _unpack_views(record, views)
    _unpack_reasons(record)
    for run in record.runs:
        names = inputs.get(run.digest)
        if names is not None and len(names) == len(run.contributions):
            run.inputs.extend(names)


def _names(packed: record_pb.PackedFacts, catalogue_json: bytes | None) -> tuple[list[str], list[str]]:
    if catalogue_json is None:
        count, views = len(packed.statuses), len(packed.view_statuses)
        return [f"slot {i}" for i in range(count)], [f"view {i}" for i in range(views)]
    listing = json.loads(catalogue_json)
    return [entry["name"] for entry in listing["features"]], [entry["name"] for entry in listing["views"]]


def _unpack_facts(record: record_pb.DecisionRecord, names: list[str]) -> None:
    packed, count = record.packed_facts, len(names)
    if not len(packed.values) == 8 * count == 8 * len(packed.statuses) == 8 * len(packed.origins):
        raise RecordError("the packed facts do not fit their catalogue")
    ages = {s.feature: s.age for s in record.decision.substitutions if s.HasField("age")}
    for index, value in enumerate(struct.unpack(f"<{count}d", packed.values)):
        fact = record.facts.add(feature=names[index])
        fact.status = packed.statuses[index]  # type: ignore[assignment]
        fact.origin = packed.origins[index]  # type: ignore[assignment]
        if math.isfinite(value):
            fact.value = value
        if names[index] in ages:
            fact.age.CopyFrom(ages[names[index]])


def _unpack_views(record: record_pb.DecisionRecord, names: list[str]) -> None:
    packed = record.packed_facts
    if not len(names) == len(packed.view_statuses) == len(packed.view_event_times_us):
        raise RecordError("the packed rows do not fit their catalogue")
    for name, status, event_time_us in zip(names, packed.view_statuses, packed.view_event_times_us, strict=True):
        view = record.views.add(view=name)
        view.status = status  # type: ignore[assignment]
        if event_time_us:
            view.event_time.seconds, micros = divmod(event_time_us, 1_000_000)
            view.event_time.nanos = micros * 1000


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
