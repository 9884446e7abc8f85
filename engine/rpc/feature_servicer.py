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
from engine.rpc.calls import deadline_of, parse
from engine.rpc.feature_values import fault_messages, sent_event, sent_row, view_message
from engine.rpc.intake import Intake
from engine.rpc.servicer import Method
from engine.rpc.status import abort
from engine.rpc.streams import Streams

FEATURE_SERVICE = "assay.feature.v1.FeatureService"
PUT_ROWS_MAX = 1_000
EVENTS_MAX = 1_000
# Events settled with one call of the store, and the most that may be unsettled.
_BATCH_MAX = 256
UNACKNOWLEDGED_MAX = 1_000


class FeatureServicer:
    """Serves `assay.feature.v1.FeatureService`.

    streams: shared with the service of decisions, so that all streams together leave threads for single calls. counted:
    wraps a method so that a drain waits for its calls; draining: whether the server takes no new calls.
    """

    def __init__(
        self,
        desk: FeatureDesk,
        streams: Streams,
        counted: Callable[[Method], Method] = lambda method: method,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._desk, self._streams = desk, streams
        self.counted, self._draining = counted, draining

    def put_features(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """PutFeatures."""
        try:
            self._check_open()
            rows = parse(pb.PutFeaturesRequest, content).rows
            _check_count("rows", len(rows), PUT_ROWS_MAX)
            outcome = self._desk.put([sent_row(row) for row in rows])
        except Exception as error:
            abort(context, error)
        answer = pb.PutFeaturesResponse(written=outcome.written, ignored_older=outcome.ignored_older)
        for index, faults in outcome.rejected.items():
            answer.rejected.add(index=index, faults=fault_messages(faults))
        for (view, feature, rule), count in sorted(outcome.repairs.items()):
            answer.repairs.add(view=view, feature=feature, rule=int(rule), count=count)
        return answer.SerializeToString()

    def get_features(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """GetFeatures."""
        try:
            self._check_open()
            request = parse(pb.GetFeaturesRequest, content)
            deadline_s = deadline_of(context)
            reading = self._desk.read(request.entity, request.entity_id, request.views, request.flow, deadline_s)
        except Exception as error:
            abort(context, error)
        answer = pb.GetFeaturesResponse(views=[view_message(view, reading.now_us) for view in reading.views])
        answer.now.FromMicroseconds(reading.now_us)
        return answer.SerializeToString()

    def delete_subject(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """DeleteSubject."""
        try:
            self._check_open()
            request = parse(pb.DeleteSubjectRequest, content)
            removed = self._desk.erase(request.entity, request.entity_id)
        except Exception as error:
            abort(context, error)
        return pb.DeleteSubjectResponse(rows_removed=removed).SerializeToString()

    def ingest_events(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """IngestEvents. Whatever has come is counted at once; an acknowledgement follows each time."""
        try:
            self._check_open()
            self._desk.check_counting()
            stream = self._streams.enter(context)
        except Exception as error:
            abort(context, error)
        intake = Intake(contents, _Positions().of, UNACKNOWLEDGED_MAX)
        acknowledged = 0
        try:
            while (events := self._take(intake, context)) and self._streams.begin(stream):
                try:
                    answer = self._count(events)
                except Refusal as refusal:
                    refusal.metadata["acknowledged_position"] = str(acknowledged)
                    abort(context, refusal)
                except Exception as error:
                    abort(context, error)
                acknowledged = answer.acknowledged_position
                intake.settled(len(events))
                yield answer.SerializeToString()
                if not self._streams.end(stream):
                    abort(context, Refusal("DRAINING", "The server is stopping; go on with another host."))
        finally:
            intake.close()
            self._streams.leave(stream)

    def _take(self, intake: Intake[SentEvent], context: grpc.ServicerContext) -> list[SentEvent]:
        try:
            return intake.take(_BATCH_MAX)
        except RequestError as error:
            abort(context, error)
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

    def _check_open(self) -> None:
        if self._draining():
            raise Refusal("DRAINING", "The server is stopping; retry on another host.")


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
    counted = servicer.counted
    handlers: dict[str, Any] = {
        "PutFeatures": grpc.unary_unary_rpc_method_handler(counted(servicer.put_features)),
        "GetFeatures": grpc.unary_unary_rpc_method_handler(counted(servicer.get_features)),
        "DeleteSubject": grpc.unary_unary_rpc_method_handler(counted(servicer.delete_subject)),
        "IngestEvents": grpc.stream_stream_rpc_method_handler(servicer.ingest_events),
    }
    return grpc.method_handlers_generic_handler(FEATURE_SERVICE, handlers)
