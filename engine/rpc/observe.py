"""What every call of every service has in common: its trace context, its span, its metrics, its line in the access log,
and the status that it ends with.

    handler = grpc.unary_unary_rpc_method_handler(observer.unary("GetDecision", shapes.GET_DECISION, get_decision))

A method is given the bytes of its request and a `Scope`, gives bytes or raises, and knows nothing of gRPC.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from google.rpc.status_pb2 import Status

from engine.admission.gate import Gate, Refused, Ticket
from engine.errors import FieldViolation, RequestError
from engine.rpc.calls import deadline_of
from engine.rpc.status import abort, status_of, word_of
from engine.rpc.tickets import arrived, charge, check_begin, refusal
from engine.telemetry.metrics.calls import RequestMetrics
from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.call import CallTrace, current
from engine.telemetry.tracing.context import CallContext, HeadRule, from_metadata, publish, withdraw
from engine.telemetry.tracing.recorder import NoRecorder, Recorder
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.stages import NO_DECISION
from engine.telemetry.tracing.trace_record import ERROR

_access = logging.getLogger("assay.access")
_tick_ns = time.perf_counter_ns
# The attributes that every call has, before its method's own.
_CALL_ATTRIBUTES = 6
# Statuses by which a server says that it has failed; by the others the caller has. OpenTelemetry's conventions for rpc
# spans of servers.
_FAILED = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
_is_tenant = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
# Of a call that names none where each must: not a name that a tenant can have.
_NO_TENANT = "-"
_NOTHING = {number: (None,) * (len(shape.attributes) - _CALL_ATTRIBUTES) for number, shape in enumerate(SHAPES)}


class _Waited(threading.local):
    """How long the call that this thread is about to make waited for it."""

    ns: int = 0


_waited = _Waited()


class CallThreads(ThreadPoolExecutor):
    """The threads that calls run on. Notes how long each call waited for one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `ThreadPoolExecutor.submit`."""
        return super().submit(_run, _tick_ns(), fn, args, kwargs)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return self._work_queue.qsize()


def _run(submitted_ns: int, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _waited.ns = _tick_ns() - submitted_ns
    return fn(*args, **kwargs)


class Scope:
    """One call, from its first byte to its status. Belongs to one thread.

    trace_id: 32 hexadecimal digits. deadline_s: the caller's, on `time.monotonic()`, None without one. call: what is
    noted for its trace, None when it is not recorded. tenant: whose call it is, "" without tenants. items: of a batch,
    for the metrics. values: what the method has to say of its span, in the order of its shape; None: nothing.
    """

    __slots__ = (
        "_context", "_method", "_observer", "_shape", "_start_ns", "_token", "_trailing", "call", "deadline_s",
        "items", "tenant", "ticket", "trace_id", "values", "waited_ns",
    )  # fmt: skip

    def __init__(
        self,
        observer: Observer,
        method: str,
        shape: int,
        context: grpc.ServicerContext,
        ticket: Ticket | None = None,
        waited_ns: int | None = None,
    ) -> None:
        """ticket: how the call was taken; None: what came with it to this thread. waited_ns: how long it waited to be
        begun; None: for this thread."""
        self._start_ns = _tick_ns()
        self.waited_ns = _waited.ns if waited_ns is None else waited_ns
        self._observer, self._method, self._shape, self._context = observer, method, shape, context
        self.items: int | None = None
        self.values: tuple[Any, ...] | None = None
        self.deadline_s = deadline_of(context)
        metadata = context.invocation_metadata()
        self._begin(from_metadata(metadata))
        context.set_trailing_metadata(self._trailing)
        self.tenant = "" if not observer.tenant_header else tenant_of(observer.tenant_header, metadata)
        self.ticket = arrived.get() if ticket is None else ticket

    def _begin(self, where: CallContext) -> None:
        observer = self._observer
        self.trace_id = where.trace_id.hex()
        self._trailing = (("traceparent", where.traceparent),)
        self.call = self._token = None
        if observer.recorder.active and observer.head.records(where):
            self.call = CallTrace(where, self._start_ns)
            self._token = publish(where)
        current.call = self.call

    def pause(self) -> None:
        """This thread turns to another call. `resume` before anything else is asked of this one."""
        withdraw(self._token)
        current.call = self._token = None

    def resume(self, within: bool = False) -> None:
        """This thread turns to this call again. within: plug-ins may make spans of their own within it now."""
        current.call = self.call
        if within and self.call is not None:
            self._token = publish(self.call.context)

    def check_tenant(self) -> None:
        """Raises RequestError for a call that names no tenant where each must."""
        if self.tenant == _NO_TENANT:
            place = f"metadata[{self._observer.tenant_header!r}]"
            raise RequestError([FieldViolation(place, "must name the tenant: 1 to 64 of A-Z a-z 0-9 . _ -")])

    def check_begin(self) -> None:
        """Raises Refusal for a call that cannot be answered in time."""
        if self.ticket is not None:
            check_begin(self.ticket, None if self.deadline_s is None else self.deadline_s - time.monotonic())

    def admit(self, items: int) -> None:
        """The call is a batch of so many. Raises Refusal when its tenant may not have as many now."""
        if self.ticket is not None:
            charge(self.ticket, items)

    def fail(self, error: BaseException) -> NoReturn:
        """Ends the call with the status of an error. Always raises."""
        status = status_of(error)
        self.end(*word_of(status))
        abort(self._context, status, self._trailing)

    def end(self, code: str = "OK", reason: str = "OK") -> None:
        """Ends the call. code: the name of its status; reason: the ErrorReason, or OK."""
        ended_ns, observer, call = _tick_ns(), self._observer, self.call
        current.call = None
        if call is not None:
            withdraw(self._token)
            self._record(call, ended_ns, code, reason)
        exemplar = self.trace_id if call is not None else ""
        observer.requests.observe(
            self._method, reason, ended_ns - self._start_ns, exemplar, 0.0, self.waited_ns, self.items
        )
        if observer.access_log:
            self._write(ended_ns, code, reason, call)

    def _record(self, call: CallTrace, ended_ns: int, code: str, reason: str) -> None:
        observer, good = self._observer, reason == "OK"
        left_ms = None if self.deadline_s is None else (self.deadline_s - time.monotonic()) * 1000
        common = (
            code, None if good else reason, observer.address, observer.port, self.waited_ns // 1000, left_ms
        )  # fmt: skip
        own = call.decided or self.values or _NOTHING[self._shape]
        outcome = call.outcome if good else ERROR
        status = reason if code in _FAILED else None
        observer.recorder.record(call.end(self._shape, ended_ns, common + own, outcome, status))

    def _write(self, ended_ns: int, code: str, reason: str, call: CallTrace | None) -> None:
        line: dict[str, object] = {
            "method": self._method,
            "status": code,
            "duration_ms": round((ended_ns - self._start_ns) / 1e6, 3),
            "queue_wait_ms": round(self.waited_ns / 1e6, 3),
            "trace_id": self.trace_id,
        }
        if reason != "OK":
            line["reason"] = reason
        if self.items is not None:
            line["items"] = self.items
        if call is not None and call.decided is not None:
            line |= {"flow": call.decided[0], "decision_id": call.decided[3], "verdict": call.decided[4]}
        _access.info("call", extra=line)


def tenant_of(header: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The tenant that a call is of; what is no tenant's name is an empty one that no tenant has."""
    named = [value for name, value in metadata if name == header]
    return named[0] if len(named) == 1 and isinstance(named[0], str) and _is_tenant(named[0]) else _NO_TENANT


class StreamScope(Scope):
    """A stream: each of its messages is a call of its own. `items` counts them."""

    __slots__ = ("_metadata",)

    def __init__(self, observer: Observer, method: str, shape: int, context: grpc.ServicerContext) -> None:
        super().__init__(observer, method, shape, context)
        self._metadata = context.invocation_metadata()
        withdraw(self._token)
        current.call = self.call = self._token = None

    def message(self) -> MessageScope:
        """A message has come, and others may be under way beside it."""
        return MessageScope(self)

    def begin_message(self) -> None:
        """A message has come."""
        self._start_ns = _tick_ns()
        self.waited_ns = 0
        self._begin(from_metadata(self._metadata))

    def admit(self, items: int) -> None:
        """Waits for room for the message, which holds back its sender. Raises Refusal when there is none."""
        gate = self._observer.gate
        if gate is not None:
            left_s = None if self.deadline_s is None else self.deadline_s - time.monotonic()
            found = gate.enter("batch", self.tenant, self._observer.stream_wait_s, left_s)
            if isinstance(found, Refused):
                raise refusal(found)
            self.ticket = found

    def admit_another(self) -> bool:
        """Whether there is room for one more message beside those that are under way."""
        gate = self._observer.gate
        if gate is not None:
            self.ticket = gate.try_enter("batch", self.tenant)
        return gate is None or self.ticket is not None

    def end(self, code: str = "OK", reason: str = "OK") -> None:
        """Ends the message."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.done()
        super().end(code, reason)

    def end_message(self, status: Status) -> Status:
        """The message ends with an error's status, which it gives; the stream goes on."""
        self.end(*word_of(status))
        return status

    def fail(self, error: BaseException) -> NoReturn:
        """Ends the stream with the status of an error. Always raises."""
        status = status_of(error)
        code, reason = word_of(status)
        observer = self._observer
        observer.requests.observe(self._method, reason, _tick_ns() - self._start_ns)
        if observer.access_log:
            self._write(_tick_ns(), code, reason, None)
        abort(self._context, status, self._trailing)


class MessageScope(StreamScope):
    """One message of a stream of which several are under way at once, with the room that the stream was given for it.
    It is paused: `resume` and `pause` as a thread turns to it and away."""

    __slots__ = ()

    def __init__(self, stream: StreamScope) -> None:
        self._observer, self._method, self._shape = stream._observer, stream._method, stream._shape
        self._context, self._metadata = stream._context, stream._metadata
        self.deadline_s, self.tenant = stream.deadline_s, stream.tenant
        self.items = self.values = None
        self.ticket, stream.ticket = stream.ticket, None
        self.begin_message()
        self.pause()


class Observer:
    """Watches the calls of one process. recorder, head: what becomes of traces, and whether a call is recorded;
    requests: their metrics; access_log: whether every call gets a line; tenant_header: the metadata that names the
    caller's tenant, "" without tenants."""

    def __init__(
        self,
        recorder: Recorder | None = None,
        head: HeadRule | None = None,
        requests: RequestMetrics | None = None,
        access_log: bool = False,
        tenant_header: str = "",
    ) -> None:
        self.recorder, self.head = recorder or NoRecorder(), head or HeadRule()
        self.requests = requests or RequestMetrics((), ())
        self.access_log, self.tenant_header = access_log, tenant_header
        self.address: str | None = None
        self.port: int | None = None
        # Who is taken, and how long a message of a stream may wait for that; None: everybody.
        self.gate: Gate | None = None
        self.stream_wait_s = 0.0
        self._under_way: deque[None] = deque()

    def listens(self, address: str, port: int) -> None:
        """Says where calls come in. address: host:port or unix:/path."""
        host = address if address.startswith("unix:") else address.rpartition(":")[0]
        self.address, self.port = host, port if port > 1 else None

    @property
    def under_way(self) -> int:
        """Calls that were begun and have not ended; streams are not among them."""
        return len(self._under_way)

    def begin(self) -> None:
        """A call is under way, until `over`."""
        self._under_way.append(None)

    def over(self) -> None:
        """A call is over."""
        self._under_way.pop()

    def refused(self, method: str, reason: str, code: str, cause: str | None, trace_id: str) -> None:
        """A call was refused before anything was done for it. cause: what was full."""
        self.requests.observe(method, reason, 0)
        if self.access_log:
            line = {"method": method, "status": code, "duration_ms": 0.0, "queue_wait_ms": 0.0, "trace_id": trace_id}
            _access.info("call", extra=line | {"reason": reason} | ({} if cause is None else {"cause": cause}))

    def unary(
        self, method: str, shape: int, answer: Callable[[bytes, Scope], bytes]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """A method as gRPC wants it."""
        under_way = self._under_way

        def call(content: bytes, context: grpc.ServicerContext) -> bytes:
            under_way.append(None)  # one step for all threads, where a lock around a count is several
            try:
                scope = Scope(self, method, shape, context)
                try:
                    scope.check_tenant()
                    scope.check_begin()
                    found = answer(content, scope)
                except Exception as error:
                    scope.fail(error)
                scope.end()
                if scope.ticket is not None:
                    scope.ticket.answered = True
                return found
            finally:
                under_way.pop()

        return call

    def stream(self, method: str, shape: int, context: grpc.ServicerContext) -> StreamScope:
        """A stream that has just been opened."""
        return StreamScope(self, method, shape, context)


assert len(NO_DECISION) == len(SHAPES[shapes.DECIDE].attributes) - _CALL_ATTRIBUTES
