"""An application as an event of the counters, while it is decided and when it is read back from the journal."""

from __future__ import annotations

from engine.domain.application import ValidApplication
from engine.features.velocity.definition import AMOUNT_SCALE, MAX_AMOUNT, Event
from engine.plan import FlowPlan


def event_of(flow: FlowPlan, application: ValidApplication, now_us: int) -> Event:
    """The event that an application is: once for its request id, at the moment that it was submitted or, where that is
    not stated, decided. Amounts are whole ten-thousandths; one beyond what can be summed counts as the most."""
    plan = flow.features
    subject_id = application.entity_ids[0]
    entities = {} if subject_id is None else dict.fromkeys(plan.subjects, subject_id)
    for entity, entity_id in zip(plan.entities, application.entity_ids[1:], strict=True):
        if entity_id is not None:
            entities[entity] = entity_id
    amounts: dict[str, int] = {}
    for name, place in plan.event_amounts:
        if place is None:
            amounts[name] = min(application.amount_minor * AMOUNT_SCALE // flow.minor_per_major, MAX_AMOUNT)
        elif (value := application.request[place]) == value:
            amounts[name] = max(-MAX_AMOUNT, min(round(value * AMOUNT_SCALE), MAX_AMOUNT))
    submitted_us = application.submitted_at_us
    return Event(application.request_id, now_us if submitted_us is None else submitted_us, entities, amounts)
