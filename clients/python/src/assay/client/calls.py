"""What both clients share of a call: its method, its request, what its caller may say about it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

from assay.client import tracing
from assay.client.channels import Lane
from assay.client.options import Options
from assay.decision.v1 import decision_pb2, decision_service_pb2
from assay.feature.v1 import feature_pb2, feature_service_pb2
from assay.outcome.v1 import outcome_service_pb2


class Method(NamedTuple):
    """A method by the lane's name of its service, and its own name. Every one listed here is safe to repeat: the
    server knows a decision by its request id, an outcome by its outcome id, a row by its event time."""

    service: str
    name: str

    def on(self, lane: Lane) -> Any:
        """What calls it."""
        return getattr(getattr(lane, self.service), self.name)


DECIDE = Method("decision", "Decide")
DECIDE_BATCH = Method("decision", "DecideBatch")
DECIDE_STREAM = Method("decision", "DecideStream")
GET_DECISION = Method("decision", "GetDecision")
LIST_FLOWS = Method("decision", "ListFlows")
PUT_FEATURES = Method("feature", "PutFeatures")
GET_FEATURES = Method("feature", "GetFeatures")
DELETE_SUBJECT = Method("feature", "DeleteSubject")
RECORD_OUTCOME = Method("outcome", "RecordOutcome")
GET_OUTCOME = Method("outcome", "GetOutcome")
LIST_OUTCOMES = Method("outcome", "ListOutcomes")


class How(TypedDict, total=False):
    """What a caller may say of one call. timeout_s: instead of the options'. traceparent, tracestate: the W3C headers,
    instead of opentelemetry's current span. metadata: besides the options'."""

    timeout_s: float
    traceparent: str
    tracestate: str
    metadata: Sequence[tuple[str, str]]


def headers(options: Options, how: How) -> tuple[tuple[str, str], ...]:
    """The metadata of a call, the same for all its attempts."""
    trace = tracing.headers(how.get("traceparent", ""), how.get("tracestate", ""))
    return (*options.headers(), *how.get("metadata", ()), *trace)


def new_request_id() -> str:
    """A request id that nobody has used."""
    return f"req-{uuid.uuid4().hex}"


def decide_request(
    application: decision_pb2.Application | decision_service_pb2.DecideRequest, request_id: str, language: str
) -> decision_service_pb2.DecideRequest:
    """The request of a decision, with an id. A whole request is taken as it is, unless it lacks what is given here."""
    if isinstance(application, decision_pb2.Application):
        application = decision_service_pb2.DecideRequest(application=application)
    return with_id(application, request_id, language)


def with_id(
    request: decision_service_pb2.DecideRequest, request_id: str = "", language: str = ""
) -> decision_service_pb2.DecideRequest:
    """The request itself when it has an id and nothing is to be changed, else a copy."""
    if request.request_id and not request_id and not language:
        return request
    made = decision_service_pb2.DecideRequest()
    made.CopyFrom(request)
    made.request_id = request_id or request.request_id or new_request_id()
    made.language = language or request.language
    return made


def get_decision(decision_id: str, request_id: str, full: bool) -> decision_service_pb2.GetDecisionRequest:
    """Asks for a decision by either id. Raises ValueError unless one is given."""
    if bool(decision_id) == bool(request_id):
        raise ValueError("get_decision wants a decision_id or a request_id, and not both")
    view = decision_service_pb2.DECISION_VIEW_FULL if full else decision_service_pb2.DECISION_VIEW_BASIC
    if decision_id:
        return decision_service_pb2.GetDecisionRequest(decision_id=decision_id, view=view)
    return decision_service_pb2.GetDecisionRequest(request_id=request_id, view=view)


def put_features(rows: Iterable[feature_pb2.FeatureRow]) -> feature_service_pb2.PutFeaturesRequest:
    """Writes rows."""
    return feature_service_pb2.PutFeaturesRequest(rows=rows)


def outcomes_of(decision_id: str) -> outcome_service_pb2.ListOutcomesRequest:
    """Asks for the first thousand outcomes of a decision."""
    return outcome_service_pb2.ListOutcomesRequest(decision_id=decision_id)
