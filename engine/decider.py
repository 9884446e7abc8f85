"""The shell around the pure middle: it reads the clock, the store and the journal, and hands facts to the pipeline.

    claim the request id -> prepare -> read rows -> conclude -> build -> commit to the journal -> count -> answer

Threads may call it at once. It knows nothing of gRPC.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.clock import Clock, new_decision_id
from engine.domain.facts import Row
from engine.errors import FieldViolation, RecordError, Refusal, RequestError
from engine.feature_reader import FeatureReader
from engine.labels import Labels
from engine.pipeline import Conclusion, Prepared, conclude, conclude_many, prepare
from engine.plan import BundlePlan
from engine.record.build import Parts, build_decision, build_record, not_recorded
from engine.record.keys import request_key
from engine.record.log import Conflict, DecisionLog, Existing, InProgress, Position
from engine.record.read import replayed_decision
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.watch import DecisionWatch, WatchedFlow, Written
from engine.validate import is_id

# How long a concurrent duplicate waits for the first to be decided.
_DUPLICATE_WAIT_S = 5.0
# Moments noted before `conclude`: start, validated, rows read.
_MARKS_BEFORE_CONCLUDE = 3

# Told of a decision that was recorded: what was prepared, the moment of the decision, and where its record stands.
Count = Callable[[Prepared, int, Position], None]


@dataclass(frozen=True, slots=True)
class DeciderSettings:
    """What an operator chooses. on_record_failure: `refuse` the call, or `answer` and say that it is not recorded."""

    on_record_failure: Literal["refuse", "answer"] = "refuse"


@dataclass(frozen=True, slots=True)
class Served:
    """A bundle in service: its plan and the labels that its answers carry. Swapped as one, so that no call ever sees
    half of two bundles."""

    plan: BundlePlan
    labels: Labels
    watched: Mapping[str, WatchedFlow] = field(default_factory=dict)


@dataclass(slots=True)
class _Claim:
    """A request that this call is to decide."""

    request_key: bytes
    payload: bytes
    digest: bytes
    prepared: Prepared


class Asked(NamedTuple):
    """What is known of a call besides its requests. trace_id: 32 hexadecimal digits; deadline_s: the caller's, on
    `time.monotonic()`, None without one; trace: what is noted of the call, None when it is not traced."""

    trace_id: str
    deadline_s: float | None = None
    trace: CallTrace | None = None


class Decider:
    """Decides applications with the bundle in service."""

    def __init__(
        self,
        reader: FeatureReader,
        log: DecisionLog,
        clock: Clock,
        settings: DeciderSettings | None = None,
    ) -> None:
        self._reader, self._log, self._clock = reader, log, clock
        # Told of every decision that was recorded, for the counters that the engine keeps.
        self.count: Count | None = None
        # Told of every decision, for traces and metrics.
        self.watch: DecisionWatch | None = None
        self._settings = settings or DeciderSettings()
        self._served: Served | None = None

    @property
    def plan(self) -> BundlePlan | None:
        """The plan in service, or None."""
        return None if self._served is None else self._served.plan

    def serve(self, served: Served) -> None:
        """Puts a bundle in service: calls that begin from now on use it."""
        for digest, payload in served.labels.catalogues.items():
            self._log.declare_catalogue(digest, payload)
        self._log.declare_environment(served.labels.environment_digest, served.labels.environment)
        self._served = served

    def decide(self, request: DecideRequest, asked: Asked, index: int | None = None) -> bytes:
        """Decides one application; gives the serialised Decision. index: its place in a batch.

        Raises RequestError, Refusal, RecordError.
        """
        served = self._in_service()
        wait_until_s = _wait_until_s(asked.deadline_s)
        while True:
            claim = self._claim(served, request, asked, index)
            if isinstance(claim, bytes):
                return claim
            if claim is not None:
                break
            self._wait(request, wait_until_s)
        try:
            rows = self._reader.read_one(claim.prepared, asked.deadline_s)
            claim.prepared.marks.append(self._clock.tick_ns())
            concluded = self._conclude(claim.prepared, rows, self._clock.now_us())
            return self._answer(served, claim, concluded, asked, index)
        except BaseException:
            self._log.abandon(claim.request_key)
            raise

    def decide_many(self, requests: Sequence[DecideRequest], asked: Asked) -> list[bytes | Exception]:
        """Decides many applications with one read and shared runs; an item at fault harms no other. Gives the
        serialised Decision of each, or its error, in order.

        Requests that another call is deciding right now are waited for last, after this call has answered its own, so
        that two batches with the same requests never wait for one another.
        """
        served = self._in_service()
        results: dict[int, bytes | Exception] = {}
        claims: dict[int, _Claim] = {}
        elsewhere: list[int] = []
        first_index: dict[str, int] = {}
        try:
            for index, request in enumerate(requests):
                first = first_index.setdefault(request.request_id, index)
                if first != index and request.request_id:
                    results[index] = _duplicate(request.request_id, first)
                    continue
                try:
                    claim = self._claim(served, request, asked, index)
                except Exception as error:
                    results[index] = error
                    continue
                if claim is None:
                    elsewhere.append(index)
                elif isinstance(claim, bytes):
                    results[index] = claim
                else:
                    claims[index] = claim
            if claims:
                self._decide_claims(served, claims, results, asked)
        finally:
            for index, claim in claims.items():
                if not isinstance(results.get(index), bytes):
                    self._log.abandon(claim.request_key)
        for index in elsewhere:
            try:
                results[index] = self.decide(requests[index], asked, index)
            except Exception as error:
                results[index] = error
        return [results[index] for index in range(len(requests))]

    def refused(self, word: str, trace: CallTrace | None, index: int) -> None:
        """An item of a batch was refused. word: its ErrorReason."""
        if self.watch is not None:
            self.watch.refused(word, self._clock.tick_ns(), trace, index)

    def _in_service(self) -> Served:
        if self._served is None:
            raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
        return self._served

    def _claim(self, served: Served, request: DecideRequest, asked: Asked, index: int | None) -> _Claim | bytes | None:
        """Makes the request's id this call's own and checks the request. Gives the answer that was given before, if
        there is one (also when the bundle in service would no longer take the request), and None while another call
        is deciding the same request."""
        if asked.deadline_s is not None and time.monotonic() >= asked.deadline_s:
            raise Refusal("DEADLINE_TOO_SHORT", "The deadline had passed before the decision began; allow more time.")
        now_us, tick = self._clock.now_us(), self._clock.tick_ns
        start = tick()
        if not is_id(request.request_id):
            prepare(served.plan, request, now_us, tick, start)  # refuses it, with all else that is at fault
            raise AssertionError("a request without an id was taken")
        key = request_key("", request.request_id)
        payload = request.application.SerializeToString(deterministic=True)
        digest = hashlib.sha256(payload).digest()
        claimed = self._log.claim(key, digest)
        if isinstance(claimed, Existing):
            stored = self._log.get_by_request_key(key)
            if stored is None:
                raise Refusal("RECORD_FAILED", "The stored decision cannot be read; retry shortly.")
            decision = replayed_decision(stored.record)
            if self.watch is not None:
                self.watch.replayed(decision, start, asked.trace, index)
            return decision.SerializeToString()
        if isinstance(claimed, Conflict) and not claimed.decision_id:
            return None  # another call holds the id with another payload; whether it keeps it is not known yet
        if isinstance(claimed, Conflict):
            raise Refusal(
                "REQUEST_ID_REUSED",
                "This request id was used before with another application; use a new request id.",
                {"request_id": request.request_id, "decision_id": claimed.decision_id},
            )
        if isinstance(claimed, InProgress):
            return None
        try:
            return _Claim(key, payload, digest, prepare(served.plan, request, now_us, tick, start))
        except BaseException:
            self._log.abandon(key)
            raise

    def _wait(self, request: DecideRequest, until_s: float) -> None:
        """Waits for another call that is deciding the same request."""
        if not self._log.wait(request_key("", request.request_id), max(0.0, until_s - time.monotonic())):
            raise Refusal(
                "DECISION_IN_PROGRESS",
                "The same request is being decided by another call; retry shortly with the same request id.",
                {"request_id": request.request_id},
            )

    def _decide_claims(
        self,
        served: Served,
        claims: Mapping[int, _Claim],
        results: dict[int, bytes | Exception],
        asked: Asked,
    ) -> None:
        """Decides the claims of a batch, flow by flow, into `results`."""
        if asked.trace is not None:
            asked.trace.sharing = len(claims)
        read = self._reader.read_many([c.prepared for c in claims.values()], asked.deadline_s)
        rows = dict(zip(claims, read, strict=True))
        by_flow: dict[str, list[int]] = {}
        for index, claim in claims.items():
            claim.prepared.marks.append(self._clock.tick_ns())
            by_flow.setdefault(claim.prepared.flow.name, []).append(index)
        now_us = self._clock.now_us()
        for indices in by_flow.values():
            for index, first in self._conclude_each(indices, claims, rows, now_us):
                concluded = first
                if isinstance(first, Conclusion) and first.facts.faults:
                    concluded = self._again(first, rows[index], now_us)
                if isinstance(concluded, Exception):
                    results[index] = concluded
                    continue
                try:
                    results[index] = self._answer(served, claims[index], concluded, asked, index)
                except Exception as error:
                    results[index] = error

    def _conclude_each(
        self, indices: Sequence[int], claims: Mapping[int, _Claim], rows: Mapping[int, list[Row]], now_us: int
    ) -> list[tuple[int, Conclusion | Exception]]:
        """Concludes items of one flow together; should that fail, one by one, so that the one at fault stands alone."""
        tick = self._clock.tick_ns
        prepared = [claims[i].prepared for i in indices]
        try:
            return list(zip(indices, conclude_many(prepared, [rows[i] for i in indices], now_us, tick), strict=True))
        except Exception as error:
            for one in prepared:
                del one.marks[_MARKS_BEFORE_CONCLUDE:]
            if len(indices) == 1:
                return [(indices[0], error)]
        return [self._conclude_each([i], claims, rows, now_us)[0] for i in indices]

    def _conclude(self, prepared: Prepared, rows: Sequence[Row], now_us: int) -> Conclusion:
        """Decides; once more when rows of a schema were met that the store can explain."""
        marks = len(prepared.marks)
        concluded = conclude(prepared, rows, now_us, self._clock.tick_ns)
        faults = concluded.facts.faults
        if faults and self._reader.learn(prepared.flow.features, faults):
            del prepared.marks[marks:]
            concluded = conclude(prepared, rows, now_us, self._clock.tick_ns)
        return concluded

    def _again(self, concluded: Conclusion, rows: Sequence[Row], now_us: int) -> Conclusion | Exception:
        """The same with what the store can explain of rows that could not be used."""
        prepared = concluded.prepared
        if not self._reader.learn(prepared.flow.features, concluded.facts.faults):
            return concluded
        del prepared.marks[_MARKS_BEFORE_CONCLUDE:]
        try:
            return conclude(prepared, rows, now_us, self._clock.tick_ns)
        except Exception as error:
            return error

    def _answer(self, served: Served, claim: _Claim, concluded: Conclusion, asked: Asked, index: int | None) -> bytes:
        prepared, clock = concluded.prepared, self._clock
        labels = served.labels.flows[prepared.flow.name]
        parts = Parts(
            prepared.application,
            concluded.facts,
            concluded.scores,
            concluded.outcome,
            concluded.reasons,
            concluded.now_us,
            prepared.marks,
        )
        decision_id = new_decision_id(concluded.now_us)
        decision = build_decision(labels, parts, decision_id, asked.trace_id, clock.tick_ns())
        record = build_record(labels, parts, decision, claim.payload, claim.digest)
        began_ns = clock.tick_ns()
        recorded = True
        try:
            position = self._log.commit(claim.request_key, decision_id, claim.digest, record)
        except RecordError as error:
            if self._settings.on_record_failure == "refuse":
                raise Refusal(
                    "RECORD_FAILED", "The decision could not be recorded, so it is not given; retry with the same id."
                ) from error
            self._log.abandon(claim.request_key)
            decision, recorded = not_recorded(decision), False
        else:
            if self.count is not None and prepared.flow.records_events:
                self.count(prepared, concluded.now_us, position)
        if self.watch is not None:
            written = Written(decision_id, asked.trace_id, began_ns, clock.tick_ns(), len(record), recorded)
            self.watch.decided(served.watched[prepared.flow.name], concluded, written, asked.trace, index)
        return decision


def _wait_until_s(deadline_s: float | None) -> float:
    until_s = time.monotonic() + _DUPLICATE_WAIT_S
    return until_s if deadline_s is None else min(until_s, deadline_s)


def _duplicate(request_id: str, first: int) -> RequestError:
    return RequestError(
        [FieldViolation("request_id", f"stands in this batch already, at requests[{first}].request_id")],
        "DUPLICATE_IN_BATCH",
        {"request_id": request_id[:128], "first_index": str(first)},
    )
