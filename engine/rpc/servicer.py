"""The servicer: parse, call the decider once, answer. Answers are bytes already, so nothing is written twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from assay.decision.v1 import decision_service_pb2 as pb
from engine.decider import Decider
from engine.errors import FieldViolation, Refusal, RequestError
from engine.record.wire import field
from engine.record_reader import RecordReader
from engine.rpc.flows import list_flows
from engine.rpc.status import abort, status_of
from engine.rpc.streams import Streams
from engine.rpc.trace_context import trace_id_of

SERVICE = "assay.decision.v1.DecisionService"
_DECISION, _ERROR = b"\x12", b"\x1a"
# gRPC answers with a very large number when the caller set no deadline.
_NO_DEADLINE_S = 86_400.0


Method = Callable[[bytes, grpc.ServicerContext], bytes]
M = TypeVar("M", bound=Message)


class DecisionServicer:
    """Serves `assay.decision.v1.DecisionService`. Requests come in as bytes, so that bytes that are no request get a
    proper answer too.

    batch_items_max: how many requests a batch may hold; streams_max: how many streams may be open at once, so that
    streams, which hold a thread each, leave threads for single calls.
    """

    def __init__(self, decider: Decider, reader: RecordReader, batch_items_max: int, streams_max: int) -> None:
        self._decider, self._reader = decider, reader
        self._batch_items_max = batch_items_max
        self.streams = Streams(streams_max)
        self._draining = False
        self._refused_s = 0.0
        self._under_way = 0
        self._lock = threading.Lock()

    @property
    def draining(self) -> bool:
        """Whether new calls are refused."""
        return self._draining

    def counted(self, method: Method) -> Method:
        """A method whose calls under way are counted, so that a drain can wait for them."""

        def call(content: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self._under_way += 1
            try:
                return method(content, context)
            finally:
                with self._lock:
                    self._under_way -= 1

        return call

    def drain(self, quiet_s: float, most_quiet_s: float, most_s: float) -> None:
        """Refuses new calls from now on, and returns when none has come for a while and none is under way.

        What gRPC has taken in but not handed to a thread yet would be cancelled by a stop, and callers do not retry
        what was cancelled. quiet_s: how long none must have come; most_quiet_s: how long to wait for that at most;
        most_s: how long to wait in all at most.
        """
        begun_s = time.monotonic()
        self._refused_s = begun_s
        self._draining = True
        self.streams.drain()
        while time.monotonic() < min(self._refused_s + quiet_s, begun_s + most_quiet_s):
            time.sleep(quiet_s / 10)
        while (self._under_way or self.streams.count) and time.monotonic() < begun_s + most_s:
            time.sleep(quiet_s / 10)

    def _refuse(self) -> NoReturn:
        self._refused_s = time.monotonic()
        raise Refusal("DRAINING", "The server is stopping; retry on another host.")

    def decide(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """Decide."""
        try:
            if self._draining:
                self._refuse()
            request = _parse(pb.DecideRequest, content)
            decision = self._decider.decide(request, trace_id_of(context), _deadline_s(context))
        except Exception as error:
            abort(context, error)
        return field(b"\n", decision)

    def decide_batch(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """DecideBatch."""
        try:
            if self._draining:
                self._refuse()
            requests = _parse(pb.DecideBatchRequest, content).requests
            self._check_batch(len(requests))
            results = self._decider.decide_many(requests, trace_id_of(context), _deadline_s(context))
        except Exception as error:
            abort(context, error)
        return b"".join(
            field(b"\n", _outcome(request.request_id, result, f"requests[{index}]."))
            for index, (request, result) in enumerate(zip(requests, results, strict=True))
        )

    def _check_batch(self, count: int) -> None:
        if count == 0:
            raise RequestError([FieldViolation("requests", "is required: 1 request at least")])
        if count > self._batch_items_max:
            raise RequestError(
                [FieldViolation("requests", f"holds {count} items; at most {self._batch_items_max} are taken at once")],
                "BATCH_TOO_LARGE",
                {"items": str(count), "items_max": str(self._batch_items_max)},
            )

    def decide_stream(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """DecideStream. Answers go out in the order of the requests."""
        try:
            stream = self.streams.enter(context)
        except Refusal as refusal:
            abort(context, refusal)
        try:
            trace_id, deadline_s = trace_id_of(context), _deadline_s(context)
            for content in contents:
                if self.streams.begin(stream):
                    yield self._answer_one(content, trace_id, deadline_s)
                if not self.streams.end(stream):
                    abort(context, Refusal("DRAINING", "The server is stopping; go on with another host."))
        finally:
            self.streams.leave(stream)

    def _answer_one(self, content: bytes, trace_id: str, deadline_s: float | None) -> bytes:
        request_id = ""
        try:
            request = _parse(pb.DecideStreamRequest, content).request
            request_id = request.request_id
            return _outcome(request_id, self._decider.decide(request, trace_id, deadline_s), "")
        except Exception as error:
            return _outcome(request_id, error, "request.")

    def get_decision(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """GetDecision."""
        try:
            return self._reader.get(_parse(pb.GetDecisionRequest, content)).SerializeToString()
        except Exception as error:
            abort(context, error)

    def list_flows(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        """ListFlows."""
        try:
            _parse(pb.ListFlowsRequest, content)
            plan = self._decider.plan
            if plan is None:
                raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
            return list_flows(plan).SerializeToString()
        except Exception as error:
            abort(context, error)


def _parse(kind: type[M], content: bytes) -> M:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise RequestError([FieldViolation("", f"the bytes are no {name}; check the stubs' version")]) from error


def _outcome(request_id: str, result: bytes | BaseException, prefix: str) -> bytes:
    """An item of a batch or an answer of a stream: the two messages have the same fields by number."""
    # An id that is too long to be one was refused; only its head is repeated.
    head = field(b"\n", request_id[:128].encode()) if request_id else b""
    if isinstance(result, bytes):
        return head + field(_DECISION, result)
    return head + field(_ERROR, status_of(result, prefix).SerializeToString())


def _deadline_s(context: grpc.ServicerContext) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s > _NO_DEADLINE_S else time.monotonic() + remaining_s


def method_handlers(servicer: DecisionServicer) -> grpc.GenericRpcHandler:
    """The handlers of the service: bytes in, bytes out."""
    handlers: dict[str, Any] = {
        "Decide": grpc.unary_unary_rpc_method_handler(servicer.counted(servicer.decide)),
        "DecideBatch": grpc.unary_unary_rpc_method_handler(servicer.counted(servicer.decide_batch)),
        "DecideStream": grpc.stream_stream_rpc_method_handler(servicer.decide_stream),
        "GetDecision": grpc.unary_unary_rpc_method_handler(servicer.get_decision),
        "ListFlows": grpc.unary_unary_rpc_method_handler(servicer.list_flows),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
