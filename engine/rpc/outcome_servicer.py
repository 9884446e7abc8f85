"""The servicer of outcomes: parse, ask the desk once, answer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from assay.outcome.v1 import outcome_pb2
from assay.outcome.v1 import outcome_service_pb2 as pb
from engine.errors import FieldViolation, Refusal, RequestError
from engine.outcomes.desk import PAGE_MAX, OutcomeDesk, Shown
from engine.outcomes.standing import NOW_US, Standing
from engine.rpc.calls import parse
from engine.rpc.intake import Intake
from engine.rpc.observe import Observer, Scope, StreamScope
from engine.rpc.status import status_of
from engine.rpc.streams import Streams

OUTCOME_SERVICE = "assay.outcome.v1.OutcomeService"
OUTCOME_METHODS = ("RecordOutcome", "RecordOutcomes", "GetOutcome", "ListOutcomes")
OUTCOMES_MAX = 1_000
# Outcomes settled with one hold of the index, and the most that may be unsettled.
_BATCH_MAX = 256
UNACKNOWLEDGED_MAX = 1_000


class _Item(NamedTuple):
    position: int
    outcome: outcome_pb2.Outcome
    allow_unknown: bool


class OutcomeServicer:
    """Serves `assay.outcome.v1.OutcomeService`.

    streams: shared with the service of decisions, so that all streams together leave threads for single calls. shapes:
    the number of each method's span, whose only attribute of its own is the number of items. observer: watches every
    call; check_open: raises Refusal once the server takes no new calls.
    """

    def __init__(
        self,
        desk: OutcomeDesk,
        streams: Streams,
        shapes: Mapping[str, int],
        observer: Observer | None = None,
        check_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._desk, self._streams, self.shapes = desk, streams, shapes
        self.observer, self._check_open = observer or Observer(), check_open

    def record_outcome(self, content: bytes, scope: Scope) -> bytes:
        """RecordOutcome."""
        self._check_open()
        request = parse(pb.RecordOutcomeRequest, content)
        scope.values = (1,)
        if not request.HasField("outcome"):
            raise RequestError([FieldViolation("outcome", "is required")])
        recorded = self._desk.record(request.outcome, allow_unknown=request.allow_unknown, tenant=scope.tenant)
        answer = pb.RecordOutcomeResponse(decision_id=recorded.decision_id, already_recorded=recorded.already)
        answer.recorded_at.FromMicroseconds(recorded.recorded_us)
        return answer.SerializeToString()

    def get_outcome(self, content: bytes, scope: Scope) -> bytes:
        """GetOutcome."""
        self._check_open()
        request = parse(pb.GetOutcomeRequest, content)
        scope.values = (1,)
        return pb.GetOutcomeResponse(
            outcome=_message(self._desk.get(request.outcome_id, scope.tenant))
        ).SerializeToString()

    def list_outcomes(self, content: bytes, scope: Scope) -> bytes:
        """ListOutcomes."""
        self._check_open()
        request = parse(pb.ListOutcomesRequest, content)
        after, size, as_of_us = _page(request)
        shown = self._desk.of_decision(request.decision_id, request.request_id, as_of_us=as_of_us, tenant=scope.tenant)
        wanted = [one for one in shown if request.include_corrected or one.standing is Standing.HOLDS]
        rest = [one for one in wanted if _place(one) > after]
        scope.values = (min(len(rest), size),)
        answer = pb.ListOutcomesResponse(outcomes=[_message(one) for one in rest[:size]])
        if len(rest) > size:
            recorded_us, outcome_id = _place(rest[size - 1])
            answer.next_page_token = base64.urlsafe_b64encode(f"{recorded_us} {outcome_id}".encode()).decode()
        return answer.SerializeToString()

    def record_outcomes(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """RecordOutcomes. Whatever has come is recorded at once; an acknowledgement follows each time."""
        scope = self.observer.stream("RecordOutcomes", self.shapes["RecordOutcomes"], context)
        try:
            self._check_open()
            scope.check_tenant()
            stream = self._streams.enter(context)
        except Exception as error:
            scope.fail(error)
        intake = Intake(contents, _Positions().of, UNACKNOWLEDGED_MAX)
        acknowledged = 0
        try:
            while (items := self._take(intake, scope)) and self._streams.begin(stream):
                scope.begin_message()
                scope.items, scope.values = len(items), (len(items),)
                try:
                    answer = self._record(items, scope.tenant)
                except Exception as error:
                    if isinstance(error, Refusal):
                        error.metadata["acknowledged_position"] = str(acknowledged)
                    scope.end_message(status_of(error))
                    scope.fail(error)
                scope.end()
                acknowledged = answer.acknowledged_position
                intake.settled(len(items))
                yield answer.SerializeToString()
                if not self._streams.end(stream):
                    scope.fail(Refusal("DRAINING", "The server is stopping; go on with another host."))
        finally:
            intake.close()
            self._streams.leave(stream)

    def _take(self, intake: Intake[_Item], scope: StreamScope) -> list[_Item]:
        try:
            return intake.take(_BATCH_MAX)
        except RequestError as error:
            scope.fail(error)
        except Exception:
            return []  # the caller went away, or the server drains: gRPC ended the stream

    def _record(self, items: Sequence[_Item], tenant: str) -> pb.RecordOutcomesResponse:
        answer = pb.RecordOutcomesResponse(acknowledged_position=items[-1].position)
        for allow_unknown, part in _runs(items):
            outcomes = [one.outcome for one in part]
            results = self._desk.record_many(outcomes, allow_unknown=allow_unknown, tenant=tenant)
            for one, result in zip(part, results, strict=True):
                if isinstance(result, Exception):
                    answer.rejected.add(position=one.position).error.CopyFrom(status_of(result))
                elif result.already:
                    answer.already_recorded += 1
                else:
                    answer.recorded += 1
        return answer


class _Positions:
    """Gives every outcome of a stream its position, and holds the caller to their order."""

    def __init__(self) -> None:
        self._last = 0

    def of(self, content: bytes) -> list[_Item]:
        """The outcomes of one message. Raises RequestError."""
        request = parse(pb.RecordOutcomesRequest, content)
        count = len(request.outcomes)
        if count == 0:
            raise RequestError([FieldViolation("outcomes", "is required: 1 at least")])
        if count > OUTCOMES_MAX:
            raise RequestError(
                [FieldViolation("outcomes", f"holds {count} items; at most {OUTCOMES_MAX} are taken at once")],
                "BATCH_TOO_LARGE",
                {"items": str(count), "items_max": str(OUTCOMES_MAX)},
            )
        found = []
        for index, sent in enumerate(request.outcomes):
            position = sent.position or self._last + 1
            if position <= self._last:
                text = f"must rise: it is {position} and comes after {self._last}"
                raise RequestError([FieldViolation(f"outcomes[{index}].position", text)])
            self._last = position
            found.append(_Item(position, sent.outcome, request.allow_unknown))
        return found


def _runs(items: Sequence[_Item]) -> Iterator[tuple[bool, list[_Item]]]:
    """Items in order, those next to each other together that may name unknown decisions, and those that may not."""
    part: list[_Item] = []
    for one in items:
        if part and part[0].allow_unknown != one.allow_unknown:
            yield part[0].allow_unknown, part
            part = []
        part.append(one)
    yield part[0].allow_unknown, part


def _page(request: pb.ListOutcomesRequest) -> tuple[tuple[int, str], int, int]:
    """After which outcome, how many, and as known when. Raises RequestError."""
    bad, after, as_of_us = [], (-1, ""), NOW_US
    if not 0 <= request.page_size <= PAGE_MAX:
        bad.append(FieldViolation("page_size", f"must be between 1 and {PAGE_MAX:,}, or absent"))
    if request.page_token:
        try:
            recorded, _, outcome_id = base64.urlsafe_b64decode(request.page_token).decode().partition(" ")
            after = (int(recorded), outcome_id)
        except ValueError:
            bad.append(FieldViolation("page_token", "is none that an answer gave"))
    if request.HasField("as_of"):
        try:
            as_of_us = request.as_of.ToMicroseconds()
            request.as_of.ToDatetime()
        except (ValueError, OverflowError):
            bad.append(FieldViolation("as_of", "is no moment between the years 1 and 9999"))
    if bad:
        raise RequestError(bad)
    return after, request.page_size or PAGE_MAX, as_of_us


def _place(one: Shown) -> tuple[int, str]:
    return one.record.recorded_at.ToMicroseconds(), one.record.outcome.outcome_id


def _message(one: Shown) -> pb.RecordedOutcome:
    made = pb.RecordedOutcome(
        outcome=one.record.outcome, decision_id=one.record.decision_id, recorded_at=one.record.recorded_at
    )
    made.standing = int(one.standing)  # type: ignore[assignment]
    return made


def outcome_handlers(servicer: OutcomeServicer) -> grpc.GenericRpcHandler:
    """The handlers of the service: bytes in, bytes out."""
    methods = {
        "RecordOutcome": servicer.record_outcome,
        "GetOutcome": servicer.get_outcome,
        "ListOutcomes": servicer.list_outcomes,
    }
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(servicer.observer.unary(name, servicer.shapes[name], method))
        for name, method in methods.items()
    }
    handlers["RecordOutcomes"] = grpc.stream_stream_rpc_method_handler(servicer.record_outcomes)
    return grpc.method_handlers_generic_handler(OUTCOME_SERVICE, handlers)
