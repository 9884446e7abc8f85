"""Finds the decision that an outcome is about."""

from __future__ import annotations

import logging

from engine.errors import Refusal, StoreError
from engine.outcomes.check import KnownDecision
from engine.outcomes.ports import Decisions
from engine.record.keys import request_key
from engine.record.read import parse_record

_log = logging.getLogger("assay.outcomes")


def find_decision(decisions: Decisions, decision_id: str, request_id: str, tenant: str) -> KnownDecision | None:
    """A decision by either id; None when it is not known, and when it is another lender's. Raises RecordError, Refusal
    when it cannot be told now."""
    try:
        if decision_id:
            stored = decisions.get_by_decision_id(decision_id)
        else:
            stored = decisions.get_by_request_key(request_key(tenant, request_id))
    except StoreError as error:
        _log.error("decisions cannot be looked up", extra={"error": str(error)})
        text = (
            "The decision is not in the journal any more, and where it was shipped to does not answer; send it again."
        )
        raise Refusal("STORE_UNAVAILABLE", text, {"store": "cassandra"}) from error
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
