"""Decides applications: whose the request id is, and what is decided alone and what with others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.claims.desk import RequestIds, Standing
from engine.clock import Clock
from engine.decider.claim import Claim, plain_digest
from engine.decider.keep import DeciderSettings, Keeper, Tell
from engine.decider.shared import Concluder
from engine.decider.together import Together
from engine.errors import FieldViolation, Refusal, RequestError
from engine.feature_reader import FeatureReader
from engine.pipeline import prepare
from engine.plan import BundlePlan
from engine.record.keys import request_key
from engine.record.log import Claimed, DecisionLog
from engine.served import Asked, OneBundle, Served, Serves
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.watch import DecisionWatch
from engine.validate import is_id

# How long a concurrent duplicate waits for the first to be decided.
_DUPLICATE_WAIT_S = 5.0


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
        self._log, self._clock = log, clock
        self._ids, self._digest = ids or RequestIds(log), digest
        self._keeper = Keeper(log, self._ids, clock, settings or DeciderSettings())
        self._concluder = Concluder(reader, clock, self._keeper)
        self._together = Together(self._decide_alone, self._decide_shared)
        # What a call must have left of its time to share a read whose budget is everybody's.
        self._shares_from_s = reader.budget_s + reader.reserve_s
        self._serves: Serves | None = None

    @property
    def plan(self) -> BundlePlan | None:
        """The plan that decides where no experiment says otherwise, or None."""
        return None if self._serves is None else self._serves.default.served.plan

    @property
    def tell(self) -> tuple[Tell, ...]:
        """Who is told of every decision that stands: counters, challengers behind the answers, rates."""
        return self._keeper.tell

    @tell.setter
    def tell(self, tell: tuple[Tell, ...]) -> None:
        self._keeper.tell = tell

    @property
    def watch(self) -> DecisionWatch | None:
        """Told of every decision, for traces and metrics."""
        return self._keeper.watch

    @watch.setter
    def watch(self, watch: DecisionWatch | None) -> None:
        self._keeper.watch = watch

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
        claim = self._open(self._in_service(), request, asked, index)
        wait_until_s = _wait_until_s(asked.deadline_s)
        while True:
            found = self._ids.claim(claim.request_key, claim.digest, asked.deadline_s)
            if isinstance(found, Standing):
                return self._keeper.again(found, claim)
            if found is not None:
                break
            self._wait(claim, wait_until_s)
        try:
            self._prepare(claim)
            deadline_s = asked.deadline_s
            if deadline_s is None or deadline_s - time.monotonic() > self._shares_from_s:
                self._together.run(claim)
            else:
                # Its read may take less time than that of others; and it is in a hurry.
                self._decide_alone(claim)
            result = claim.result
            if isinstance(result, BaseException):
                raise result
            assert result is not None
            return result
        except BaseException:
            self._ids.abandon(claim.request_key)
            raise

    def open(self, request: DecideRequest, asked: Asked) -> Claim:
        """The first step of `decide` for one of several calls: what is to be claimed. Raises RequestError, Refusal."""
        return self._open(self._in_service(), request, asked, None)

    def begin(self, claims: Sequence[Claim]) -> list[Claim]:
        """The second step, for all of them: claims their request ids, and gives those that another call is deciding
        right now; they are for `decide`. Of the others, those with a result are done, and the rest is the caller's to
        `finish`. Waits for no other call; never raises."""
        found: Sequence[Claimed | Standing | Exception | None]
        elsewhere: list[Claim] = []
        try:
            if len(claims) == 1:
                (one,) = claims
                found = [self._ids.claim(one.request_key, one.digest, one.asked.deadline_s)]
            else:
                found = self._ids.claim_many([(claim.request_key, claim.digest) for claim in claims], None)
        except Exception as error:
            found = [error] * len(claims)
        for claim, taken in zip(claims, found, strict=True):
            try:
                if taken is None:
                    elsewhere.append(claim)
                elif isinstance(taken, Exception):
                    claim.result = taken
                elif isinstance(taken, Standing):
                    claim.result = self._keeper.again(taken, claim)
                else:
                    try:
                        self._prepare(claim)
                    except BaseException:
                        self._ids.abandon(claim.request_key)
                        raise
            except Exception as error:
                claim.result = error
        return elsewhere

    def finish(self, claims: Sequence[Claim]) -> None:
        """The last step, for all that are begun: each has its result afterwards. Never raises."""
        now_s = time.monotonic()
        shared: list[Claim] = []
        for claim in claims:
            deadline_s = claim.asked.deadline_s
            if len(claims) > 1 and (deadline_s is None or deadline_s - now_s > self._shares_from_s):
                shared.append(claim)
                continue
            try:
                self._decide_alone(claim)
            except BaseException as error:
                claim.result = error
        if shared:
            self._decide_shared(shared)
        for claim in claims:
            if not isinstance(claim.result, bytes):
                self._ids.abandon(claim.request_key)

    def decide_many(self, requests: Sequence[DecideRequest], asked: Asked) -> list[bytes | Exception]:
        """Decides many applications with one read and shared runs; an item at fault harms no other. Gives the
        serialised Decision of each, or its error, in order.

        Requests that another call is deciding right now are waited for last, after this call has answered its own, so
        that two batches with the same requests never wait for one another.
        """
        serving = self._in_service()
        results: dict[int, bytes | Exception] = {}
        opened: dict[int, Claim] = {}
        first_index: dict[str, int] = {}
        for index, request in enumerate(requests):
            first = first_index.setdefault(request.request_id, index)
            if first != index and request.request_id:
                results[index] = _duplicate(request.request_id, first)
                continue
            try:
                opened[index] = self._open(serving, request, asked, index)
            except Exception as error:
                results[index] = error
        claims: dict[int, Claim] = {}
        elsewhere: list[int] = []
        try:
            self._claim_many(opened, claims, elsewhere, results, asked)
            if claims:
                self._concluder.decide_many(list(claims.values()), asked.deadline_s)
        finally:
            for claim in claims.values():
                if not isinstance(claim.result, bytes):
                    self._ids.abandon(claim.request_key)
        for index, claim in claims.items():
            result = claim.result
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            assert result is not None
            results[index] = result
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

    def _open(self, serving: Serves, request: DecideRequest, asked: Asked, index: int | None) -> Claim:
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
        return Claim(request, key, payload, self._digest(payload), serving, arm, start_ns, asked, index)

    def _claim_many(
        self,
        opened: Mapping[int, Claim],
        claims: dict[int, Claim],
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
                    results[index] = self._keeper.again(one, claim)
                    continue
                claims[index] = claim
                self._prepare(claim)
            except Exception as error:
                results[index] = error
                if claims.pop(index, None) is not None:
                    self._ids.abandon(claim.request_key)

    def _prepare(self, claim: Claim) -> None:
        now_us = self._clock.now_us()
        plan = claim.arm.served.plan
        claim.prepared = prepare(plan, claim.request, now_us, self._clock.tick_ns, claim.start_ns)

    def _wait(self, claim: Claim, until_s: float) -> None:
        """Waits for another call that is deciding the same request."""
        if not self._ids.wait(claim.request_key, until_s):
            raise Refusal(
                "DECISION_IN_PROGRESS",
                "The same request is being decided by another call; retry shortly with the same request id.",
                {"request_id": claim.request.request_id},
            )

    # --- alone and with others ----------------------------------------------------------------------------------------

    def _decide_alone(self, claim: Claim) -> None:
        claim.result = self._concluder.decide_one(claim)

    def _decide_shared(self, claims: Sequence[Claim]) -> None:
        """Decides claims of several calls, which all have time for a whole read, into their results."""
        try:
            self._concluder.decide_many(claims, None)
        except BaseException as error:
            for claim in claims:
                if claim.result is None:
                    claim.result = error


def _wait_until_s(deadline_s: float | None) -> float:
    until_s = time.monotonic() + _DUPLICATE_WAIT_S
    return until_s if deadline_s is None else min(until_s, deadline_s)


def _duplicate(request_id: str, first: int) -> RequestError:
    return RequestError(
        [FieldViolation("request_id", f"stands in this batch already, at requests[{first}].request_id")],
        "DUPLICATE_IN_BATCH",
        {"request_id": request_id[:128], "first_index": str(first)},
    )
