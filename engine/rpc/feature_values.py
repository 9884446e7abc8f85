"""Between the messages of `assay.feature.v1` and what the engine speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from assay.decision.v1 import decision_pb2
from assay.feature.v1 import feature_pb2 as pb
from engine.domain.enums import FeatureStatus
from engine.features.row_schema import Kind
from engine.features.show import Named, ShownFeature, ShownView
from engine.features.writing.events import SentEvent
from engine.features.writing.feature_rule import Money
from engine.features.writing.outcome import Fault, Rejected, RejectReason, value_path
from engine.features.writing.plan import SentRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799
_NANOS = 1_000_000_000
_is_currency = re.compile(r"[A-Z]{3}").fullmatch


def sent_row(row: pb.FeatureRow) -> SentRow:
    """One row as the rules of writing take it."""
    faults: list[Fault] = []
    values = _values(row.values, "values", faults)
    time_us = _event_time_us(row, faults)
    return SentRow(row.view, row.entity_id, time_us, values, dict(row.units), tuple(faults))


def sent_event(event: pb.Event, position: int) -> SentEvent:
    """One event as the rules take it. position: its own, or what stands for it."""
    faults: list[Fault] = []
    amounts = _values(event.amounts, "amounts", faults)
    time_us = _event_time_us(event, faults)
    entities = [(one.entity, one.id) for one in event.entities]
    return SentEvent(position, event.event_id, time_us, entities, amounts, tuple(faults))


def fault_messages(faults: Sequence[Fault]) -> list[pb.Fault]:
    """Faults as messages."""
    return [
        pb.Fault(field=fault.field, reason=int(fault.reason), message=fault.message)  # type: ignore[arg-type]
        for fault in faults
    ]


def view_message(view: ShownView, now_us: int) -> pb.ViewReading:
    """One view as a message."""
    message = pb.ViewReading(
        view=view.view,
        key=view.key,
        status=_status(view.status),
        schema_fingerprint=view.fingerprint.hex(),
        other_schema=view.stored is not None,
        counters=view.counters,
        note=view.note,
    )
    if view.event_time_us is not None and _SECONDS_MIN <= view.event_time_us // 1_000_000 <= _SECONDS_MAX:
        message.event_time.FromMicroseconds(view.event_time_us)
        message.age.FromMicroseconds(now_us - view.event_time_us)
    for feature in view.features:
        _put_feature(message.features.add(), feature)
    if view.stored is not None and view.stored_schema is not None:
        for field in view.stored_schema.fields:
            stored = message.stored.add(name=field.name, unit=field.unit)
            value = view.stored[field.name]
            if value is not None:
                _put_value(stored.value, value, is_moment=field.kind is Kind.TIMESTAMP)
    return message


def _put_feature(target: pb.FeatureReading, feature: ShownFeature) -> None:
    target.name, target.unit, target.status = feature.name, feature.unit, _status(feature.status)
    if feature.max_age_us is not None:
        target.max_age.FromMicroseconds(feature.max_age_us)
    if feature.value is not None:
        _put_value(target.value, feature.value, is_moment=feature.kind == "timestamp")


def _put_value(target: decision_pb2.Value, value: Named, *, is_moment: bool) -> None:
    if is_moment and isinstance(value, int | float):
        target.time.FromMicroseconds(round(value * 1e6))
    elif isinstance(value, bool):
        target.flag = value
    elif isinstance(value, int):
        target.integer = value
    elif isinstance(value, float):
        target.number = value
    elif value is not None:
        target.text = value


def _status(status: FeatureStatus) -> decision_pb2.FeatureStatus.ValueType:
    return int(status)  # type: ignore[return-value]


def _event_time_us(message: pb.FeatureRow | pb.Event, faults: list[Fault]) -> int | None:
    """Microseconds since 1970 UTC; None where there is no event time, or, with the fault noted, no good one."""
    if not message.HasField("event_time"):
        return None
    moment = message.event_time
    if not _is_moment(moment):
        text = "is no moment of the years 1 to 9999"
        faults.append(Fault("event_time", RejectReason.EVENT_TIME_INVALID, text))
        return None
    return moment.seconds * 1_000_000 + moment.nanos // 1000


def _is_moment(moment: Timestamp) -> bool:
    return _SECONDS_MIN <= moment.seconds <= _SECONDS_MAX and 0 <= moment.nanos < _NANOS


def _values(values: Mapping[str, decision_pb2.Value], where: str, faults: list[Fault]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        try:
            found[name] = _value(value)
        except Rejected as cause:
            faults.append(cause.at(value_path(name).replace("values", where, 1)))
    return found


def _value(value: decision_pb2.Value) -> object:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise Rejected(RejectReason.NO_VALUE, "has no value set; leave the name out to say that there is none")
    if kind == "time":
        if not _is_moment(value.time):
            raise Rejected(RejectReason.WRONG_TYPE, "is no moment of the years 1 to 9999")
        return _EPOCH + timedelta(seconds=value.time.seconds, microseconds=value.time.nanos // 1000)
    if kind == "money":
        money = value.money
        if _is_currency(money.currency_code) is None:
            raise Rejected(RejectReason.UNKNOWN_UNIT, "names no currency as ISO 4217 has it")
        if not -_NANOS < money.nanos < _NANOS or (money.units > 0 > money.nanos) or (money.units < 0 < money.nanos):
            raise Rejected(RejectReason.WRONG_TYPE, "is no amount of money: units and nanos do not go together")
        return Money(money.units + money.nanos / _NANOS, money.currency_code)
    found: object = getattr(value, kind)
    return found
