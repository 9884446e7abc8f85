"""The servicer of features: parse, ask the desk once, answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from assay.feature.v1 import feature_pb2
from assay.feature.v1 import feature_service_pb2 as pb
from engine.errors import FieldViolation, Refusal, RequestError
from engine.feature_desk import FeatureDesk
from engine.features.velocity.state import Outcome
from engine.features.writing.events import SentEvent
from engine.rpc.calls import parse
from engine.rpc.feature_values import fault_messages, sent_event, sent_row, view_message
from engine.rpc.intake import Intake
from engine.rpc.observe import Observer, Scope, StreamScope
from engine.rpc.status import status_of
from engine.rpc.streams import Streams
from engine.telemetry.tracing import shapes

FEATURE_SERVICE = "assay.feature.v1.FeatureService"
PUT_ROWS_MAX = 1_000
EVENTS_MAX = 1_000
# Events settled with one call of the store, and the most that may be unsettled.
_BATCH_MAX = 256
UNACKNOWLEDGED_MAX = 1_000


class FeatureServicer:
    """Serves `assay.feature.v1.FeatureService`.

    streams: shared with the service of decisions, so that all streams together leave threads for single calls.
    observer: watches every call; check_open: raises Refusal once the server takes no new calls.
    """

    def __init__(
        self,
        desk: FeatureDesk,
        streams: Streams,
        observer: Observer | None = None,
        check_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._desk, self._streams = desk, streams
        self.observer, self._check_open = observer or Observer(), check_open

    def put_features(self, content: bytes, scope: Scope) -> bytes:
        """PutFeatures."""
        self._check_open()
        rows = parse(pb.PutFeaturesRequest, content).rows
        _check_count("rows", len(rows), PUT_ROWS_MAX)
        scope.items, scope.values = len(rows), (len(rows),)
        outcome = self._desk.put([sent_row(row) for row in rows])
        answer = pb.PutFeaturesResponse(written=outcome.written, ignored_older=outcome.ignored_older)
        for index, faults in outcome.rejected.items():
            answer.rejected.add(index=index, faults=fault_messages(faults))
        for (view, feature, rule), count in sorted(outcome.repairs.items()):
            answer.repairs.add(view=view, feature=feature, rule=int(rule), count=count)
        return answer.SerializeToString()

    def get_features(self, content: bytes, scope: Scope) -> bytes:
        """GetFeatures."""
        self._check_open()
        request = parse(pb.GetFeaturesRequest, content)
        reading = self._desk.read(request.entity, request.entity_id, request.views, request.flow, scope.deadline_s)
        answer = pb.GetFeaturesResponse(views=[view_message(view, reading.now_us) for view in reading.views])
        answer.now.FromMicroseconds(reading.now_us)
        return answer.SerializeToString()

    def delete_subject(self, content: bytes, scope: Scope) -> bytes:
        """DeleteSubject."""
        self._check_open()
        request = parse(pb.DeleteSubjectRequest, content)
        return pb.DeleteSubjectResponse(
            rows_removed=self._desk.erase(request.entity, request.entity_id)
        ).SerializeToString()

    def ingest_events(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """IngestEvents. Whatever has come is counted at once; an acknowledgement follows each time."""
        scope = self.observer.stream("IngestEvents", shapes.FEATURE_RPC["IngestEvents"], context)
        try:
            self._check_open()
            scope.check_tenant()
            self._desk.check_counting()
            stream = self._streams.enter(context)
        except Exception as error:
            scope.fail(error)
        intake = Intake(contents, _Positions().of, UNACKNOWLEDGED_MAX)
        acknowledged = 0
        try:
            while (events := self._take(intake, scope)) and self._streams.begin(stream):
                scope.begin_message()
                scope.items, scope.values = len(events), (len(events),)
                try:
                    answer = self._count(events)
                except Exception as error:
                    if isinstance(error, Refusal):
                        error.metadata["acknowledged_position"] = str(acknowledged)
                    scope.end_message(status_of(error))
                    scope.fail(error)
                scope.end()
                acknowledged = answer.acknowledged_position
                intake.settled(len(events))
                yield answer.SerializeToString()
                if not self._streams.end(stream):
                    scope.fail(Refusal("DRAINING", "The server is stopping; go on with another host."))
        finally:
            intake.close()
            self._streams.leave(stream)

    def _take(self, intake: Intake[SentEvent], scope: StreamScope) -> list[SentEvent]:
        try:
            return intake.take(_BATCH_MAX)
        except RequestError as error:
            scope.fail(error)
        except Exception:
            return []  # the caller went away, or the server drains: gRPC ended the stream

    def _count(self, events: Sequence[SentEvent]) -> pb.IngestEventsResponse:
        outcome = self._desk.count(events)
        answer = pb.IngestEventsResponse(
            acknowledged_position=events[-1].position,
            counted=outcome.outcomes.get(Outcome.NEW, 0),
            duplicates=outcome.outcomes.get(Outcome.DUPLICATE, 0),
            too_late=outcome.outcomes.get(Outcome.TOO_LATE, 0),
            uncounted=outcome.outcomes.get(Outcome.UNCOUNTED, 0),
            unreadable=outcome.outcomes.get(Outcome.UNREADABLE, 0),
        )
        for position, faults in outcome.rejected:
            answer.rejected.add(position=position, faults=fault_messages(faults))
        return answer


class _Positions:
    """Gives every event of a stream its position, and holds the caller to their order."""

    def __init__(self) -> None:
        self._last = 0

    def of(self, content: bytes) -> list[SentEvent]:
        """The events of one message. Raises RequestError."""
        events: Sequence[feature_pb2.Event] = parse(pb.IngestEventsRequest, content).events
        _check_count("events", len(events), EVENTS_MAX)
        found = []
        for index, event in enumerate(events):
            position = event.position or self._last + 1
            if position <= self._last:
                text = f"must rise: it is {position} and comes after {self._last}"
                raise RequestError([FieldViolation(f"events[{index}].position", text)])
            self._last = position
            found.append(sent_event(event, position))
        return found


def _check_count(field: str, count: int, most: int) -> None:
    if count == 0:
        raise RequestError([FieldViolation(field, "is required: 1 at least")])
    if count > most:
        raise RequestError(
            [FieldViolation(field, f"holds {count} items; at most {most} are taken at once")],
            "BATCH_TOO_LARGE",
            {"items": str(count), "items_max": str(most)},
        )


def feature_handlers(servicer: FeatureServicer) -> grpc.GenericRpcHandler:
    """The handlers of the service: bytes in, bytes out."""
    methods = {
        "PutFeatures": servicer.put_features,
        "GetFeatures": servicer.get_features,
        "DeleteSubject": servicer.delete_subject,
    }
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(servicer.observer.unary(name, shapes.FEATURE_RPC[name], method))
        for name, method in methods.items()
    }
    handlers["IngestEvents"] = grpc.stream_stream_rpc_method_handler(servicer.ingest_events)
    return grpc.method_handlers_generic_handler(FEATURE_SERVICE, handlers)
