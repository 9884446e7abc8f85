"""The shell around the pure middle: it reads the clock, the store and the journal, and hands facts to the pipeline.

    choose the arm -> claim the request id -> prepare -> read rows -> conclude -> build -> commit to the journal
    -> settle the request id -> answer -> count, watch, shadow

Threads may call it at once. It knows nothing of gRPC.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.claims.desk import RequestIds, Standing
from engine.claims.shared import Decided
from engine.clock import Clock, new_decision_id
from engine.domain.enums import Verdict
from engine.domain.facts import Row
from engine.errors import FieldViolation, RecordError, Refusal, RequestError
from engine.feature_reader import FeatureReader
from engine.pipeline import Conclusion, Prepared, conclude, conclude_many, prepare
from engine.plan import BundlePlan
from engine.record.build import Parts, build_answer, build_parts, not_recorded, record_origin
from engine.record.keys import request_key
from engine.record.log import DecisionLog, Position
from engine.served import Asked, ChosenArm, OneBundle, Served, Serves
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.watch import DecisionWatch, Written
from engine.validate import is_id

__all__ = ["Answered", "Asked", "Decider", "DeciderSettings", "Served", "Tell"]

# Verdicts that come with an offer.
_LENDS = (Verdict.APPROVE, Verdict.COUNTER_OFFER)
# How long a concurrent duplicate waits for the first to be decided.
_DUPLICATE_WAIT_S = 5.0
_is_country = re.compile(r"[A-Z]{2}").fullmatch
# Moments noted before `conclude`: start, validated, rows read.
_MARKS_BEFORE_CONCLUDE = 3


@dataclass(frozen=True, slots=True)
class Answered:
    """A decision that is recorded and stands, and what it was made of. serving, arm: what the call decided with;
    rows: one for each of its reads; payload_digest: of the request; position: where its record is."""

    request: DecideRequest
    serving: Serves
    arm: ChosenArm
    conclusion: Conclusion
    rows: Sequence[Row]
    decision_id: str
    payload_digest: bytes
    trace_id: str
    position: Position


# Told of a decision that is answered. Never waits, never raises.
Tell = Callable[[Answered], None]


@dataclass(frozen=True, slots=True)
class DeciderSettings:
    """What an operator chooses. on_record_failure: `refuse` the call, or `answer` and say that it is not recorded.
    country_field: the request field that says by which country's rule the record is kept, "" for none."""

    on_record_failure: Literal["refuse", "answer"] = "refuse"
    country_field: str = ""


@dataclass(slots=True)
class _Claim:
    """A request that this call is to decide."""

    request: DecideRequest
    request_key: bytes
    payload: bytes
    digest: bytes
    serving: Serves
    arm: ChosenArm
    start_ns: int
    prepared: Prepared | None = None
    rows: Sequence[Row] = field(default_factory=tuple)

    @property
    def ready(self) -> Prepared:
        """What `prepare` gave."""
        assert self.prepared is not None
        return self.prepared


def plain_digest(payload: bytes) -> bytes:
    """SHA-256, for a log without a master key; with one its keyed digest is used."""
    return hashlib.sha256(payload).digest()


class Decider:
    """Decides applications with what is in service."""

    def __init__(
        self,
        reader: FeatureReader,
        log: DecisionLog,
        clock: Clock,
        settings: DeciderSettings | None = None,
        ids: RequestIds | None = None,
        digest: Callable[[bytes], bytes] = plain_digest,
    ) -> None:
        """ids: whose a request id is, where others share it; None: this process's alone. digest: of a request's
        payload."""
        self._reader, self._log, self._clock = reader, log, clock
        self._ids, self._digest = ids or RequestIds(log), digest
        # Told of every decision that stands: for counters, for challengers behind the answers, for rates.
        self.tell: tuple[Tell, ...] = ()
        # Told of every decision, for traces and metrics.
        self.watch: DecisionWatch | None = None
        self._settings = settings or DeciderSettings()
        self._serves: Serves | None = None

    @property
    def plan(self) -> BundlePlan | None:
        """The plan that decides where no experiment says otherwise, or None."""
        return None if self._serves is None else self._serves.default.served.plan

    def serve(self, what: Served | Serves) -> None:
        """Puts a bundle, or several by arms that were declared, in service: calls that begin from now on use it."""
        if isinstance(what, Served):
            self.declare(what)
            what = OneBundle(what)
        self._serves = what

    def declare(self, served: Served) -> None:
        """Keeps what the records of a bundle refer to beside them. Before the bundle is served."""
        for digest, payload in served.labels.catalogues.items():
            self._log.declare_catalogue(digest, payload)
        self._log.declare_environment(served.labels.environment_digest, served.labels.environment)

    def decide(self, request: DecideRequest, asked: Asked, index: int | None = None) -> bytes:
        """Decides one application; gives the serialised Decision. index: its place in a batch.

        Raises RequestError, Refusal, RecordError.
        """
        claim = self._open(self._in_service(), request, asked)
        wait_until_s = _wait_until_s(asked.deadline_s)
        while True:
            found = self._ids.claim(claim.request_key, claim.digest, asked.deadline_s)
            if isinstance(found, Standing):
                return self._again(found, claim, asked, index)
            if found is not None:
                break
            self._wait(claim, wait_until_s)
        try:
            self._prepare(claim)
            claim.rows = self._reader.read_one(claim.ready, asked.deadline_s)
            claim.ready.marks.append(self._clock.tick_ns())
            concluded = self._conclude(claim.ready, claim.rows, self._clock.now_us())
            standing = self._ids.recheck(claim.request_key, claim.digest, asked.deadline_s)
            if standing is not None:
                self._ids.abandon(claim.request_key)
                return self._again(standing, claim, asked, index)
            decided, told = self._commit(claim, concluded, asked, index)
            if told is None:
                return decided.answer
            return self._settled(self._ids.finish(decided, asked.deadline_s), decided, told, claim, asked)
        except BaseException:
            self._ids.abandon(claim.request_key)
            raise

    def decide_many(self, requests: Sequence[DecideRequest], asked: Asked) -> list[bytes | Exception]:
        """Decides many applications with one read and shared runs; an item at fault harms no other. Gives the
        serialised Decision of each, or its error, in order.

        Requests that another call is deciding right now are waited for last, after this call has answered its own, so
        that two batches with the same requests never wait for one another.
        """
        serving = self._in_service()
        results: dict[int, bytes | Exception] = {}
        opened: dict[int, _Claim] = {}
        first_index: dict[str, int] = {}
        for index, request in enumerate(requests):
            first = first_index.setdefault(request.request_id, index)
            if first != index and request.request_id:
                results[index] = _duplicate(request.request_id, first)
                continue
            try:
                opened[index] = self._open(serving, request, asked)
            except Exception as error:
                results[index] = error
        claims: dict[int, _Claim] = {}
        elsewhere: list[int] = []
        try:
            self._claim_many(opened, claims, elsewhere, results, asked)
            if claims:
                self._decide_claims(claims, results, asked)
        finally:
            for index, claim in claims.items():
                if not isinstance(results.get(index), bytes):
                    self._ids.abandon(claim.request_key)
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

    # --- whose the request id is --------------------------------------------------------------------------------------

    def _in_service(self) -> Serves:
        if self._serves is None:
            raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
        return self._serves

    def _open(self, serving: Serves, request: DecideRequest, asked: Asked) -> _Claim:
        """What is to be claimed for a request. Refuses one without an id, with all else that is at fault."""
        if asked.deadline_s is not None and time.monotonic() >= asked.deadline_s:
            raise Refusal("DEADLINE_TOO_SHORT", "The deadline had passed before the decision began; allow more time.")
        tick = self._clock.tick_ns
        start_ns = tick()
        application = request.application
        flow = f"{application.product}.{application.moment or 'application'}"
        arm = serving.choose(flow, application.subject.id)
        if not is_id(request.request_id):
            prepare(arm.served.plan, request, self._clock.now_us(), tick, start_ns)
            raise AssertionError("a request without an id was taken")
        payload = application.SerializeToString(deterministic=True)
        key = request_key(asked.tenant, request.request_id)
        return _Claim(request, key, payload, self._digest(payload), serving, arm, start_ns)

    def _claim_many(
        self,
        opened: Mapping[int, _Claim],
        claims: dict[int, _Claim],
        elsewhere: list[int],
        results: dict[int, bytes | Exception],
        asked: Asked,
    ) -> None:
        """Claims the ids of a batch in one round trip, and prepares what is to be decided, into `claims`."""
        pairs = [(claim.request_key, claim.digest) for claim in opened.values()]
        found = self._ids.claim_many(pairs, asked.deadline_s)
        for (index, claim), one in zip(opened.items(), found, strict=True):
            if one is None:
                elsewhere.append(index)
                continue
            try:
                if isinstance(one, Exception):
                    raise one
                if isinstance(one, Standing):
                    results[index] = self._again(one, claim, asked, index)
                    continue
                claims[index] = claim
                self._prepare(claim)
            except Exception as error:
                results[index] = error
                if claims.pop(index, None) is not None:
                    self._ids.abandon(claim.request_key)

    def _prepare(self, claim: _Claim) -> None:
        now_us = self._clock.now_us()
        plan = claim.arm.served.plan
        claim.prepared = prepare(plan, claim.request, now_us, self._clock.tick_ns, claim.start_ns)

    def _again(self, standing: Standing, claim: _Claim, asked: Asked, index: int | None) -> bytes:
        """The answer that was given before, also when the bundle in service would no longer take the request; or that
        the id was used for another application."""
        if standing.payload_digest != claim.digest:
            raise standing.reused(claim.request.request_id, claim.payload)
        decision = standing.replayed()
        if Verdict(decision.verdict) in _LENDS and not decision.HasField("offer"):
            raise Refusal(
                "DECISION_ERASED",
                "The request was decided, and the person was erased since, so the decision cannot be given again.",
                {"decision_id": decision.decision_id},
            )
        if self.watch is not None:
            self.watch.replayed(decision, claim.start_ns, asked.trace, index)
        return decision.SerializeToString()

    def _wait(self, claim: _Claim, until_s: float) -> None:
        """Waits for another call that is deciding the same request."""
        if not self._ids.wait(claim.request_key, until_s):
            raise Refusal(
                "DECISION_IN_PROGRESS",
                "The same request is being decided by another call; retry shortly with the same request id.",
                {"request_id": claim.request.request_id},
            )

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _decide_claims(self, claims: Mapping[int, _Claim], results: dict[int, bytes | Exception], asked: Asked) -> None:
        """Decides the claims of a batch, by bundle and flow, into `results`."""
        if asked.trace is not None:
            asked.trace.sharing = len(claims)
        read = self._reader.read_many([c.ready for c in claims.values()], asked.deadline_s)
        by_flow: dict[tuple[int, str], list[int]] = {}
        for (index, claim), rows in zip(claims.items(), read, strict=True):
            claim.rows = rows
            claim.ready.marks.append(self._clock.tick_ns())
            by_flow.setdefault((id(claim.arm.served), claim.ready.flow.name), []).append(index)
        now_us = self._clock.now_us()
        waiting: list[tuple[int, Decided, Answered]] = []
        for indices in by_flow.values():
            for index, first in self._conclude_each(indices, claims, now_us):
                concluded = first
                if isinstance(first, Conclusion) and first.facts.faults:
                    concluded = self._once_more(first, claims[index].rows, now_us)
                if isinstance(concluded, Exception):
                    results[index] = concluded
                    continue
                claim = claims[index]
                try:
                    stands = self._ids.recheck(claim.request_key, claim.digest, asked.deadline_s)
                    if stands is not None:
                        self._ids.abandon(claim.request_key)
                        results[index] = self._again(stands, claim, asked, index)
                        continue
                    decided, told = self._commit(claim, concluded, asked, index)
                except Exception as error:
                    results[index] = error
                    continue
                if told is None:
                    results[index] = decided.answer
                else:
                    waiting.append((index, decided, told))
        standing = self._ids.finish_many([decided for _, decided, _ in waiting], asked.deadline_s)
        for (index, decided, told), one in zip(waiting, standing, strict=True):
            try:
                if isinstance(one, Exception):
                    raise one
                results[index] = self._settled(one, decided, told, claims[index], asked)
            except Exception as error:
                results[index] = error

    def _conclude_each(
        self, indices: Sequence[int], claims: Mapping[int, _Claim], now_us: int
    ) -> list[tuple[int, Conclusion | Exception]]:
        """Concludes items of one flow together; should that fail, one by one, so that the one at fault stands alone."""
        tick = self._clock.tick_ns
        prepared, rows = [claims[i].ready for i in indices], [claims[i].rows for i in indices]
        try:
            return list(zip(indices, conclude_many(prepared, rows, now_us, tick), strict=True))
        except Exception as error:
            for one in prepared:
                del one.marks[_MARKS_BEFORE_CONCLUDE:]
            if len(indices) == 1:
                return [(indices[0], error)]
        return [self._conclude_each([i], claims, now_us)[0] for i in indices]

    def _conclude(self, prepared: Prepared, rows: Sequence[Row], now_us: int) -> Conclusion:
        """Decides; once more when rows of a schema were met that the store can explain."""
        marks = len(prepared.marks)
        concluded = conclude(prepared, rows, now_us, self._clock.tick_ns)
        faults = concluded.facts.faults
        if faults and self._reader.learn(prepared.flow.features, faults):
            del prepared.marks[marks:]
            concluded = conclude(prepared, rows, now_us, self._clock.tick_ns)
        return concluded

    def _once_more(self, concluded: Conclusion, rows: Sequence[Row], now_us: int) -> Conclusion | Exception:
        """The same with what the store can explain of rows that could not be used."""
        prepared = concluded.prepared
        if not self._reader.learn(prepared.flow.features, concluded.facts.faults):
            return concluded
        del prepared.marks[_MARKS_BEFORE_CONCLUDE:]
        try:
            return conclude(prepared, rows, now_us, self._clock.tick_ns)
        except Exception as error:
            return error

    # --- record and answer --------------------------------------------------------------------------------------------

    def _commit(
        self, claim: _Claim, concluded: Conclusion, asked: Asked, index: int | None
    ) -> tuple[Decided, Answered | None]:
        """Records a decision: the answer, and what is to be told of it once it stands. None: it is not recorded, and
        answered all the same."""
        prepared, clock, served = concluded.prepared, self._clock, claim.arm.served
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
        answer = build_answer(labels, parts, decision_id, asked.trace_id, clock.tick_ns())
        origin = _origin(asked.tenant, claim.arm.experiment, claim.arm.name if claim.arm.experiment else "")
        kept, personal = build_parts(labels, parts, answer, claim.payload, claim.digest, origin)
        began_ns = clock.tick_ns()
        whole, position = answer.whole, None
        subject = prepared.application.entity_ids[0] or ""
        try:
            position = self._log.commit(
                claim.request_key, decision_id, claim.digest, kept, personal, subject, self._country(claim.request)
            )
        except RecordError as error:
            if self._settings.on_record_failure == "refuse":
                raise Refusal(
                    "RECORD_FAILED", "The decision could not be recorded, so it is not given; retry with the same id."
                ) from error
            self._ids.abandon(claim.request_key)
            whole = not_recorded(whole)
        if self.watch is not None:
            size, recorded = len(kept) + len(personal), position is not None
            written = Written(decision_id, asked.trace_id, began_ns, clock.tick_ns(), size, recorded)
            self.watch.decided(served.watched[prepared.flow.name], concluded, written, asked.trace, index)
        decided = Decided(claim.request_key, claim.digest, decision_id, whole, position)
        if position is None:
            return decided, None
        return decided, Answered(
            claim.request,
            claim.serving,
            claim.arm,
            concluded,
            claim.rows,
            decision_id,
            claim.digest,
            asked.trace_id,
            position,
        )

    def _country(self, request: DecideRequest) -> str:
        """By whose rule the record is kept."""
        name = self._settings.country_field
        if not name:
            return ""
        country = request.application.fields[name].text.upper() if name in request.application.fields else ""
        return country if _is_country(country) else ""

    def _settled(
        self, standing: Standing | None, decided: Decided, told: Answered, claim: _Claim, asked: Asked
    ) -> bytes:
        """The answer, once it is known to stand; that of another host where that one was first."""
        if standing is not None:
            return self._again(standing, claim, asked, None)
        for tell in self.tell:
            tell(told)
        return decided.answer


@lru_cache(maxsize=1024)
def _origin(tenant: str, experiment: str, arm: str) -> bytes:
    return record_origin(tenant, experiment, arm)


def _wait_until_s(deadline_s: float | None) -> float:
    until_s = time.monotonic() + _DUPLICATE_WAIT_S
    return until_s if deadline_s is None else min(until_s, deadline_s)


def _duplicate(request_id: str, first: int) -> RequestError:
    return RequestError(
        [FieldViolation("request_id", f"stands in this batch already, at requests[{first}].request_id")],
        "DUPLICATE_IN_BATCH",
        {"request_id": request_id[:128], "first_index": str(first)},
    )
