"""Looks decisions up for `GetDecision`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from assay.decision.v1 import decision_service_pb2 as pb
from engine.errors import FieldViolation, Refusal, RequestError, StoreError
from engine.plan import BundlePlan
from engine.record.entries import StoredDecision
from engine.record.keys import request_key
from engine.record.read import parse_record, unpack


class Decisions(Protocol):
    """What finds decisions: the journal, or journal and Cassandra."""

    def get_by_decision_id(self, decision_id: str) -> StoredDecision | None:
        """A decision by its id."""

    def get_by_request_key(self, request_key: bytes) -> StoredDecision | None:
        """The decision of a request."""

    def get_catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""


class RecordReader:
    """Reads stored decisions. plan: gives the bundle in service, for the names of model inputs, or None; was_given:
    whether a recorded decision stands: of two hosts that decided one request at once, one's was given to nobody."""

    def __init__(
        self,
        decisions: Decisions,
        plan: Callable[[], BundlePlan | None],
        was_given: Callable[[str], bool] = lambda decision_id: True,
    ) -> None:
        self._decisions, self._plan, self._was_given = decisions, plan, was_given

    def get(self, request: pb.GetDecisionRequest, tenant: str = "") -> pb.GetDecisionResponse:
        """The decision asked for; another tenant's is not there. Raises RequestError without an id, Refusal when there
        is no such decision, or when it cannot be known."""
        kind = request.WhichOneof("id")
        value = getattr(request, kind) if kind else ""
        if not value:
            raise RequestError([FieldViolation(kind or "decision_id", "is required: a decision id or a request id")])
        if request.view not in pb.DecisionView.values():
            raise RequestError([FieldViolation("view", "is not a view; use BASIC or FULL")])
        try:
            stored = self._find(kind or "", value, tenant)
        except StoreError as error:
            raise Refusal(
                "STORE_UNAVAILABLE", "It is not in the journal, and where shipped decisions are kept does not answer."
            ) from error
        missing = Refusal("DECISION_NOT_FOUND", "No decision is stored under this id.", {kind or "": value[:128]})
        if stored is None or not self._was_given(stored.decision_id):
            raise missing
        record = parse_record(stored.record)
        if record.tenant != tenant:
            raise missing
        record.decision.replayed = True
        response = pb.GetDecisionResponse(decision=record.decision, erased=stored.erased)
        if request.view == pb.DECISION_VIEW_FULL:
            if not (stored.erased or stored.locked):
                plan = self._plan()
                flows = plan.flows.values() if plan is not None else ()
                inputs = {m.model.digest: m.model.inputs for flow in flows for m in flow.models}
                unpack(record, self._decisions.get_catalogue(record.packed_facts.catalogue_digest), inputs)
            response.record.CopyFrom(record)
        return response

    def _find(self, kind: str, value: str, tenant: str) -> StoredDecision | None:
        if kind == "decision_id":
            return self._decisions.get_by_decision_id(value)
        return self._decisions.get_by_request_key(request_key(tenant, value))
