"""From a conclusion to an answer that stands: build both, write the record, settle the request id, tell who watches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.claims.desk import RequestIds, Standing
from engine.claims.shared import Decided
from engine.clock import Clock, new_decision_id
from engine.decider.claim import Claim
from engine.domain.enums import Verdict
from engine.domain.facts import Row
from engine.errors import RecordError, Refusal
from engine.pipeline import Conclusion
from engine.record.build import Parts, build_answer, build_parts, not_recorded, record_origin
from engine.record.log import Commit, DecisionLog, Position
from engine.served import ChosenArm, Serves
from engine.telemetry.watch import DecisionWatch, Written

# Verdicts that come with an offer.
_LENDS = (Verdict.APPROVE, Verdict.COUNTER_OFFER)
_is_country = re.compile(r"[A-Z]{2}").fullmatch


# Not frozen: one is made for every decision, and freezing costs more than all the rest of making it.
@dataclass(slots=True)
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
class _Draft:
    """An answer before its record is written."""

    claim: Claim
    concluded: Conclusion
    decision_id: str
    answer: bytes
    kept: bytes
    personal: bytes


class Keeper:
    """Makes conclusions into answers. Threads may call it at once."""

    def __init__(self, log: DecisionLog, ids: RequestIds, clock: Clock, settings: DeciderSettings) -> None:
        self._log, self._ids, self._clock, self._settings = log, ids, clock, settings
        # Told of every decision that stands: for counters, for challengers behind the answers, for rates.
        self.tell: tuple[Tell, ...] = ()
        # Told of every decision, for traces and metrics.
        self.watch: DecisionWatch | None = None

    def keep(self, claim: Claim, concluded: Conclusion) -> bytes:
        """Records a decision and gives the answer that stands. Raises Refusal, RecordError."""
        deadline_s = claim.asked.deadline_s
        standing = self._ids.recheck(claim.request_key, claim.digest, deadline_s)
        if standing is not None:
            self._ids.abandon(claim.request_key)
            return self.again(standing, claim)
        decided, told = self._commit(self._draft(claim, concluded))
        if told is None:
            return decided.answer
        return self._settled(self._ids.finish(decided, deadline_s), decided, told, claim)

    def keep_many(self, concluded: Sequence[tuple[Claim, Conclusion]], deadline_s: float | None) -> None:
        """The same for many with one write, into their results; one at fault harms no other. deadline_s: for what they
        share."""
        drafts: list[_Draft] = []
        for claim, one in concluded:
            try:
                standing = self._ids.recheck(claim.request_key, claim.digest, deadline_s)
                if standing is None:
                    drafts.append(self._draft(claim, one))
                else:
                    self._ids.abandon(claim.request_key)
                    claim.result = self.again(standing, claim)
            except Exception as error:
                claim.result = error
        waiting: list[tuple[Claim, Decided, Answered]] = []
        for draft, decided, told in self._commit_many(drafts):
            if told is None:
                draft.claim.result = decided.answer
            else:
                waiting.append((draft.claim, decided, told))
        standings = self._ids.finish_many([decided for _, decided, _ in waiting], deadline_s)
        for (claim, decided, told), other in zip(waiting, standings, strict=True):
            try:
                if isinstance(other, Exception):
                    raise other
                claim.result = self._settled(other, decided, told, claim)
            except Exception as error:
                claim.result = error

    def again(self, standing: Standing, claim: Claim) -> bytes:
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
            self.watch.replayed(decision, claim.start_ns, claim.asked.trace, claim.index)
        return decision.SerializeToString()

    def _draft(self, claim: Claim, concluded: Conclusion) -> _Draft:
        prepared, asked = concluded.prepared, claim.asked
        labels = claim.arm.served.labels.flows[prepared.flow.name]
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
        answer = build_answer(labels, parts, decision_id, asked.trace_id, self._clock.tick_ns())
        origin = _origin(asked.tenant, claim.arm.experiment, claim.arm.name if claim.arm.experiment else "")
        kept, personal = build_parts(labels, parts, answer, claim.payload, claim.digest, origin)
        return _Draft(claim, concluded, decision_id, answer.whole, kept, personal)

    def _commit(self, draft: _Draft) -> tuple[Decided, Answered | None]:
        """Records a decision: the answer, and what is to be told of it once it stands. None: it is not recorded, and
        answered all the same. Raises Refusal."""
        began_ns = self._clock.tick_ns()
        found: Position | RecordError
        try:
            found = self._log.commit(*self._entry(draft))
        except RecordError as error:
            found = error
        return self._written(draft, found, began_ns, self._clock.tick_ns())

    def _commit_many(self, drafts: Sequence[_Draft]) -> Iterator[tuple[_Draft, Decided, Answered | None]]:
        """The same for many. Those that are refused have their error as their claim's result."""
        began_ns = self._clock.tick_ns()
        try:
            found: Sequence[Position | RecordError] = self._log.commit_many([self._entry(draft) for draft in drafts])
        except RecordError as error:
            found = [error] * len(drafts)
        ended_ns = self._clock.tick_ns()
        for draft, one in zip(drafts, found, strict=True):
            try:
                yield draft, *self._written(draft, one, began_ns, ended_ns)
            except Exception as error:
                draft.claim.result = error

    def _entry(self, draft: _Draft) -> Commit:
        claim = draft.claim
        return Commit(
            claim.request_key,
            draft.decision_id,
            claim.digest,
            draft.kept,
            draft.personal,
            draft.concluded.prepared.application.entity_ids[0] or "",
            self._country(claim.request),
        )

    def _written(
        self, draft: _Draft, found: Position | RecordError, began_ns: int, ended_ns: int
    ) -> tuple[Decided, Answered | None]:
        """What becomes of a decision that was recorded, or was not; who watches is told either way."""
        claim, concluded = draft.claim, draft.concluded
        position = None if isinstance(found, RecordError) else found
        if isinstance(found, RecordError):
            if self._settings.on_record_failure == "refuse":
                raise Refusal(
                    "RECORD_FAILED", "The decision could not be recorded, so it is not given; retry with the same id."
                ) from found
            self._ids.abandon(claim.request_key)
            draft.answer = not_recorded(draft.answer)
        if self.watch is not None:
            written = Written(
                draft.decision_id,
                claim.asked.trace_id,
                began_ns,
                ended_ns,
                len(draft.kept) + len(draft.personal),
                position is not None,
            )
            watched = claim.arm.served.watched[concluded.prepared.flow.name]
            self.watch.decided(watched, concluded, written, claim.asked.trace, claim.index)
        decided = Decided(claim.request_key, claim.digest, draft.decision_id, draft.answer, position)
        if position is None:
            return decided, None
        return decided, Answered(
            claim.request,
            claim.serving,
            claim.arm,
            concluded,
            claim.rows,
            draft.decision_id,
            claim.digest,
            claim.asked.trace_id,
            position,
        )

    def _country(self, request: DecideRequest) -> str:
        """By whose rule the record is kept."""
        name = self._settings.country_field
        if not name:
            return ""
        country = request.application.fields[name].text.upper() if name in request.application.fields else ""
        return country if _is_country(country) else ""

    def _settled(self, standing: Standing | None, decided: Decided, told: Answered, claim: Claim) -> bytes:
        """The answer, once it is known to stand; that of another host where that one was first."""
        if standing is not None:
            return self.again(standing, claim)
        for tell in self.tell:
            tell(told)
        return decided.answer


@lru_cache(maxsize=1024)
def _origin(tenant: str, experiment: str, arm: str) -> bytes:
    return record_origin(tenant, experiment, arm)
