"""The first difference between a recorded decision and the same decided again, stage by stage, bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.plan import FlowPlan

STAGES = ("bundle", "features", "scores", "policy", "offer", "reasons")


class Found(NamedTuple):
    """One difference: the stage, the path of the value in it, and both values as text."""

    stage: str
    path: str
    recorded: str
    replayed: str


def first_difference(
    recorded: record_pb.DecisionRecord, replayed: record_pb.DecisionRecord, flow: FlowPlan
) -> Found | None:
    """The first difference in the order features, scores, policy, offer, reasons. None: there is none."""
    old, new = recorded.decision, replayed.decision
    found = _features(recorded.packed_facts, replayed.packed_facts, flow)
    if found is not None:
        return Found("features", *found)
    names = [f.feature for f in old.substitutions]
    for stage, path, pair, labels in (
        ("features", "substitutions", (old.substitutions, new.substitutions), names),
        ("scores", "", (recorded.runs, replayed.runs), [run.model for run in recorded.runs]),
        ("scores", "", (old.scores, new.scores), [score.model for score in old.scores]),
        ("policy", "rules", (recorded.rules, replayed.rules), [f"{rule.table}/{rule.rule}" for rule in recorded.rules]),
    ):
        differ = _lists(pair[0], pair[1], labels, flow)
        if differ is not None:
            return Found(stage, _join(path, differ[0]), *differ[1:])
    if old.verdict != new.verdict:
        return Found("policy", "verdict", verdict_name(old.verdict), verdict_name(new.verdict))
    if old.deciding_components != new.deciding_components:
        components = ([pb.Component.Name(c) for c in one.deciding_components] for one in (old, new))
        return Found("policy", "deciding_components", *(", ".join(one) or "none" for one in components))
    if old.HasField("offer") != new.HasField("offer"):
        given = ["an offer" if one.HasField("offer") else "none" for one in (old, new)]
        return Found("offer", "offer", *given)
    differ = _messages(old.offer, new.offer)
    if differ is not None:
        return Found("offer", *differ)
    return _reasons(recorded, replayed)


def verdict_name(verdict: int) -> str:
    """A verdict as people write it."""
    return pb.Verdict.Name(verdict).removeprefix("VERDICT_")  # type: ignore[arg-type]


def _reasons(recorded: record_pb.DecisionRecord, replayed: record_pb.DecisionRecord) -> Found | None:
    old, new = recorded.decision, replayed.decision
    for path in ("credit_reasons", "fraud_reasons", "policy_reasons"):
        before, after = getattr(old, path), getattr(new, path)
        differ = _lists(before, after, [str(place) for place in range(1, len(before) + 1)], None)
        if differ is not None:
            return Found("reasons", f"{path}.{differ[0]}" if differ[0] else path, *differ[1:])
    differ = _messages(recorded.packed_reasons, replayed.packed_reasons)
    return None if differ is None else Found("reasons", f"every.{differ[0]}", *differ[1:])


# --- facts --------------------------------------------------------------------------------------------------------


def _features(old: record_pb.PackedFacts, new: record_pb.PackedFacts, flow: FlowPlan) -> tuple[str, str, str] | None:
    """The first slot whose value, status or origin is another. What was read is carried, so it can only be derived
    features, and what the caller sent."""
    if old.values == new.values and old.statuses == new.statuses and old.origins == new.origins:
        return None
    names = [feature.name for feature in flow.features.features]
    pairs = zip(names, _slots(old), _slots(new), strict=False)
    for name, before, after in pairs:
        if not (_same(before[0], after[0]) and before[1:] == after[1:]):
            return name, _fact(before), _fact(after)
    if len(old.statuses) != len(new.statuses):
        return "features", f"{len(old.statuses)} of them", f"{len(new.statuses)} of them"
    return None


def _slots(packed: record_pb.PackedFacts) -> Iterator[tuple[float, int, int]]:
    values = struct.unpack(f"<{len(packed.values) // 8}d", packed.values)
    return zip(values, packed.statuses, packed.origins, strict=False)


def _fact(fact: tuple[float, int, int]) -> str:
    value, status, origin = fact
    names = [
        pb.FeatureStatus.Name(status).removeprefix("FEATURE_STATUS_"),  # type: ignore[arg-type]
        record_pb.ValueOrigin.Name(origin).removeprefix("VALUE_ORIGIN_"),  # type: ignore[arg-type]
    ]
    return f"{'missing' if value != value else repr(value)} ({', '.join(names)})"


def _same(a: float, b: float) -> bool:
    """Equal bits; any NaN is missing."""
    return (a != a and b != b) or (a == b and math.copysign(1.0, a) == math.copysign(1.0, b))


# --- messages -----------------------------------------------------------------------------------------------------


def _lists(
    old: Sequence[Any], new: Sequence[Any], names: Sequence[str], flow: FlowPlan | None
) -> tuple[str, str, str] | None:
    """The first difference between two lists of messages. names: what the elements of the first are called."""
    for name, before, after in zip(names, old, new, strict=False):
        differ = _messages(before, after, flow)
        if differ is not None:
            return _join(name, differ[0]), differ[1], differ[2]
    if len(old) != len(new):
        longer = old if len(old) > len(new) else new
        extra = _title(longer[min(len(old), len(new))])
        return "", *((extra, "absent") if longer is old else ("absent", extra))
    return None


def _messages(old: Message, new: Message, flow: FlowPlan | None = None) -> tuple[str, str, str] | None:
    """The first field that differs: its path and both values."""
    if old.SerializeToString(deterministic=True) == new.SerializeToString(deterministic=True):
        return None
    for field in old.DESCRIPTOR.fields:
        name = field.name
        before, after = getattr(old, name), getattr(new, name)
        if field.is_repeated:
            differ = _repeated(field, before, after, _input_names(old, flow) if name == "contributions" else ())
        elif field.has_presence and old.HasField(name) != new.HasField(name):
            differ = ("", _shown(before) if old.HasField(name) else "absent", "absent")
            if new.HasField(name):
                differ = ("", "absent", _shown(after))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            differ = _messages(before, after, flow)
        elif isinstance(before, float) and _same(before, after):
            differ = None
        else:
            differ = None if before == after else ("", _value(field, before), _value(field, after))
        if differ is not None:
            return _join(name, differ[0]), differ[1], differ[2]
    return None


def _repeated(field: Any, old: Sequence[Any], new: Sequence[Any], names: Sequence[str]) -> tuple[str, str, str] | None:
    for place, (before, after) in enumerate(zip(old, new, strict=False)):
        name = names[place] if place < len(names) else str(place + 1)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            differ = _messages(before, after)
            if differ is not None:
                return _join(name, differ[0]), differ[1], differ[2]
        elif not (_same(before, after) if isinstance(before, float) else before == after):
            return name, _value(field, before), _value(field, after)
    if len(old) != len(new):
        return "", f"{len(old)} of them", f"{len(new)} of them"
    return None


def _input_names(message: Message, flow: FlowPlan | None) -> Sequence[str]:
    """The inputs of the model of a run, which its contributions belong to."""
    if flow is None or not isinstance(message, record_pb.ModelRun):
        return ()
    return next((m.model.inputs for m in flow.models if m.model.id == message.model), ())


def _value(field: Any, value: Any) -> str:
    if field.type == FieldDescriptor.TYPE_ENUM:
        found = field.enum_type.values_by_number.get(value)
        return found.name if found is not None else str(value)
    return _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, Message):
        return _title(value)
    return value if isinstance(value, str) else repr(value)


def _title(message: Any) -> str:
    """A message in a few words: the first text it holds, and its values."""
    parts = [f"{field.name} {_value(field, value)}" for field, value in message.ListFields() if not field.is_repeated]
    return "; ".join(parts[:6])[:300]


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
