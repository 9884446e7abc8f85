"""Looks decisions up for `GetDecision`."""

from __future__ import annotations

from collections.abc import Callable

from assay.decision.v1 import decision_service_pb2 as pb
from engine.errors import FieldViolation, Refusal, RequestError
from engine.plan import BundlePlan
from engine.record.keys import request_key
from engine.record.log import DecisionLog
from engine.record.read import parse_record, unpack


class RecordReader:
    """Reads stored decisions. plan: gives the bundle in service, for the names of model inputs, or None."""

    def __init__(self, log: DecisionLog, plan: Callable[[], BundlePlan | None]) -> None:
        self._log, self._plan = log, plan

    def get(self, request: pb.GetDecisionRequest) -> pb.GetDecisionResponse:
        """The decision asked for. Raises RequestError without an id, Refusal when there is no such decision."""
        kind = request.WhichOneof("id")
        value = getattr(request, kind) if kind else ""
        if not value:
            raise RequestError([FieldViolation(kind or "decision_id", "is required: a decision id or a request id")])
        if request.view not in pb.DecisionView.values():
            raise RequestError([FieldViolation("view", "is not a view; use BASIC or FULL")])
        if kind == "decision_id":
            stored = self._log.get_by_decision_id(value)
        else:
            stored = self._log.get_by_request_key(request_key("", value))
        if stored is None:
            raise Refusal("DECISION_NOT_FOUND", "No decision is stored under this id.", {kind or "": value[:128]})
        record = parse_record(stored.record)
        record.decision.replayed = True
        response = pb.GetDecisionResponse(decision=record.decision)
        if request.view == pb.DECISION_VIEW_FULL:
            plan = self._plan()
            flows = plan.flows.values() if plan is not None else ()
            inputs = {m.model.digest: m.model.inputs for flow in flows for m in flow.models}
            unpack(record, self._log.get_catalogue(record.packed_facts.catalogue_digest), inputs)
            response.record.CopyFrom(record)
        return response
