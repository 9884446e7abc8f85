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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.domain.facts import Row
from engine.errors import RecordError, RequestError
from engine.labels import Labels
from engine.pipeline import Conclusion
from engine.plan import BundlePlan
from engine.record.build import Parts, build_answer, build_parts, record_origin
from engine.telemetry.counters import Counters
from engine.traffic.carry import Carrier, Learn
from engine.traffic.compare import Pair, Tally, merged, tally_of
from engine.traffic.serving import Serving, ShadowArm

_log = logging.getLogger("assay.shadow")
_PAIRS_MAX = 256
_REST_MAX_S = 1.0


class Deciding(Protocol):
    """A bundle in service, as far as a shadow is concerned. `engine.served.Served` is one."""

    @property
    def plan(self) -> BundlePlan:
        """What decides."""

    @property
    def labels(self) -> Labels:
        """What its records carry."""


class Answered(Protocol):
    """An answer that is recorded and stands, and what it was made of. `engine.decider.Answered` is one."""

    @property
    def request(self) -> DecideRequest:
        """What was asked."""

    @property
    def serving(self) -> Any:
        """What the call decided with."""

    @property
    def arm(self) -> Any:
        """Who answered."""

    @property
    def conclusion(self) -> Conclusion:
        """What it came to."""

    @property
    def rows(self) -> Sequence[Row]:
        """One for each of its reads."""

    @property
    def decision_id(self) -> str:
        """The id of the answer."""

    @property
    def payload_digest(self) -> bytes:
        """Of the request."""

    @property
    def trace_id(self) -> str:
        """Of the call."""


class RecordShadow(Protocol):
    """Writes a challenger's record to the journal; `engine.record.log.DecisionLog.append_shadow` does."""

    def __call__(self, decision_id: str, record: bytes, personal: bytes, subject: str) -> object:
        """decision_id: of the decision that was answered. Raises RecordError."""


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

    learn: of the reader that reads rows for answers.
    """

    def __init__(
        self,
        record: RecordShadow,
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

    def offer(self, answered: Answered) -> None:
        """Hands an answer to the flow's shadows, if there are any that take the subject. Never waits, never fails."""
        serving = answered.serving
        if type(serving) is not Serving or not serving.shadows:
            return
        prepared = answered.conclusion.prepared
        shadows = serving.shadows.get(prepared.flow.name)
        if shadows is None or self._stopped.is_set():
            return
        subject_id = prepared.application.entity_ids[0] or ""
        taken = [shadow for shadow in shadows if shadow.sample.takes(subject_id)]
        if not taken:
            return
        if len(self._queue) >= self._settings.queue_max:
            with self._lock:
                self._dropped += 1
            self._counters.add("shadow_dropped")
            return
        self._queue.append(_Waiting(answered, taken))
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
            tally = self._tally(Pair(flow, shadow.name, shadow.bundle, answered.arm.bundle), answered.conclusion.now_us)
        try:
            conclusion, by_name = self._carrier.decide(
                served.plan, answered.request, answered.conclusion, answered.rows
            )
            record, personal = shadow_record(served, answered, conclusion, shadow.name)
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
        recorded = self._recorded(answered, record, personal)
        with self._lock:
            tally.add(answered.conclusion, conclusion, answered.decision_id)
            tally.by_name += by_name
            tally.unrecorded += not recorded
        self._counters.add("shadow_decided", shadow=shadow.name)

    def _recorded(self, answered: Answered, record: bytes, personal: bytes) -> bool:
        subject = answered.conclusion.prepared.application.entity_ids[0] or ""
        try:
            self._record(answered.decision_id, record, personal, subject)
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


def shadow_record(served: Deciding, answered: Answered, conclusion: Conclusion, shadow: str) -> tuple[bytes, bytes]:
    """A challenger's record in its open and its personal part, like a decision's: under the id of the decision that was
    answered, which it names, with the shadow's name for its arm."""
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
    answer = build_answer(labels, parts, answered.decision_id, answered.trace_id, time.perf_counter_ns())
    application = answered.request.application.SerializeToString(deterministic=True)
    origin = record_origin(arm=shadow, shadow_of=answered.decision_id)
    return build_parts(labels, parts, answer, application, answered.payload_digest, origin)


def shadow_report(states: Sequence[Mapping[str, Any]], flow: str = "") -> tuple[dict[Pair, Tally], int]:
    """What shadows of all processes have seen, by pair, and how many answers were dropped. flow: only this one."""
    parts = [[(Pair(*pair), tally_of(plain)) for pair, plain in state.get("tallies", ())] for state in states]
    found = {pair: tally for pair, tally in merged(parts).items() if not flow or pair.flow == flow}
    return found, sum(int(state.get("dropped", 0)) for state in states)
