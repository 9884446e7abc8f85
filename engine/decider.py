"""The shell around the pure middle: it reads the clock, the store and the journal, and hands facts to the pipeline.

    prepare -> claim the request id -> read rows -> conclude -> build -> commit to the journal -> answer

Threads may call it at once. It knows nothing of gRPC.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.clock import Clock, new_decision_id
from engine.domain.facts import UNNAMED, UNREAD, Row
from engine.errors import AssayError, FieldViolation, RecordError, Refusal, RequestError, StoreError
from engine.features.store import FeatureStore
from engine.labels import Labels
from engine.pipeline import Conclusion, Prepared, conclude, conclude_many, prepare
from engine.plan import BundlePlan
from engine.record.build import Parts, build_decision, build_record, not_recorded
from engine.record.log import Conflict, DecisionLog, Existing, InProgress
from engine.record.read import replayed_decision

# How long a concurrent duplicate waits for the first to be decided.
_DUPLICATE_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class DeciderSettings:
    """What an operator chooses. read_budget_s: the most that one read of the store may take; on_record_failure:
    `refuse` the call, or `answer` and say that it is not recorded."""

    read_budget_s: float = 0.05
    on_record_failure: Literal["refuse", "answer"] = "refuse"


@dataclass(frozen=True, slots=True)
class Served:
    """A bundle in service: its plan and the labels that its answers carry. Swapped as one, so that no call ever sees
    half of two bundles."""

    plan: BundlePlan
    labels: Labels


@dataclass(slots=True)
class _Claim:
    """A request that this call is to decide."""

    prepared: Prepared
    request_key: bytes
    payload: bytes
    digest: bytes


class Decider:
    """Decides applications with the bundle in service."""

    def __init__(
        self, store: FeatureStore, log: DecisionLog, clock: Clock, settings: DeciderSettings | None = None
    ) -> None:
        self._store, self._log, self._clock = store, log, clock
        self._settings = settings or DeciderSettings()
        self._served: Served | None = None

    @property
    def served(self) -> Served:
        """The bundle in service. Raises Refusal when there is none."""
        if self._served is None:
            raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
        return self._served

    def serve(self, served: Served) -> None:
        """Puts a bundle in service: calls that begin from now on use it."""
        for digest, payload in served.labels.catalogues.items():
            self._log.declare_catalogue(digest, payload)
        self._log.declare_environment(served.labels.environment_digest, served.labels.environment)
        self._served = served

    def decide(self, request: DecideRequest, trace_id: str, deadline_s: float | None = None) -> bytes:
        """Decides one application; gives the serialised Decision.

        deadline_s: the caller's deadline on `time.monotonic()`; None without one. Raises RequestError, Refusal.
        """
        served = self.served
        claim = self._claim(served, request, deadline_s)
        if isinstance(claim, bytes):
            return claim
        try:
            prepared = claim.prepared
            rows = self._read([prepared], deadline_s)[0]
            prepared.marks.append(self._clock.tick_ns())
            concluded = conclude(prepared, rows, self._clock.now_us(), self._clock.tick_ns)
            return self._answer(served, claim, concluded, trace_id)
        except BaseException:
            self._log.abandon(claim.request_key)
            raise

    def decide_many(
        self, requests: Sequence[DecideRequest], trace_id: str, deadline_s: float | None = None
    ) -> list[bytes | AssayError]:
        """Decides many applications with one read and shared runs; an item at fault harms no other. Gives the
        serialised Decision of each, or its error, in order."""
        served = self.served
        results: list[bytes | AssayError | None] = [None] * len(requests)
        claims: list[tuple[int, _Claim]] = []
        first_index: dict[str, int] = {}
        open_keys: set[bytes] = set()
        try:
            for index, request in enumerate(requests):
                first = first_index.setdefault(request.request_id, index)
                if first != index and request.request_id:
                    results[index] = _duplicate(first, index)
                    continue
                try:
                    claim = self._claim(served, request, deadline_s)
                except AssayError as error:
                    results[index] = error
                    continue
                if isinstance(claim, bytes):
                    results[index] = claim
                else:
                    claims.append((index, claim))
                    open_keys.add(claim.request_key)
            for position, result in self._decide_claims(served, claims, trace_id, deadline_s):
                index, claim = claims[position]
                results[index] = result
                if isinstance(result, bytes):
                    open_keys.discard(claim.request_key)
        finally:
            for key in open_keys:
                self._log.abandon(key)
        assert all(result is not None for result in results)
        return results  # type: ignore[return-value]

    def _decide_claims(
        self, served: Served, claims: Sequence[tuple[int, _Claim]], trace_id: str, deadline_s: float | None
    ) -> list[tuple[int, bytes | AssayError]]:
        """All claims of a batch, flow by flow: (place in `claims`, answer or error)."""
        answers: list[tuple[int, bytes | AssayError]] = []
        if not claims:
            return answers
        rows = self._read([claim.prepared for _, claim in claims], deadline_s)
        by_flow: dict[str, list[int]] = {}
        for position, (_, claim) in enumerate(claims):
            claim.prepared.marks.append(self._clock.tick_ns())
            by_flow.setdefault(claim.prepared.flow.name, []).append(position)
        now_us = self._clock.now_us()
        for positions in by_flow.values():
            concluded = conclude_many(
                [claims[p][1].prepared for p in positions], [rows[p] for p in positions], now_us, self._clock.tick_ns
            )
            for position, one in zip(positions, concluded, strict=True):
                try:
                    answers.append((position, self._answer(served, claims[position][1], one, trace_id)))
                except AssayError as error:
                    answers.append((position, error))
        return answers

    def _claim(self, served: Served, request: DecideRequest, deadline_s: float | None) -> _Claim | bytes:
        """Checks the request and makes its id this call's own; or gives the answer that was given before."""
        prepared = prepare(served.plan, request, self._clock.now_us(), self._clock.tick_ns)
        key = request.request_id.encode()
        payload = request.application.SerializeToString(deterministic=True)
        digest = hashlib.sha256(payload).digest()
        wait_until = time.monotonic() + _DUPLICATE_WAIT_S
        if deadline_s is not None:
            wait_until = min(wait_until, deadline_s)
        while True:
            claimed = self._log.claim(key, digest)
            if isinstance(claimed, Existing):
                stored = self._log.get_by_request_key(key)
                if stored is None:
                    raise Refusal("RECORD_FAILED", "The stored decision cannot be read; retry shortly.")
                return replayed_decision(stored.record).SerializeToString()
            if isinstance(claimed, Conflict):
                raise Refusal(
                    "REQUEST_ID_REUSED",
                    "This request id was used before with another application; use a new request id.",
                    {"request_id": request.request_id, "decision_id": claimed.decision_id},
                )
            if not isinstance(claimed, InProgress):
                return _Claim(prepared, key, payload, digest)
            if not self._log.wait(key, wait_until - time.monotonic()):
                raise Refusal(
                    "DECISION_IN_PROGRESS",
                    "The same request is being decided by another call; retry shortly with the same request id.",
                    {"request_id": request.request_id},
                )

    def _read(self, many: Sequence[Prepared], deadline_s: float | None) -> list[list[Row]]:
        """One round trip for all rows of all applications; identical keys are read once. A store that fails or is late
        leaves its rows UNREAD."""
        keys = list(dict.fromkeys(key for one in many for key in one.reads if key is not None))
        budget_end = time.monotonic() + self._settings.read_budget_s
        if deadline_s is not None:
            budget_end = min(budget_end, deadline_s)
        found: dict[bytes | None, Row] = {None: UNNAMED}
        try:
            found.update(zip(keys, self._store.read(keys, budget_end) if keys else (), strict=True))
        except StoreError:
            found.update(dict.fromkeys(keys, UNREAD))
        return [[found[key] for key in one.reads] for one in many]

    def _answer(self, served: Served, claim: _Claim, concluded: Conclusion, trace_id: str) -> bytes:
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
        decision = build_decision(labels, parts, decision_id, trace_id, clock.tick_ns())
        record = build_record(labels, parts, decision, claim.payload, claim.digest)
        try:
            self._log.commit(claim.request_key, decision_id, claim.digest, record)
        except RecordError as error:
            if self._settings.on_record_failure == "refuse":
                raise Refusal(
                    "RECORD_FAILED", "The decision could not be recorded, so it is not given; retry with the same id."
                ) from error
            self._log.abandon(claim.request_key)
            return not_recorded(decision)
        return decision


def _duplicate(first: int, index: int) -> RequestError:
    return RequestError(
        [FieldViolation("request_id", f"stands in this batch already, at requests[{first}].request_id")],
        "DUPLICATE_IN_BATCH",
        {"first_index": str(first)},
    )
