"""Single decisions, answered by gRPC's own serving thread: all that have arrived by now, together.

gRPC's threaded server hands every call from its serving thread to another thread and back, several times, and each time
the two contend for the interpreter. A decision is short, so here the serving thread itself takes the calls that have
come, decides them as one group (one read, shared runs, one write), sends the answers, and looks again. A lone call is
a group of one and waits for nobody; while a group is decided, the next one gathers.

Whatever may wait long stays with the pool of threads: calls of all other methods, a request that another call is
deciding right now, and whole groups while the store or the disk is slow (`_Pace`), so that health and all else are
answered meanwhile.

This reaches into `grpc._server`, which is no public interface. `can_serve` says whether the release at hand is one that
it was tested with; with any other, decisions run on the pool like everything else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NoReturn, cast

import grpc
from grpc import _server as grpc_server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from engine.admission.gate import Gate, Refused
from engine.decider.claim import Claim
from engine.errors import Refusal
from engine.rpc.observe import Scope, tenant_of
from engine.rpc.servicer import SERVICE, DecisionServicer
from engine.rpc.status import code_of, status_of
from engine.rpc.tickets import Sayings
from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.context import from_metadata

_log = logging.getLogger("assay.server")
METHOD = f"/{SERVICE}/Decide"
PRIORITY_HEADER = "assay-priority"
# Releases of grpcio whose inner parts are known to be as they are used here.
_TESTED = ("1.85.",)
# Calls that gRPC may hand over without asking in between.
_SLOTS = 32
# The largest group: more would keep the first of it waiting for longer than it saves.
_GROUP_MAX = 32
# With a gate, what has come is let in or refused before a group is decided, or it would wait unseen; so many events are
# looked at in a row, lest a flood keep those that are in from being answered.
_LOOKS_MAX = 256
_FLAGS = 0
_tick_ns = time.perf_counter_ns


def can_serve() -> bool:
    """Whether the gRPC at hand is one that this works with."""
    return grpc.__version__.startswith(_TESTED)


class _Slot:
    """A place for a call that gRPC has not handed over yet: the tag of the request for it."""

    __slots__ = ()


class _Aborted(Exception):
    """A call was ended with a status."""


class _Call:
    """One call; what `Scope` and the servicer know as its context, as far as they use one."""

    __slots__ = (
        "_direct", "call", "claim", "code", "content", "deadline_s", "details", "event", "metadata", "received_ns",
        "scope", "ticket", "trailing",
    )  # fmt: skip

    def __init__(self, event: Any, direct: DirectCalls) -> None:
        self.event, self._direct, self.call = event, direct, event.call
        self.metadata = event.invocation_metadata
        self.deadline_s: float = event.call_details.deadline
        self.received_ns = 0
        self.content: bytes | None = None
        self.ticket: Any = None
        self.scope: Scope | None = None
        self.claim: Claim | None = None
        self.code, self.details = 0, b""
        self.trailing: Any = None

    # --- what grpc.ServicerContext has ---

    def time_remaining(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline_s - time.time(), 0.0)

    def invocation_metadata(self) -> Any:
        """The caller's metadata."""
        return self.metadata

    def set_trailing_metadata(self, trailing: Any) -> None:
        """What goes with the status."""
        self.trailing = trailing

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call with this status."""
        self.code, self.details = code.value[0], details.encode()
        raise _Aborted

    # --- tags of completion events: gRPC calls the tag with its event ---

    def on_message(self, event: Any) -> tuple[None, tuple[()]]:
        """The request has come, or the caller went away before it had."""
        self._direct.received(self, event.batch_operations[0].message())
        return None, ()

    def on_sent(self, _: Any) -> tuple[Any, tuple[()]]:
        """The status is out, or the caller is gone; either way it is over. gRPC forgets what is given."""
        self._direct.ended(self)
        return self, ()

    def answer(self, content: bytes | None) -> None:
        """Sends the answer and the status. Any thread may."""
        operations: list[Any] = [
            cygrpc.SendInitialMetadataOperation(None, _FLAGS),
            cygrpc.SendStatusFromServerOperation(self.trailing, self.code, self.details, _FLAGS),
            cygrpc.ReceiveCloseOnServerOperation(_FLAGS),
        ]
        if content is not None:
            operations.append(cygrpc.SendMessageOperation(content, _FLAGS))
        self.call.start_server_batch(operations, self.on_sent)


class _Pace:
    """Whether groups wait for something slow: the store, the disk. Then they belong on threads of their own.

    Measured as time that passed without being used, smoothed; two marks apart, so that it does not flutter. A group
    that worked for longer than it waited has waited for the processor, or for little; on a thread it would be no sooner
    done.
    """

    _SLOW_S, _QUICK_S, _WEIGHT = 0.003, 0.0015, 0.1

    def __init__(self) -> None:
        self.slow = False
        self._waited_s = 0.0

    def note(self, waited_s: float, worked_s: float) -> None:
        """What a group waited, and worked."""
        if waited_s < worked_s:
            waited_s = 0.0
        # One standstill of the machine says nothing about the store.
        self._waited_s += (min(waited_s, 0.02) - self._waited_s) * self._WEIGHT
        self.slow = self._waited_s > (self._QUICK_S if self.slow else self._SLOW_S)


class DirectCalls:
    """Serves Decide in the serving thread of a `grpc.server`. groups_max: how many groups may be under way on threads
    while the store is slow."""

    def __init__(
        self,
        server: Any,
        servicer: DecisionServicer,
        threads: Executor,
        gate: Gate | None,
        concurrent_max: int,
        groups_max: int = 4,
    ) -> None:
        self._state = server._state
        self._servicer, self._observer, self._threads, self._gate = servicer, servicer.observer, threads, gate
        self._concurrent_max, self._groups_max = concurrent_max, groups_max
        self._lock = threading.Lock()
        self._ready: deque[_Call] = deque()
        self._groups = 0
        self._pace, self._sayings = _Pace(), Sayings()
        server._cy_server.register_method(METHOD)

    @property
    def waiting(self) -> int:
        """Calls that wait to be decided."""
        return len(self._ready)

    def start(self) -> None:
        """Starts the server, as `grpc.Server.start` does."""
        state = self._state
        with state.lock:
            if state.stage is not grpc_server._ServerStage.STOPPED:
                raise ValueError("the server was started before")
            state.server.start()
            state.stage = grpc_server._ServerStage.STARTED
            for _ in range(_SLOTS):
                self._request(_Slot())
            for method in state.registered_method_handlers:
                grpc_server._request_registered_call(state, method)
            grpc_server._request_call(state)
            threading.Thread(target=self._serve, name="serving", daemon=True).start()

    # --- the serving thread -------------------------------------------------------------------------------------------

    def _request(self, slot: _Slot) -> None:
        state = self._state
        state.server.request_registered_call(state.completion_queue, state.completion_queue, METHOD, slot)
        state.due.add(slot)

    def _serve(self) -> None:
        """Takes events until there is none, then decides what has come, until the server has ended."""
        state = self._state
        poll, no_event = state.completion_queue.poll, cygrpc.CompletionType.queue_timeout
        looks, looks_max = 0, _GROUP_MAX if self._gate is None else _LOOKS_MAX
        while True:
            # While threads are at work on what has come, they go on to what comes next.
            urgent = self._ready and not (self._pace.slow and self._groups)
            event = poll(0.0 if urgent else time.time() + 1.0)
            if state.server_deallocated:
                grpc_server._begin_shutdown_once(state)
            quiet = event.completion_type == no_event
            if not quiet and not self._handle(event):
                return
            # The event holds its call; gRPC wants it let go before the next poll.
            event = None
            looks += 1
            if self._ready and (quiet or looks >= looks_max or self._pace.slow):
                self._decide()
                looks = 0

    def _handle(self, event: Any) -> bool:
        """One event. False once the server has ended."""
        slot = event.tag
        if not isinstance(slot, _Slot):
            return bool(grpc_server._process_event_and_continue(self._state, event))
        state = self._state
        with state.lock:
            state.due.remove(slot)
            if event.success:
                call = _Call(event, self)
                state.rpc_states.add(call)
                crowded = state.active_rpc_count >= self._concurrent_max
                state.active_rpc_count += 1
            if state.stage is grpc_server._ServerStage.STARTED:
                self._request(slot)
            elif grpc_server._stop_serving(state):
                return False
        if event.success:
            try:
                self._arrived(call, crowded)
            except Exception as error:
                self._refuse(call, error)
        return True

    def _arrived(self, call: _Call, crowded: bool) -> None:
        """A call has come, its message not yet."""
        gate, servicer = self._gate, self._servicer
        if crowded:
            raise Refusal("OVERLOADED", "More calls are under way than the server takes; retry shortly.")
        if gate is not None and not servicer.draining:
            lane: Any = "interactive"
            for name, value in call.metadata:
                if name == PRIORITY_HEADER and value == "batch":
                    lane = "batch"
            header = self._observer.tenant_header
            found = gate.arrive(lane, tenant_of(header, call.metadata) if header else "", 1)
            if isinstance(found, Refused):
                self._turn_away(call, found)
                return
            call.ticket = found
            left_s = call.deadline_s - time.time()
            if left_s < 86_400 and not found.can_wait(left_s) and found.refused is not None:
                self._turn_away(call, found.refused)
                return
        call.call.start_server_batch((cygrpc.ReceiveMessageOperation(_FLAGS),), call.on_message)

    def _turn_away(self, call: _Call, refused: Refused) -> None:
        """Refuses a call for which there is no room, no time or no quota. There may be many of them: their answers are
        kept ready."""
        said, observer = self._sayings.of(refused), self._observer
        call.code, call.details, call.trailing = said.number, said.details, said.trailing
        trace_id = from_metadata(call.metadata).trace_id.hex() if observer.access_log else ""
        observer.refused("Decide", said.reason, said.code.name, refused.why, trace_id)
        call.answer(None)

    def received(self, call: _Call, content: bytes | None) -> None:
        """A call's message has come; None: the caller went away, or sent none."""
        if content is None:
            call.code, call.details = grpc.StatusCode.UNIMPLEMENTED.value[0], b"There was no request message."
            call.answer(None)
            return
        call.content, call.received_ns = content, _tick_ns()
        self._observer.begin()
        with self._lock:
            self._ready.append(call)

    def ended(self, call: _Call) -> None:
        """A call is over."""
        if call.ticket is not None:
            call.ticket.done()
        with self._state.lock:
            self._state.active_rpc_count -= 1

    # --- groups -------------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Decides what has come: here, or on threads while that takes long."""
        if self._pace.slow:
            with self._lock:
                if self._groups >= self._groups_max:
                    return
                self._groups += 1
            self._threads.submit(self._decide_aside)
        else:
            self._decide_group(self._take())

    def _decide_aside(self) -> None:
        """Decides groups on a thread until nothing is left."""
        while True:
            with self._lock:
                if not self._ready:
                    self._groups -= 1
                    return
            self._decide_group(self._take())

    def _take(self) -> list[_Call]:
        with self._lock:
            ready = self._ready
            return [ready.popleft() for _ in range(min(len(ready), _GROUP_MAX))]

    def _decide_group(self, calls: Sequence[_Call]) -> None:
        """Decides a group and answers it. Never raises: the thread is everybody's."""
        began_s, used_s = time.perf_counter(), time.thread_time()
        try:
            group = [call for call in calls if self._open(call)]
            if len(group) == 1:
                self._turn_to(group[0])
            claims = {call.claim: call for call in group if call.claim is not None}
            for claim in self._servicer.begin(list(claims)) if claims else ():
                self._threads.submit(self._decide_later, claims.pop(claim))
            todo = [claim for claim in claims if claim.result is None]
            if todo:
                self._servicer.finish(todo)
            for call in claims.values():
                self._answer(call)
        except Exception:
            # Nothing above is known to raise. Their callers' deadlines end these calls.
            _log.exception("a group of calls was not answered")
        worked_s = time.thread_time() - used_s
        self._pace.note(time.perf_counter() - began_s - worked_s, worked_s)

    def _open(self, call: _Call) -> bool:
        """Whether a call can go on; one that cannot is answered."""
        waited_ns = _tick_ns() - call.received_ns
        try:
            # It has what `Scope` asks of a context.
            context = cast(grpc.ServicerContext, call)
            scope = call.scope = Scope(self._observer, "Decide", shapes.DECIDE, context, call.ticket, waited_ns)
            scope.pause()
            scope.check_tenant()
            scope.check_begin()
            assert call.content is not None
            call.claim = self._servicer.open(call.content, scope)
        except BaseException as error:
            self._fail(call, error)
            return False
        return True

    def _turn_to(self, call: _Call) -> None:
        if call.scope is not None:
            call.scope.resume(within=True)

    def _decide_later(self, call: _Call) -> None:
        """Decides, on a thread, what another call is deciding at this moment."""
        assert call.content is not None
        assert call.scope is not None
        self._turn_to(call)
        try:
            found = self._servicer.decide(call.content, call.scope)
        except BaseException as error:
            self._fail(call, error)
            return
        self._succeed(call, found)

    def _answer(self, call: _Call) -> None:
        assert call.claim is not None
        result = call.claim.result
        if isinstance(result, bytes):
            self._succeed(call, self._servicer.decided(result))
        else:
            self._fail(call, result or AssertionError("a claim without a result"))

    def _succeed(self, call: _Call, content: bytes) -> None:
        assert call.scope is not None
        try:
            call.scope.resume()
            call.scope.end()
        except Exception as error:
            self._fail(call, error)
            return
        self._observer.over()
        if call.ticket is not None:
            call.ticket.answered = True
        call.answer(content)

    def _fail(self, call: _Call, error: BaseException) -> None:
        """Ends a call that was begun with the status of an error."""
        try:
            if call.scope is None:
                self._status(call, error)
            else:
                call.scope.resume()
                call.scope.fail(error)
        except _Aborted:
            pass
        except Exception as another:
            self._status(call, another)
        self._observer.over()
        call.answer(None)

    def _refuse(self, call: _Call, error: Exception) -> None:
        """Ends a call that was not let in."""
        self._status(call, error)
        metadata = error.metadata if isinstance(error, Refusal) else {}
        reason = error.reason if isinstance(error, Refusal) else "INTERNAL"
        trace_id = from_metadata(call.metadata).trace_id.hex()
        self._observer.refused("Decide", reason, code_of(reason).name, metadata.get("cause"), trace_id)
        call.answer(None)

    def _status(self, call: _Call, error: BaseException) -> None:
        status = status_of(error)
        call.code, call.details = status.code, status.message.encode()
        call.trailing = (("grpc-status-details-bin", status.SerializeToString()),)
