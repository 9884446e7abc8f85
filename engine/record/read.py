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


def unpack_facts(record: record_pb.DecisionRecord, catalogue_json: bytes | None) -> None:
    """Writes the packed facts out by name into `record.facts`. Without the catalogue the slots go by number."""
    packed = record.packed_facts
    count = len(packed.statuses)
    if len(packed.values) != 8 * count or len(packed.origins) != count:
        raise RecordError("the packed facts are of unequal lengths")
    names = [f"slot {i}" for i in range(count)]
    if catalogue_json is not None:
        listing = json.loads(catalogue_json)
        if len(listing) != count:
            raise RecordError("the packed facts do not fit their catalogue")
        names = [entry["name"] for entry in listing]
    ages = {s.feature: s.age for s in record.decision.substitutions if s.HasField("age")}
    for index, value in enumerate(struct.unpack(f"<{count}d", packed.values)):
        fact = record.facts.add(
            feature=names[index],
            status=packed.statuses[index],
            origin=packed.origins[index],
        )
        if math.isfinite(value):
            fact.value = value
        if names[index] in ages:
            fact.age.CopyFrom(ages[names[index]])


def name_inputs(record: record_pb.DecisionRecord, inputs: Mapping[str, tuple[str, ...]]) -> None:
    """Writes the names of model inputs into the runs, for models (by file digest) that are still known."""
    for run in record.runs:
        names = inputs.get(run.digest)
        if names is not None and len(names) == len(run.contributions):
            run.inputs.extend(names)
