"""The servicer: parse, call the decider once, answer. Answers are bytes already, so nothing is written twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from assay.decision.v1 import decision_service_pb2 as pb
from engine.decider import Asked, Decider
from engine.decider.claim import Claim
from engine.errors import FieldViolation, Refusal, RequestError
from engine.record.wire import field
from engine.record_reader import RecordReader
from engine.rpc.calls import parse
from engine.rpc.decision_streams import DecisionStreams, outcome
from engine.rpc.flows import list_flows
from engine.rpc.observe import Observer, Scope
from engine.rpc.status import status_of, word_of
from engine.rpc.streams import Streams
from engine.telemetry.tracing import shapes

SERVICE = "assay.decision.v1.DecisionService"


class DecisionServicer:
    """Serves `assay.decision.v1.DecisionService`. Requests come in as bytes, so that bytes that are no request get a
    proper answer too.

    batch_items_max: how many requests a batch may hold; streams_max: how many streams may be open at once, so that
    streams, which hold a thread each, leave threads for single calls. observer: watches every call.
    """

    def __init__(
        self,
        decider: Decider,
        reader: RecordReader,
        batch_items_max: int,
        streams_max: int,
        observer: Observer | None = None,
    ) -> None:
        self._decider, self._reader = decider, reader
        self._batch_items_max = batch_items_max
        self.observer = observer or Observer()
        self.streams = Streams(streams_max)
        self._decisions = DecisionStreams(decider, self.streams, self.observer)
        self._draining = False
        self._refused_s = 0.0

    @property
    def draining(self) -> bool:
        """Whether new calls are refused."""
        return self._draining

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
        while (self.observer.under_way or self.streams.count) and time.monotonic() < begun_s + most_s:
            time.sleep(quiet_s / 10)

    def check_open(self) -> None:
        """Raises Refusal once the server drains."""
        if self._draining:
            self._refused_s = time.monotonic()
            raise Refusal("DRAINING", "The server is stopping; retry on another host.")

    def decide(self, content: bytes, scope: Scope) -> bytes:
        """Decide."""
        self.check_open()
        request = parse(pb.DecideRequest, content)
        return field(
            b"\n", self._decider.decide(request, Asked(scope.trace_id, scope.deadline_s, scope.call, scope.tenant))
        )

    def open(self, content: bytes, scope: Scope) -> Claim:
        """The first step of Decide for one of several calls; see `Decider.open`. Raises RequestError, Refusal."""
        self.check_open()
        request = parse(pb.DecideRequest, content)
        return self._decider.open(request, Asked(scope.trace_id, scope.deadline_s, scope.call, scope.tenant))

    def begin(self, claims: Sequence[Claim]) -> Sequence[Claim]:
        """The second step, for all of them; see `Decider.begin`."""
        return self._decider.begin(claims)

    def finish(self, claims: Sequence[Claim]) -> None:
        """The last step; see `Decider.finish`."""
        self._decider.finish(claims)

    def decided(self, decision: bytes) -> bytes:
        """The answer with a decision."""
        return field(b"\n", decision)

    def decide_batch(self, content: bytes, scope: Scope) -> bytes:
        """DecideBatch."""
        self.check_open()
        requests = parse(pb.DecideBatchRequest, content).requests
        self._check_batch(len(requests))
        scope.admit(len(requests))
        scope.items, scope.values = len(requests), (len(requests),)
        results = self._decider.decide_many(requests, Asked(scope.trace_id, scope.deadline_s, scope.call, scope.tenant))
        items = []
        for index, (request, result) in enumerate(zip(requests, results, strict=True)):
            if isinstance(result, bytes):
                items.append(field(b"\n", outcome(request.request_id, result)))
            else:
                status = status_of(result, f"requests[{index}].")
                self._decider.refused(word_of(status)[1], scope.call, index)
                items.append(field(b"\n", outcome(request.request_id, status)))
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

    def decide_stream(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """DecideStream. Answers go out in the order of the requests."""
        return self._decisions.serve(contents, context)

    def get_decision(self, content: bytes, scope: Scope) -> bytes:
        """GetDecision."""
        found = self._reader.get(parse(pb.GetDecisionRequest, content), scope.tenant)
        scope.values = (found.decision.decision_id,)
        return found.SerializeToString()

    def list_flows(self, content: bytes, scope: Scope) -> bytes:
        """ListFlows."""
        parse(pb.ListFlowsRequest, content)
        plan = self._decider.plan
        if plan is None:
            raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
        return list_flows(plan).SerializeToString()


def method_handlers(servicer: DecisionServicer) -> grpc.GenericRpcHandler:
    """The handlers of the service: bytes in, bytes out."""
    unary = servicer.observer.unary
    handlers: dict[str, Any] = {
        "Decide": grpc.unary_unary_rpc_method_handler(unary("Decide", shapes.DECIDE, servicer.decide)),
        "DecideBatch": grpc.unary_unary_rpc_method_handler(
            unary("DecideBatch", shapes.DECIDE_BATCH, servicer.decide_batch)
        ),
        "DecideStream": grpc.stream_stream_rpc_method_handler(servicer.decide_stream),
        "GetDecision": grpc.unary_unary_rpc_method_handler(
            unary("GetDecision", shapes.GET_DECISION, servicer.get_decision)
        ),
        "ListFlows": grpc.unary_unary_rpc_method_handler(unary("ListFlows", shapes.LIST_FLOWS, servicer.list_flows)),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
