"""Clients that ask a server for decisions without a pause, and remember all that they were told."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import grpc

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import consumer
from tests.support.errors import Failure, failure_of, failure_of_status
from tests.support.server import Client

Kind = Literal["decide", "batch", "stream"]
TIMEOUT_S = 100.0
_BATCH = 6
_IN_FLIGHT = 6


@dataclass(frozen=True, slots=True)
class Told:
    """A decision that a client was given. call: the number of the call that gave it, also for all items of a batch."""

    kind: Kind
    call: int
    request: pb.DecideRequest
    decision: decision_pb2.Decision
    began_s: float
    took_s: float


class Load:
    """Threads that ask, each on a connection of its own, from the beginning of the block to its end.

    make: gives a request that nobody made before; several threads call it. told: every decision that was given, in
    turn; failed: every error, of a call or an item, with its requests. A thread whose call fails goes on after a short
    rest, or ends where `once_failed` says so.
    """

    def __init__(
        self,
        address: str,
        make: Callable[[], pb.DecideRequest],
        kinds: Sequence[Kind] = ("decide", "decide", "decide", "batch"),
        *,
        once_failed: Literal["end", "go on"] = "go on",
        rest_s: float = 0.0,
    ) -> None:
        self.told: list[Told] = []
        self.failed: list[tuple[Failure, Sequence[pb.DecideRequest]]] = []
        self._make, self._ends, self._rest_s = make, once_failed == "end", rest_s
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._calls = 0
        self._counts: Counter[str] = Counter()
        self._clients = [Client(address) for _ in kinds]
        run = {"decide": self._decide, "batch": self._batch, "stream": self._stream}
        self._threads = [
            threading.Thread(target=self._run, args=(run[kind], client))
            for kind, client in zip(kinds, self._clients, strict=True)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it, each thread after the call that it is in. Harmless when repeated."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        assert not any(thread.is_alive() for thread in self._threads), "a call never came back"
        for client in self._clients:
            client.close()

    def wait(self, further: int = 1, kinds: Sequence[Kind] = ()) -> None:
        """Waits until so many more decisions were given, or so many more by each of `kinds`."""

        with self._changed:
            wanted = {kind: self._counts[kind] + further for kind in kinds or ("all",)}
            reached = self._changed.wait_for(
                lambda: all(self._counts[kind] >= want for kind, want in wanted.items()), TIMEOUT_S
            )
        assert reached, f"too few answers; errors: {self.failed[-3:]}"

    def wait_failed(self, further: int = 1) -> None:
        """Waits until so many more calls failed."""
        with self._changed:
            wanted = len(self.failed) + further
            reached = self._changed.wait_for(lambda: len(self.failed) >= wanted, TIMEOUT_S)
        assert reached, f"only {len(self.failed)} calls failed"

    def _run(self, ask: Callable[[Client], bool], client: Client) -> None:
        while not self._stop.is_set():
            if not ask(client):
                if self._ends:
                    return
                self._stop.wait(0.05)
            elif self._rest_s:
                self._stop.wait(self._rest_s)

    def _decide(self, client: Client) -> bool:
        request, began_s, call = self._make(), time.monotonic(), self._number()
        try:
            answer = client.stub.Decide(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return self._fail(failure_of(error), [request])
        self._tell(Told("decide", call, request, answer.decision, began_s, time.monotonic() - began_s))
        return True

    def _batch(self, client: Client) -> bool:
        requests, began_s, call = [self._make() for _ in range(_BATCH)], time.monotonic(), self._number()
        try:
            answer = client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return self._fail(failure_of(error), requests)
        took_s, well = time.monotonic() - began_s, True
        for request, item in zip(requests, answer.items, strict=True):
            if item.HasField("decision"):
                self._tell(Told("batch", call, request, item.decision, began_s, took_s))
            else:
                well = self._fail(failure_of_status(item.error), [request])
        return well

    def _stream(self, client: Client) -> bool:
        """One stream until the end, with a few requests under way."""
        asked: queue.SimpleQueue[pb.DecideStreamRequest | None] = queue.SimpleQueue()
        waiting: dict[str, tuple[pb.DecideRequest, float]] = {}

        def ask() -> None:
            request = self._make()
            waiting[request.request_id] = request, time.monotonic()
            asked.put(pb.DecideStreamRequest(request=request))

        def requests() -> Iterator[pb.DecideStreamRequest]:
            while (message := asked.get()) is not None:
                yield message

        for _ in range(_IN_FLIGHT):
            ask()
        well = True
        try:
            for answer in client.stub.DecideStream(requests(), timeout=10 * TIMEOUT_S):
                request, began_s = waiting.pop(answer.request_id)
                if answer.HasField("decision"):
                    took_s = time.monotonic() - began_s
                    self._tell(Told("stream", self._number(), request, answer.decision, began_s, took_s))
                else:
                    well = self._fail(failure_of_status(answer.error), [request])
                if not self._stop.is_set():
                    ask()
                elif not waiting:
                    asked.put(None)
        except grpc.RpcError as error:
            asked.put(None)
            return self._fail(failure_of(error), [request for request, _ in waiting.values()])
        assert not waiting, "requests of a stream that ended were not answered"
        return well

    def _number(self) -> int:
        with self._changed:
            self._calls += 1
            return self._calls

    def _tell(self, told: Told) -> None:
        with self._changed:
            self.told.append(told)
            self._counts.update((told.kind, "all"))
            self._changed.notify_all()

    def _fail(self, failure: Failure, requests: Sequence[pb.DecideRequest]) -> bool:
        with self._changed:
            self.failed.append((failure, requests))
            self._changed.notify_all()
        return False


def as_given(decision: decision_pb2.Decision, *, replayed: bool) -> decision_pb2.Decision:
    """The decision as a repeated request is to give it, or as it was first given."""
    copy = decision_pb2.Decision()
    copy.CopyFrom(decision)
    copy.replayed = replayed
    return copy


def applications_of(client: Client, device: str) -> float:
    """How many earlier applications from a device the next one is told of. It counts itself."""
    request = consumer()
    for entity in request.application.entities:
        if entity.entity == "device":
            entity.id = device
    client.stub.Decide(request, timeout=TIMEOUT_S)
    wanted = pb.GetDecisionRequest(request_id=request.request_id, view=pb.DECISION_VIEW_FULL)
    facts = client.stub.GetDecision(wanted, timeout=TIMEOUT_S).record.facts
    (fact,) = (fact for fact in facts if fact.feature == "device_applications_count_24h")
    assert fact.HasField("value"), fact
    return fact.value
