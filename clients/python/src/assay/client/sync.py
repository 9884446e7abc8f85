"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from assay.client import batch, calls
from assay.client.batch import Outcome
from assay.client.calls import How
from assay.client.course import Course
from assay.client.errors import AssayError
from assay.client.sync_caller import Caller
from assay.client.sync_stream import Stream
from assay.decision.v1 import decision_pb2, decision_service_pb2
from assay.feature.v1 import feature_pb2, feature_service_pb2
from assay.outcome.v1 import outcome_pb2, outcome_service_pb2

if TYPE_CHECKING:
    # For type checkers alone, and by this name also in Python 3.10.
    import typing_extensions as typed


class Client(Caller):
    """Calls Assay on one or more hosts. Threads share one client; make one for a process, and keep it.

        with Client("a:50051,b:50051") as client:
            decision = client.decide(application, request_id="los-2026-000417")

    hosts: addresses, as a list or parted by commas. Every method raises `errors.AssayError` for a call that failed.
    """

    # --- decisions ------------------------------------------------------------------------------------------------

    def decide(
        self,
        application: decision_pb2.Application | decision_service_pb2.DecideRequest,
        *,
        request_id: str = "",
        language: str = "",
        **how: typed.Unpack[How],
    ) -> decision_pb2.Decision:
        """Decides an application. request_id: your own id of it, the same for every repeat. Without one the client
        makes one; an error has it in `request_id`."""
        request = calls.decide_request(application, request_id, language)
        answer: decision_service_pb2.DecideResponse = self.call(calls.DECIDE, request, request.request_id, **how)
        return answer.decision

    def decide_many(
        self, requests: Iterable[decision_service_pb2.DecideRequest], **how: typed.Unpack[How]
    ) -> Iterator[Outcome]:
        """Decides any number of applications in batches, lazily. One outcome a request, in order. timeout_s: of each
        piece, with its repeats."""
        for piece in batch.pieces(requests, self._shared.items_max, self.options.bytes_max):
            yield from self._piece(piece, how)

    def _piece(self, requests: list[decision_service_pb2.DecideRequest], how: How) -> list[Outcome]:
        piece, timeout_s = batch.Piece(requests), how.get("timeout_s", self.options.batch_timeout_s)
        course, metadata = Course(self._shared, "", timeout_s, timeout_s / 2), calls.headers(self.options, how)
        try:
            while True:
                host, answer = self._follow(course, calls.DECIDE_BATCH, piece.request(), metadata)
                error = piece.answer(answer, host.address)
                wait_s = None if error is None else course.later(error)
                if wait_s is None:
                    break
                time.sleep(wait_s)
        except AssayError as error:
            fits = batch.smaller(error, len(requests))
            if fits:
                self._shared.items_max = fits
                smaller = batch.pieces(requests, fits, self.options.bytes_max)
                return [outcome for part in smaller for outcome in self._piece(part, how)]
            piece.fail(error)
        return piece.outcomes()

    def decide_stream(
        self, requests: Iterable[decision_service_pb2.DecideRequest], *, window: int = 64, **how: typed.Unpack[How]
    ) -> Iterator[Outcome]:
        """Decides a stream of applications: at most `window` are under way, outcomes come in the order of the requests,
        and a stream that breaks goes on elsewhere. `requests` is read on a thread of gRPC's, as far ahead as the
        window. Raises `errors.AssayError` from the iterator when no host takes the stream. timeout_s: of one stream."""
        return iter(Stream(self._shared, iter(requests), window, how))

    def get_decision(
        self, *, decision_id: str = "", request_id: str = "", full: bool = False, **how: typed.Unpack[How]
    ) -> decision_service_pb2.GetDecisionResponse:
        """A decision made earlier, by either id. full: with its record, which is personal data."""
        answer: decision_service_pb2.GetDecisionResponse = self.call(
            calls.GET_DECISION, calls.get_decision(decision_id, request_id, full), request_id, **how
        )
        return answer

    def list_flows(self, **how: typed.Unpack[How]) -> decision_service_pb2.ListFlowsResponse:
        """What is decided here, and what each flow takes."""
        answer: decision_service_pb2.ListFlowsResponse = self.call(
            calls.LIST_FLOWS, decision_service_pb2.ListFlowsRequest(), **how
        )
        return answer

    # --- features and outcomes ------------------------------------------------------------------------------------

    def put_features(
        self, rows: Iterable[feature_pb2.FeatureRow], **how: typed.Unpack[How]
    ) -> feature_service_pb2.PutFeaturesResponse:
        """Writes up to 1,000 rows. Look at `rejected`: a row at fault is no error of the call."""
        answer: feature_service_pb2.PutFeaturesResponse = self.call(calls.PUT_FEATURES, calls.put_features(rows), **how)
        return answer

    def get_features(
        self, request: feature_service_pb2.GetFeaturesRequest, **how: typed.Unpack[How]
    ) -> feature_service_pb2.GetFeaturesResponse:
        """What the store holds of one entity."""
        answer: feature_service_pb2.GetFeaturesResponse = self.call(calls.GET_FEATURES, request, **how)
        return answer

    def delete_subject(
        self, entity_id: str, *, entity: str = "", **how: typed.Unpack[How]
    ) -> feature_service_pb2.DeleteSubjectResponse:
        """Erases a person or company. entity: absent, the subject of applications."""
        request = feature_service_pb2.DeleteSubjectRequest(entity_id=entity_id, entity=entity)
        answer: feature_service_pb2.DeleteSubjectResponse = self.call(calls.DELETE_SUBJECT, request, **how)
        return answer

    def record_outcome(
        self, outcome: outcome_pb2.Outcome, *, allow_unknown: bool = False, **how: typed.Unpack[How]
    ) -> outcome_service_pb2.RecordOutcomeResponse:
        """Records what later happened. `outcome.outcome_id` makes it safe to repeat."""
        request = outcome_service_pb2.RecordOutcomeRequest(outcome=outcome, allow_unknown=allow_unknown)
        answer: outcome_service_pb2.RecordOutcomeResponse = self.call(calls.RECORD_OUTCOME, request, **how)
        return answer

    def list_outcomes(self, decision_id: str, **how: typed.Unpack[How]) -> outcome_service_pb2.ListOutcomesResponse:
        """What is known of a decision: its first thousand outcomes."""
        answer: outcome_service_pb2.ListOutcomesResponse = self.call(
            calls.LIST_OUTCOMES, calls.outcomes_of(decision_id), **how
        )
        return answer
