"""Challengers decide behind the answers, on the same facts, and nobody waits for them.

    answer recorded -> offer (a bounded queue: what does not fit is dropped and counted)
                    -> one thread: decide -> record, linked by the answer's decision id -> compare, count

The thread rests after each decision so that it takes a stated share of a core at most, whatever comes: the interpreter
is shared with the calls.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.domain.facts import Row
from engine.errors import RecordError, RequestError
from engine.labels import Labels
from engine.pipeline import Conclusion
from engine.plan import BundlePlan
from engine.record.build import Parts, build_decision, build_record
from engine.record.entries import pack_ids
from engine.telemetry.counters import Counters
from engine.traffic.carry import Carrier, Learn
from engine.traffic.compare import Pair, Tally, merged, tally_of
from engine.traffic.serving import Serving, ShadowArm

_log = logging.getLogger("assay.shadow")
_PAIRS_MAX = 256
_REST_MAX_S = 1.0


class Deciding(Protocol):
    """A bundle in service, as far as a shadow is concerned. `engine.decider.Served` is one."""

    @property
    def plan(self) -> BundlePlan:
        """What decides."""

    @property
    def labels(self) -> Labels:
        """What its records carry."""


class Answered(NamedTuple):
    """An answer that was recorded, and what it was made of. bundle: the digest of the one that answered; rows: one for
    each of its reads; payload_digest: of the request; trace_id: of the call."""

    request: DecideRequest
    conclusion: Conclusion
    rows: Sequence[Row]
    bundle: str
    decision_id: str
    payload_digest: bytes
    trace_id: str


class _Waiting(NamedTuple):
    answered: Answered
    shadows: Sequence[ShadowArm[Any]]


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """queue_max: answers that may wait; cpu_share: the greatest share of one core that shadows take, above 0 to 1."""

    queue_max: int = 256
    cpu_share: float = 0.25


class ShadowRunner:
    """Threads may offer at once; its own thread starts with the first offer that a shadow takes.

    record: writes a frame of kind SHADOW to the journal; raises RecordError. learn: of the reader that reads rows.
    """

    def __init__(
        self,
        record: Callable[[bytes], object],
        settings: ShadowSettings | None = None,
        counters: Counters | None = None,
        learn: Learn | None = None,
    ) -> None:
        self._record, self._settings = record, settings or ShadowSettings()
        self._counters, self._carrier = counters or Counters(), Carrier(learn)
        self._queue: deque[_Waiting] = deque()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._idle = True
        self._tallies: dict[Pair, Tally] = {}
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def offer(self, serving: Serving[Any], flow: str, subject_id: str, make: Callable[[], Answered]) -> None:
        """Hands an answer to the flow's shadows, if there are any that take the subject. Never waits, never fails.

        serving: what the call took at its start. make: called only where there is a shadow.
        """
        shadows = serving.shadows.get(flow)
        if shadows is None or self._stopped.is_set():
            return
        taken = [shadow for shadow in shadows if shadow.sample.takes(subject_id)]
        if not taken:
            return
        if len(self._queue) >= self._settings.queue_max:
            with self._lock:
                self._dropped += 1
            self._counters.add("shadow_dropped")
            return
        self._queue.append(_Waiting(make(), taken))
        self._wake.set()
        if self._thread is None:
            self._start()

    @property
    def depth(self) -> int:
        """Answers that wait."""
        return len(self._queue)

    def settle(self, timeout_s: float = 10.0) -> bool:
        """Waits until all that was offered is decided; False when that takes longer."""
        end_s = time.monotonic() + timeout_s
        while self._queue or not self._idle:
            if time.monotonic() >= end_s:
                return False
            time.sleep(0.005)
        return True

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends after the decision under way. What waits is let go: it is answered already. Harmless when repeated."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._queue.clear()

    def state(self) -> Mapping[str, Any]:
        """What was compared, as plain data, for other processes."""
        with self._lock:
            tallies = [[list(pair), tally.plain()] for pair, tally in self._tallies.items()]
            return {"dropped": self._dropped, "tallies": tallies} if tallies or self._dropped else {}

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        share = self._settings.cpu_share
        while not self._stopped.is_set():
            if not self._queue:
                self._wake.clear()
                if not self._queue:
                    self._wake.wait(1.0)
                    continue
            # Not idle before the queue is shorter, for who waits until all is done.
            self._idle = False
            begun_s = time.thread_time()
            waiting = self._queue.popleft()
            for shadow in waiting.shadows:
                self._decide(waiting.answered, shadow)
            del waiting
            self._idle = not self._queue
            used_s = time.thread_time() - begun_s
            if share < 1.0:
                self._stopped.wait(min(_REST_MAX_S, used_s * (1.0 / share - 1.0)))

    def _decide(self, answered: Answered, shadow: ShadowArm[Any]) -> None:
        flow = answered.conclusion.prepared.flow.name
        served: Deciding = shadow.served
        with self._lock:
            tally = self._tally(Pair(flow, shadow.name, shadow.bundle, answered.bundle), answered.conclusion.now_us)
        try:
            conclusion, by_name = self._carrier.decide(
                served.plan, answered.request, answered.conclusion, answered.rows
            )
            payload = shadow_payload(served, answered, conclusion, shadow.name)
        except RequestError:
            with self._lock:
                tally.refused += 1
            return
        except Exception:
            with self._lock:
                tally.failed += 1
                first = tally.failed == 1
            self._counters.add("shadow_failed", shadow=shadow.name)
            if first:
                _log.exception(
                    "a shadow cannot decide what was answered; the next ones are counted",
                    extra={"decision_id": answered.decision_id, "shadow": shadow.name, "bundle": shadow.bundle},
                )
            return
        recorded = self._recorded(payload)
        with self._lock:
            tally.add(answered.conclusion, conclusion, answered.decision_id)
            tally.by_name += by_name
            tally.unrecorded += not recorded
        self._counters.add("shadow_decided", shadow=shadow.name)

    def _recorded(self, payload: bytes) -> bool:
        try:
            self._record(payload)
        except RecordError as error:
            if self._counters.get("shadow_unrecorded") == 0:
                _log.warning("a shadow's decision cannot be recorded: %s", error)
            self._counters.add("shadow_unrecorded")
            return False
        return True

    def _tally(self, pair: Pair, now_us: int) -> Tally:
        tally = self._tallies.get(pair)
        if tally is None:
            if len(self._tallies) >= _PAIRS_MAX:
                del self._tallies[next(iter(self._tallies))]
            tally = self._tallies[pair] = Tally(since_us=now_us)
        return tally


def shadow_payload(served: Deciding, answered: Answered, conclusion: Conclusion, shadow: str) -> bytes:
    """A challenger's record as the journal keeps it: laid out like a decision's, under the id of the decision that was
    answered. Application and facts are not in it: they are in that decision's own record, where they can be erased."""
    prepared = conclusion.prepared
    labels = served.labels.flows[prepared.flow.name]
    parts = Parts(
        prepared.application,
        conclusion.facts,
        conclusion.scores,
        conclusion.outcome,
        conclusion.reasons,
        conclusion.now_us,
        prepared.marks,
    )
    decision = build_decision(labels, parts, answered.decision_id, answered.trace_id, time.perf_counter_ns())
    record = DecisionRecord.FromString(build_record(labels, parts, decision, b"", answered.payload_digest))
    record.ClearField("application")
    record.ClearField("packed_facts")
    key = f"shadow\0{shadow}".encode()
    return pack_ids(key, answered.decision_id, answered.payload_digest) + record.SerializeToString()


def shadow_report(states: Sequence[Mapping[str, Any]], flow: str = "") -> tuple[dict[Pair, Tally], int]:
    """What shadows of all processes have seen, by pair, and how many answers were dropped. flow: only this one."""
    parts = [[(Pair(*pair), tally_of(plain)) for pair, plain in state.get("tallies", ())] for state in states]
    found = {pair: tally for pair, tally in merged(parts).items() if not flow or pair.flow == flow}
    return found, sum(int(state.get("dropped", 0)) for state in states)
