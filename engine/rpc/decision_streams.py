"""DecideStream: the messages that have come by now are decided together, and answered in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import grpc
from google.rpc.status_pb2 import Status

from assay.decision.v1 import decision_service_pb2 as pb
from engine.decider import Asked, Decider
from engine.decider.claim import Claim
from engine.errors import Refusal, RequestError
from engine.record.wire import field
from engine.rpc.calls import parse
from engine.rpc.intake import Intake
from engine.rpc.observe import MessageScope, Observer, StreamScope
from engine.rpc.status import status_of
from engine.rpc.streams import Streams
from engine.telemetry.tracing import shapes

_DECISION, _ERROR = b"\x12", b"\x1a"
# Messages of one stream that are read ahead of their answers, and that are decided together.
_AHEAD_MAX, _GROUP_MAX = 64, 32


@dataclass(slots=True)
class _Message:
    """One message on its way to its answer."""

    scope: MessageScope
    request: pb.DecideRequest | None = None
    claim: Claim | None = None
    answer: bytes = b""

    def end(self, result: bytes | BaseException) -> None:
        """The message is answered. Once."""
        request_id = "" if self.request is None else self.request.request_id
        if isinstance(result, bytes):
            self.scope.resume()
            self.scope.end()
            self.answer = outcome(request_id, result)
        else:
            self.answer = outcome(request_id, self.scope.end_message(status_of(result, "request.")))


class DecisionStreams:
    """Serves the streams of a decider. streams: how many are open, and how they end."""

    def __init__(self, decider: Decider, streams: Streams, observer: Observer) -> None:
        self._decider, self._streams, self._observer = decider, streams, observer

    def serve(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """One stream."""
        scope = self._observer.stream("DecideStream", shapes.DECIDE_STREAM, context)
        try:
            scope.check_tenant()
            stream = self._streams.enter(context)
        except (Refusal, RequestError) as error:
            scope.fail(error)
        intake = Intake(contents, lambda content: (content,), _AHEAD_MAX)
        try:
            while messages := _take(intake):
                if self._streams.begin(stream):
                    yield from self._decide(messages, scope)
                if not self._streams.end(stream):
                    scope.fail(Refusal("DRAINING", "The server is stopping; go on with another host."))
                intake.settled(len(messages))
        finally:
            intake.close()
            self._streams.leave(stream)

    def _decide(self, contents: Sequence[bytes], scope: StreamScope) -> Iterator[bytes]:
        """The answers, in order. As many messages are decided together as there is room for now; the first of the
        others waits for room when these are answered."""
        done = 0
        while done < len(contents):
            messages = [self._first(contents[done], scope)]
            while done + len(messages) < len(contents) and scope.admit_another():
                messages.append(self._open(contents[done + len(messages)], scope))
            done += len(messages)
            self._settle(messages)
            for one in messages:
                yield one.answer

    def _first(self, content: bytes, scope: StreamScope) -> _Message:
        try:
            scope.admit(1)
        except Refusal as error:
            message = _Message(scope.message())
            with suppress(RequestError):
                message.request = parse(pb.DecideStreamRequest, content).request
            message.end(error)
            return message
        return self._open(content, scope)

    def _settle(self, messages: Sequence[_Message]) -> None:
        claims = {one.claim: one for one in messages if one.claim is not None}
        if not claims:
            return
        elsewhere = self._decider.begin(list(claims))
        todo = [claim for claim in claims if claim.result is None and claim not in elsewhere]
        if todo:
            self._decider.finish(todo)
        for claim in elsewhere:
            self._wait(claim, claims.pop(claim))
        for claim, one in claims.items():
            one.end(AssertionError("a claim without a result") if claim.result is None else claim.result)

    def _open(self, content: bytes, scope: StreamScope) -> _Message:
        message = _Message(scope.message())
        try:
            message.request = parse(pb.DecideStreamRequest, content).request
            message.claim = self._decider.open(message.request, _asked(message.scope))
        except Exception as error:
            message.end(error)
        return message

    def _wait(self, claim: Claim, message: _Message) -> None:
        """For a request that another call is deciding right now."""
        message.scope.resume()
        try:
            found: bytes | Exception = self._decider.decide(claim.request, claim.asked)
        except Exception as error:
            found = error
        message.end(found)


def _asked(scope: MessageScope) -> Asked:
    return Asked(scope.trace_id, scope.deadline_s, scope.call, scope.tenant)


def _take(intake: Intake[bytes]) -> list[bytes]:
    try:
        return intake.take(_GROUP_MAX)
    except Exception:
        return []  # the caller went away, or the server drains: gRPC ended the stream


def outcome(request_id: str, result: bytes | Status) -> bytes:
    """An item of a batch or an answer of a stream: the two messages have the same fields by number."""
    # An id that is too long to be one was refused; only its head is repeated.
    head = field(b"\n", request_id[:128].encode()) if request_id else b""
    if isinstance(result, bytes):
        return head + field(_DECISION, result)
    return head + field(_ERROR, result.SerializeToString())
