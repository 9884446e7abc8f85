"""Admission at gRPC's door: calls are looked at when they arrive, in gRPC's one serving thread, before they wait for
anything.

`Arrivals` is the first of the server's generic handlers, so gRPC asks it for every call: it gives a handler that
refuses for a call that is not taken, and nothing for one that is, whose own service is then asked. `Admitted` stands
before the executor that calls run on. A refusal is run by it at once, in the serving thread: its handler is one for
streams of requests, which gRPC hands over without reading the message, so it waits for nothing and nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from engine.admission.gate import Gate, Lane, Refused, Ticket
from engine.rpc.observe import Observer, tenant_of
from engine.rpc.tickets import Said, Sayings, arrived
from engine.telemetry.tracing.context import from_metadata

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

PRIORITY_HEADER = "assay-priority"

_access = logging.getLogger("assay.access")
_DECISIONS = "assay.decision.v1.DecisionService"
_FEATURES = "assay.feature.v1.FeatureService"
_OUTCOMES = "assay.outcome.v1.OutcomeService"
# Streams are not here: how many are open is bounded where they are opened, and each message asks for itself. What has
# no lane is always taken: health, reflection, and whatever is no method of ours.
_LANES: dict[str, Lane] = {
    f"/{_DECISIONS}/Decide": "interactive",
    f"/{_DECISIONS}/DecideBatch": "batch",
    f"/{_DECISIONS}/GetDecision": "other",
    f"/{_DECISIONS}/ListFlows": "other",
    f"/{_FEATURES}/PutFeatures": "other",
    f"/{_FEATURES}/GetFeatures": "other",
    f"/{_FEATURES}/DeleteSubject": "other",
    f"/{_OUTCOMES}/RecordOutcome": "other",
    f"/{_OUTCOMES}/GetOutcome": "other",
    f"/{_OUTCOMES}/ListOutcomes": "other",
}
# Handlers that are kept ready; a few dozen are in use.
_KEPT_MAX = 1024


class Door:
    """What gRPC's serving thread has just let in or refused, on its way to the executor. One for each server, used by
    its serving thread alone."""

    __slots__ = ("lane", "ours", "refused", "ticket")

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.refused = False
        # One of our own methods. gRPC knows health and reflection beforehand and asks no generic handler for them.
        self.ours = False
        # Of the call that is being handed to the executor; None for one without.
        self.lane: Lane | None = None


class Arrivals(grpc.GenericRpcHandler):
    """Looks at every call when it arrives, and leaves at the door what came of it. is_draining: while it says so every
    call is let through, to be told by its own service."""

    def __init__(self, gate: Gate, observer: Observer, is_draining: Callable[[], bool], door: Door) -> None:
        self._gate, self._observer, self._is_draining, self._door = gate, observer, is_draining, door
        self._sayings = Sayings()
        self._handlers: dict[int, tuple[Said, Handler]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """A handler that refuses, or None for a call that is taken."""
        door = self._door
        if door.ticket is not None:  # gRPC refused that call after it was let in
            stale, door.ticket = door.ticket, None
            stale.done()
        door.ours = True
        method = handler_call_details.method
        lane = _LANES.get(method)
        if lane is None or self._is_draining():
            return None
        metadata = handler_call_details.invocation_metadata or ()
        header = self._observer.tenant_header
        tenant = tenant_of(header, metadata) if header else ""
        if lane == "interactive":
            for name, value in metadata:
                if name == PRIORITY_HEADER:
                    lane = "batch" if value == "batch" else lane
        found = self._gate.arrive(lane, tenant, 0 if lane == "other" else 1)
        if isinstance(found, Refused):
            door.refused = True
            return self._refusing(found, method, metadata)
        door.ticket = found
        arrived.set(found)
        return None

    def _refusing(self, refused: Refused, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Handler:
        said = self._sayings.of(refused)
        name = method.rpartition("/")[2]
        self._observer.requests.observe(name, said.reason, 0)
        if self._observer.access_log:
            line = {"method": name, "status": said.code.name, "duration_ms": 0.0, "queue_wait_ms": 0.0}
            trace_id = from_metadata(metadata).trace_id.hex()
            _access.info("call", extra=line | {"trace_id": trace_id, "reason": said.reason, "cause": refused.why})
        handler = self._handlers.get(id(said))
        if handler is None or handler[0] is not said:
            if len(self._handlers) >= _KEPT_MAX:
                self._handlers.clear()
            handler = self._handlers[id(said)] = (said, _handler(said))
        return handler[1]


def _handler(said: Said) -> Handler:
    def refuse(_: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata(said.trailing)
        context.abort(said.code, said.message)
        raise AssertionError("unreachable")

    return grpc.stream_unary_rpc_method_handler(refuse)


class _Ended:
    """The future of a call that has been answered already. There is one for all."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


_ENDED: Any = _Ended()


class Admitted(Executor):
    """The executor that gRPC is given: `inner`, and before it what the door has to say of each call. Health and
    reflection have threads of their own, and are answered however many decisions wait."""

    def __init__(self, inner: Executor, door: Door) -> None:
        self._inner, self._door = inner, door
        # Reflection may hold two of them.
        self._aside = ThreadPoolExecutor(4, thread_name_prefix="aside")
        # For calls whose deadline turns out too short: gRPC reads their message first, which may take its time.
        self._refusals = ThreadPoolExecutor(1, thread_name_prefix="refusals")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs a refusal at once, and hands over every other call."""
        door = self._door
        ours, refused, ticket = door.ours, door.refused, door.ticket
        door.ours = door.refused = False
        if ticket is None:
            if refused:
                fn(*args, **kwargs)
                return _ENDED  # type: ignore[no-any-return]
            return (self._inner if ours else self._aside).submit(fn, *args, **kwargs)
        door.ticket = None
        left_s = _left_s(args)
        executor = self._refusals if left_s is not None and not ticket.can_wait(left_s) else self._inner
        door.lane = ticket.lane
        try:
            return executor.submit(_run, ticket, fn, *args, **kwargs)
        except BaseException:
            ticket.done()
            raise
        finally:
            door.lane = None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor.shutdown`."""
        self._inner.shutdown(wait, cancel_futures=cancel_futures)
        self._aside.shutdown(wait, cancel_futures=cancel_futures)
        self._refusals.shutdown(wait, cancel_futures=cancel_futures)


def _run(ticket: Ticket, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        fn(*args, **kwargs)
    finally:
        # Also for a call whose caller went away before its turn, of which the handler never hears.
        ticket.done()


def _left_s(args: tuple[Any, ...]) -> float | None:
    """Seconds until the deadline of a call that is handed over; None without one. gRPC tells it to the handler only,
    but what it hands over knows it; where that should change, the handler's own check is what remains."""
    try:
        deadline_s = float(args[1].call_details.deadline)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    left_s = deadline_s - time.time()
    return left_s if left_s < 86_400 else None
