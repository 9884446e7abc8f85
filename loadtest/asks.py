"""What is asked: one function for everything that the load does, used by users and by arrivals alike.

Each makes one call from what its process knows. What needs something that is not there yet (a decision to look up, an
outcome to read) makes the call that brings it instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from google.type.money_pb2 import Money

from assay.decision.v1 import decision_service_pb2 as decision
from assay.feature.v1 import feature_pb2
from assay.feature.v1 import feature_service_pb2 as feature
from assay.outcome.v1 import outcome_pb2
from assay.outcome.v1 import outcome_service_pb2 as outcome
from loadtest.asks_admin import ADMIN_ASKS
from loadtest.world import Ask, World

BATCH_ITEMS = 32
STREAM_ITEMS = 16
EVENTS = 20
OUTCOMES = 20
_SOURCE = "loadtest"
Request = decision.DecideRequest


def _decide(world: World, request: Request) -> Ask:
    def learn(answer: decision.DecideResponse) -> None:
        world.remember(request, answer.decision)

    return Ask("Decide", [request], 1, learn)


def decide_consumer(world: World) -> Ask:
    """A consumer's application."""
    return _decide(world, world.consumer())


def decide_company(world: World) -> Ask:
    """A company's application."""
    return _decide(world, world.company())


def decide_any(world: World) -> Ask:
    """An application of any product."""
    return _decide(world, world.anybody())


def decide_attack(world: World) -> Ask:
    """An application of an attack, which shares its device, phone, address and network with others."""
    return _decide(world, world.attacker())


def decide_again(world: World) -> Ask:
    """The same request once more, as after a time-out: the stored decision comes back."""
    if not world.decided:
        return decide_any(world)
    request, _ = world.chance.choice(world.decided)
    return Ask("Decide", [request], 1)


def decide_chinese(world: World) -> Ask:
    """An application whose texts are wanted in Chinese."""
    request = world.anybody()
    request.language = "zh"
    return _decide(world, request)


def _batch(world: World, requests: list[Request]) -> Ask:
    def learn(answer: decision.DecideBatchResponse) -> None:
        for request, item in zip(requests, answer.items, strict=False):
            if item.HasField("decision"):
                world.remember(request, item.decision)

    return Ask("DecideBatch", [decision.DecideBatchRequest(requests=requests)], len(requests), learn)


def batch(world: World) -> Ask:
    """A partner's batch of applications of all products."""
    return _batch(world, [world.anybody() for _ in range(BATCH_ITEMS)])


def batch_largest(world: World) -> Ask:
    """The largest batch that the server takes."""
    return _batch(world, [world.anybody() for _ in range(256)])


def stream(world: World) -> Ask:
    """A stream of applications, answered as they are decided."""
    requests = {request.request_id: request for request in (world.anybody() for _ in range(STREAM_ITEMS))}

    def learn(answer: decision.DecideStreamResponse) -> None:
        if answer.HasField("decision"):
            world.remember(requests[answer.request_id], answer.decision)

    messages: list[Any] = [decision.DecideStreamRequest(request=one) for one in requests.values()]
    return Ask("DecideStream", messages, len(messages), learn)


def get_decision(world: World) -> Ask:
    """A decision made lately, by its own id or by the request's."""
    if not world.decided:
        return decide_any(world)
    request, decision_id = world.chance.choice(world.decided)
    if world.chance.random() < 0.5:
        return Ask("GetDecision", [decision.GetDecisionRequest(decision_id=decision_id)])
    return Ask("GetDecision", [decision.GetDecisionRequest(request_id=request.request_id)])


def get_decision_full(world: World) -> Ask:
    """A decision made lately with its whole record."""
    if not world.decided:
        return decide_any(world)
    _, decision_id = world.chance.choice(world.decided)
    wanted = decision.GetDecisionRequest(decision_id=decision_id, view=decision.DECISION_VIEW_FULL)
    return Ask("GetDecision", [wanted])


def list_flows(world: World) -> Ask:
    """What is served."""

    def learn(answer: decision.ListFlowsResponse) -> None:
        world.digest = answer.bundle.digest

    return Ask("ListFlows", [decision.ListFlowsRequest()], 0, learn)


def put_features(world: World) -> Ask:
    """New rows of people who are known, as a bureau's nightly extract brings them, and one of somebody who is erased
    later."""
    rows = []
    for _ in range(10):
        subject = world.chance.choice(world.population.consumers).subject.id
        row = feature_pb2.FeatureRow(view="applicant_profile", entity_id=subject)
        row.event_time.FromNanoseconds(time.time_ns())
        row.values["identity_match_score"].number = round(world.chance.uniform(70.0, 99.0), 1)
        row.values["bureau_file_age_months"].number = round(world.chance.uniform(10.0, 300.0), 1)
        rows.append(row)
    erasable = world.new_id("erase")
    rows[-1].entity_id = erasable

    def learn(_: object) -> None:
        world.erasable.append(erasable)

    return Ask("PutFeatures", [feature.PutFeaturesRequest(rows=rows)], 0, learn)


def ingest_events(world: World) -> Ask:
    """A stream of applications that were decided elsewhere, to be counted."""
    messages: list[Any] = []
    for at in range(4):
        events = []
        for number in range(EVENTS // 4):
            source = world.chance.choice(world.population.consumers)
            event = feature_pb2.Event(position=at * EVENTS + number + 1, event_id=world.new_id("e"))
            event.event_time.FromNanoseconds(time.time_ns())
            event.entities.add(entity="applicant", id=source.subject.id)
            event.entities.extend(source.entities)
            event.amounts["amount"].money.CopyFrom(source.amount)
            events.append(event)
        messages.append(feature.IngestEventsRequest(events=events))
    return Ask("IngestEvents", messages)


def get_features(world: World) -> Ask:
    """What is known of an applicant or of a device."""
    application = world.chance.choice(world.population.consumers)
    device = next((one.id for one in application.entities if one.entity == "device"), "")
    if device and world.chance.random() < 0.5:
        return Ask("GetFeatures", [feature.GetFeaturesRequest(entity="device", entity_id=device)])
    return Ask("GetFeatures", [feature.GetFeaturesRequest(entity="applicant", entity_id=application.subject.id)])


def delete_subject(world: World) -> Ask:
    """Somebody who was written to be erased is."""
    if not world.erasable:
        return put_features(world)
    entity_id = world.erasable.popleft()
    return Ask("DeleteSubject", [feature.DeleteSubjectRequest(entity="applicant", entity_id=entity_id)])


def _outcome(world: World, decision_id: str) -> outcome_pb2.Outcome:
    made = outcome_pb2.Outcome(outcome_id=world.new_id("o"), decision_id=decision_id, source=_SOURCE)
    made.observed_at.FromNanoseconds(time.time_ns())
    draw = world.chance.random()
    if draw < 0.5:
        made.repayment_status.days_past_due = world.chance.choice((0, 0, 0, 15, 35, 95))
    elif draw < 0.8:
        made.take_up.result = outcome_pb2.TAKE_UP_RESULT_ACCEPTED
        made.take_up.amount.CopyFrom(Money(currency_code="USD", units=5_000))
    else:
        made.fraud_finding.result = outcome_pb2.FRAUD_RESULT_NOT_FRAUD
    return made


def record_outcome(world: World) -> Ask:
    """One outcome of a decision made lately."""
    if not world.decided:
        return decide_any(world)
    made = _outcome(world, world.chance.choice(world.decided)[1])

    def learn(_: object) -> None:
        world.outcomes.append(made.outcome_id)

    return Ask("RecordOutcome", [outcome.RecordOutcomeRequest(outcome=made)], 0, learn)


def record_outcomes(world: World) -> Ask:
    """A stream of outcomes, as loan servicing sends them once a day."""
    if not world.decided:
        return decide_any(world)
    sent = [
        outcome.SentOutcome(position=at + 1, outcome=_outcome(world, world.chance.choice(world.decided)[1]))
        for at in range(OUTCOMES)
    ]
    messages: list[Any] = [outcome.RecordOutcomesRequest(outcomes=sent[at : at + 5]) for at in range(0, OUTCOMES, 5)]
    return Ask("RecordOutcomes", messages)


def get_outcome(world: World) -> Ask:
    """An outcome recorded lately."""
    if not world.outcomes:
        return record_outcome(world)
    return Ask("GetOutcome", [outcome.GetOutcomeRequest(outcome_id=world.chance.choice(world.outcomes))])


def list_outcomes(world: World) -> Ask:
    """What is known of a decision made lately."""
    if not world.decided:
        return decide_any(world)
    return Ask("ListOutcomes", [outcome.ListOutcomesRequest(decision_id=world.chance.choice(world.decided)[1])])


_OWN: tuple[Callable[[World], Ask], ...] = (
    decide_consumer,
    decide_company,
    decide_any,
    decide_attack,
    decide_again,
    decide_chinese,
    batch,
    batch_largest,
    stream,
    get_decision,
    get_decision_full,
    list_flows,
    put_features,
    ingest_events,
    get_features,
    delete_subject,
    record_outcome,
    record_outcomes,
    get_outcome,
    list_outcomes,
)
# By the name that scenarios use.
ASKS: dict[str, Callable[[World], Ask]] = {make.__name__: make for make in (*_OWN, *ADMIN_ASKS)}
NEEDS_ADMIN: frozenset[str] = frozenset(make.__name__ for make in ADMIN_ASKS)
