"""Finds the decision that an outcome is about."""

from __future__ import annotations

from engine.outcomes.check import KnownDecision
from engine.outcomes.ports import Decisions
from engine.record.keys import request_key
from engine.record.read import parse_record


def find_decision(decisions: Decisions, decision_id: str, request_id: str, tenant: str) -> KnownDecision | None:
    """A decision by either id; None when it is not known, and when it is another lender's. Raises RecordError."""
    if decision_id:
        stored = decisions.get_by_decision_id(decision_id)
    else:
        stored = decisions.get_by_request_key(request_key(tenant, request_id))
    if stored is None:
        return None
    record = parse_record(stored.record)
    if record.tenant != tenant:
        return None
    decision, application = record.decision, record.application
    return KnownDecision(
        stored.decision_id,
        decision.request_id,
        decision.decided_at.ToMicroseconds(),
        "" if stored.erased else application.subject.id,
        application.amount.currency_code,
    )
