"""The servicer: parse, call the decider once, answer. Answers are bytes already, so nothing is written twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from assay.decision.v1 import decision_service_pb2 as pb
from engine.decider import Decider
from engine.errors import FieldViolation, Refusal, RequestError
from engine.record.build import varint
from engine.record_reader import RecordReader
from engine.rpc.flows import list_flows
from engine.rpc.status import abort, status_of
from engine.rpc.trace_context import trace_id_of

SERVICE = "assay.decision.v1.DecisionService"
_DECISION, _ERROR = b"\x12", b"\x1a"
# gRPC answers with a very large number when the caller set no deadline.
_NO_DEADLINE_S = 86_400.0


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


class DecisionServicer:
    """Serves `assay.decision.v1.DecisionService`.

    batch_items_max: how many requests a batch may hold; streams_max: how many streams may be open at once, so that
    streams, which hold a thread each, leave threads for single calls.
    """

    def __init__(self, decider: Decider, reader: RecordReader, batch_items_max: int, streams_max: int) -> None:
        self._decider, self._reader = decider, reader
        self._batch_items_max, self._streams_max = batch_items_max, streams_max
        self._streams = threading.BoundedSemaphore(streams_max)

    def decide(self, request: pb.DecideRequest, context: grpc.ServicerContext) -> bytes:
        """Decide."""
        try:
            decision = self._decider.decide(request, trace_id_of(context), _deadline(context))
        except Exception as error:
            abort(context, error)
            raise
        return b"\n" + varint(len(decision)) + decision

    def decide_batch(self, request: pb.DecideBatchRequest, context: grpc.ServicerContext) -> bytes:
        """DecideBatch."""
        requests = request.requests
        try:
            self._check_batch(len(requests))
            results = self._decider.decide_many(requests, trace_id_of(context), _deadline(context))
        except Exception as error:
            abort(context, error)
            raise
        items = []
        for index, (one, result) in enumerate(zip(requests, results, strict=True)):
            item = _outcome(one.request_id, result, f"requests[{index}].")
            items.append(_field(b"\n", item))
        return b"".join(items)

    def _check_batch(self, count: int) -> None:
        if count == 0:
            raise RequestError([FieldViolation("requests", "is required: 1 request at least")])
        if count > self._batch_items_max:
            raise RequestError(
                [FieldViolation("requests", f"holds {count} items; at most {self._batch_items_max} are taken at once")],
                "BATCH_TOO_LARGE",
                {"items": str(count), "items_max": str(self._batch_items_max)},
            )

    def decide_stream(
        self, requests: Iterator[pb.DecideStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """DecideStream. Answers go out in the order of the requests."""
        if not self._streams.acquire(blocking=False):
            abort(context, Refusal("OVERLOADED", f"{self._streams_max} streams are open already; retry shortly."))
        try:
            trace_id, deadline = trace_id_of(context), _deadline(context)
            for message in requests:
                request = message.request
                try:
                    result: bytes | Exception = self._decider.decide(request, trace_id, deadline)
                except Exception as error:
                    result = error
                yield _outcome(request.request_id, result, "request.")
        finally:
            self._streams.release()

    def get_decision(self, request: pb.GetDecisionRequest, context: grpc.ServicerContext) -> bytes:
        """GetDecision."""
        try:
            return self._reader.get(request).SerializeToString()
        except Exception as error:
            abort(context, error)
            raise

    def list_flows(self, request: pb.ListFlowsRequest, context: grpc.ServicerContext) -> bytes:
        """ListFlows."""
        try:
            return list_flows(self._decider.served.plan).SerializeToString()
        except Exception as error:
            abort(context, error)
            raise


def _outcome(request_id: str, result: bytes | BaseException, prefix: str) -> bytes:
    """An item of a batch or an answer of a stream: the two messages have the same fields by number."""
    # An id that is too long to be one was refused; only its head is repeated.
    head = _field(b"\n", request_id[:128].encode()) if request_id else b""
    if isinstance(result, bytes):
        return head + _field(_DECISION, result)
    return head + _field(_ERROR, status_of(result, prefix).SerializeToString())


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return None if remaining > _NO_DEADLINE_S else time.monotonic() + remaining


def method_handlers(servicer: DecisionServicer) -> grpc.GenericRpcHandler:
    """The handlers of the service. Requests are parsed by gRPC's own thread of the call; answers pass as bytes."""
    handlers: dict[str, Any] = {
        "Decide": grpc.unary_unary_rpc_method_handler(servicer.decide, pb.DecideRequest.FromString),
        "DecideBatch": grpc.unary_unary_rpc_method_handler(servicer.decide_batch, pb.DecideBatchRequest.FromString),
        "DecideStream": grpc.stream_stream_rpc_method_handler(
            servicer.decide_stream, pb.DecideStreamRequest.FromString
        ),
        "GetDecision": grpc.unary_unary_rpc_method_handler(servicer.get_decision, pb.GetDecisionRequest.FromString),
        "ListFlows": grpc.unary_unary_rpc_method_handler(servicer.list_flows, pb.ListFlowsRequest.FromString),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
