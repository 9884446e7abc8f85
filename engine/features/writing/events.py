"""What an event must say to be counted. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.features.velocity.definition import AMOUNT_SCALE, MAX_AMOUNT, Event
from engine.features.writing.checks import event_time_fault, id_fault
from engine.features.writing.feature_rule import Money
from engine.features.writing.outcome import Fault, RejectReason


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event as it was sent. event_time_us: microseconds since 1970 UTC, None without; entities: (entity, id), in
    the order sent; amounts: by name, numbers or Money; faults: what was wrong with it before anybody looked at what it
    says."""

    position: int
    event_id: str
    event_time_us: int | None
    entities: Sequence[tuple[str, str]]
    amounts: Mapping[str, object]
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRules:
    """What events may say. entities: all that are declared; amounts: those that a counter sums, each with the units of
    these sums."""

    entities: frozenset[str]
    amounts: Mapping[str, frozenset[str]]

    def clean(self, sent: SentEvent, now_us: int) -> tuple[Event | None, list[Fault]]:
        """The event to count, or all that is wrong with it. now_us: the moment, microseconds since 1970 UTC."""
        faults = list(sent.faults)
        found = [id_fault("event_id", sent.event_id), event_time_fault(sent.event_time_us, now_us)]
        faults += [f for f in found if f is not None and all(f.field != known.field for known in faults)]
        entities: dict[str, str] = {}
        for index, (entity, entity_id) in enumerate(sent.entities):
            where = f"entities[{index}]"
            if entity not in self.entities:
                message = "is no entity of the bundle in service" if entity else "is required"
                faults.append(Fault(f"{where}.entity", RejectReason.UNKNOWN_ENTITY, message))
            elif entity in entities:
                faults.append(Fault(f"{where}.entity", RejectReason.NAMED_TWICE, "this entity is named before"))
            if (fault := id_fault(f"{where}.id", entity_id)) is not None:
                faults.append(fault)
            entities[entity] = entity_id
        if not sent.entities:
            faults.append(Fault("entities", RejectReason.UNKNOWN_ENTITY, "one at least must be named"))
        amounts = {}
        for name, value in sent.amounts.items():
            amount = self._amount(name, value)
            if isinstance(amount, Fault):
                faults.append(amount)
            else:
                amounts[name] = amount
        if faults or sent.event_time_us is None:
            return None, faults
        return Event(sent.event_id, sent.event_time_us, entities, amounts), []

    def _amount(self, name: str, value: object) -> int | Fault:
        field = f'amounts["{name if len(name) <= 64 else name[:61] + "..."}"]'
        units = self.amounts.get(name)
        if units is None:
            return Fault(field, RejectReason.UNKNOWN_AMOUNT, "is summed by no counter of the bundle in service")
        if isinstance(value, Money):
            if any(unit != value.currency for unit in units):
                message = f"the counters sum {' and '.join(sorted(units)) or 'numbers without a currency'}"
                return Fault(field, RejectReason.UNKNOWN_UNIT, message)
            value = value.amount
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Fault(field, RejectReason.WRONG_TYPE, "must be money or a number")
        if not math.isfinite(value):
            return Fault(field, RejectReason.NOT_FINITE, "must be a finite number, not NaN or infinity")
        if not -MAX_AMOUNT <= value * AMOUNT_SCALE <= MAX_AMOUNT:
            return Fault(field, RejectReason.OUT_OF_RANGE, f"must be {MAX_AMOUNT // AMOUNT_SCALE:,} at most")
        return round(value * AMOUNT_SCALE)
