"""Request ids, as whoever decides sees them: the log of this host and the claims shared with others behind one door.

    claim -> decide -> recheck -> commit to the journal -> finish -> answer

Others are asked first and the host's own journals then, so that what another worker forgets because the index has it is
found in the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assay.decision.v1.decision_pb2 import Decision
from engine.claims.differ import differences
from engine.claims.reconcile import decided_of
from engine.claims.shared import Answered, Decided, Held, Mine, NoSharedClaims, SharedClaims, Taken
from engine.claims.superseded import Superseded
from engine.errors import AssayError, RecordError, Refusal
from engine.record.claims import CLAIMED
from engine.record.entries import StoredDecision
from engine.record.log import Claim, Claimed, Conflict, DecisionLog, Existing, InProgress
from engine.record.read import parse_record

_UNREADABLE = "The stored decision cannot be read on this host; retry shortly, or on another host."


@dataclass(frozen=True, slots=True)
class Standing:
    """The decision that stands under a request id. answer: the serialised Decision, b"" where it cannot be read here;
    application: the serialised application that it was made on, b"" likewise."""

    decision_id: str
    payload_digest: bytes
    answer: bytes = b""
    application: bytes = b""

    def replayed(self) -> Decision:
        """The answer as it was given, marked as replayed. Raises Refusal when it cannot be read."""
        if not self.answer:
            raise Refusal("RECORD_FAILED", _UNREADABLE, {"decision_id": self.decision_id})
        decision = Decision.FromString(self.answer)
        decision.replayed = True
        return decision

    def reused(self, request_id: str, application: bytes) -> Refusal:
        """What to say to somebody who sent this application under the same id: what differs, where that is known."""
        metadata = {"request_id": request_id, "decision_id": self.decision_id}
        message = "This request id was used before with another application; use a new request id."
        if self.application and (paths := differences(self.application, application)):
            metadata["differs"] = ",".join(paths)
            message = f"{message} What differs: {', '.join(paths)}."
        return Refusal("REQUEST_ID_REUSED", message, metadata)


class RequestIds:
    """Safe to use from several threads."""

    def __init__(
        self,
        log: DecisionLog,
        shared: SharedClaims | None = None,
        *,
        lease_s: float = 5.0,
        superseded: Superseded | None = None,
        elsewhere: Callable[[str], bytes | None] | None = None,
    ) -> None:
        """lease_s: longer than a decision takes; how long others wait when this host is lost. elsewhere: gives the
        serialised record of a decision that no journal of this host has, by its id, or None."""
        self._log, self._shared = log, shared or NoSharedClaims()
        self._lease_s, self._superseded, self._elsewhere = lease_s, superseded, elsewhere

    def claim(
        self, request_key: bytes, payload_digest: bytes, deadline_s: float | None = None
    ) -> Claimed | Standing | None:
        """Make a request id the caller's own. Claimed: it finishes or abandons. Standing: it was decided before, with
        this payload or another. None: somebody is deciding it; `wait` and claim again.

        deadline_s: the caller's, on `time.monotonic()`. Raises RecordError, Refusal.
        """
        taken = self._shared.take(request_key, payload_digest, self._lease_s, deadline_s)
        return self._claimed(request_key, payload_digest, taken, deadline_s)

    def claim_many(
        self, requests: Sequence[tuple[bytes, bytes]], deadline_s: float | None = None
    ) -> list[Claimed | Standing | Exception | None]:
        """`claim` for (request key, payload digest) pairs, with one round trip to what is shared; in their order, with
        what `claim` would raise in its place."""
        taken = self._shared.take_many(requests, self._lease_s, deadline_s)
        mine = [one for one, got in zip(requests, taken, strict=True) if isinstance(got, Mine)]
        try:
            claimed = iter(self._log.claim_many(mine))
        except BaseException:
            for request_key, _ in mine:
                self._shared.release(request_key)
            raise
        found: list[Claimed | Standing | Exception | None] = []
        for (request_key, payload_digest), got in zip(requests, taken, strict=True):
            try:
                if isinstance(got, Mine):
                    here = next(claimed)
                    if here is CLAIMED and not got.look:
                        found.append(CLAIMED)
                    else:
                        found.append(self._known_here(request_key, payload_digest, got, here, deadline_s))
                elif isinstance(got, Refusal):
                    found.append(got)
                else:
                    found.append(self._claimed(request_key, payload_digest, got, deadline_s))
            except (AssayError, OSError) as error:
                found.append(error)
        return found

    def _claimed(
        self, request_key: bytes, payload_digest: bytes, taken: Taken, deadline_s: float | None
    ) -> Claimed | Standing | None:
        """What a claim comes to, once the others were asked."""
        if isinstance(taken, Held):
            return None
        if isinstance(taken, Answered):
            return self._standing(taken, payload_digest)
        try:
            claimed = self._log.claim(request_key, payload_digest)
        except BaseException:
            self._shared.release(request_key)
            raise
        if claimed is CLAIMED and not taken.look:
            return CLAIMED
        return self._known_here(request_key, payload_digest, taken, claimed, deadline_s)

    def _known_here(
        self,
        request_key: bytes,
        payload_digest: bytes,
        taken: Mine,
        claimed: Claim | RecordError,
        deadline_s: float | None,
    ) -> Claimed | Standing | None:
        """The same, once the host's journals were asked."""
        try:
            if isinstance(claimed, RecordError):
                raise claimed
            if isinstance(claimed, InProgress) or (isinstance(claimed, Conflict) and not claimed.decision_id):
                # By a thread of this process, where claims are shared with nobody.
                self._shared.release(request_key)
                return None
            stored: StoredDecision | None = None
            if not isinstance(claimed, Claimed):
                stored = self._log.get_by_request_key(request_key)
                if stored is None:
                    return self._let_go(request_key, claimed, payload_digest)
            elif taken.look:
                stored = self._look(request_key)
            if stored is None:
                return CLAIMED
            return self._known(stored, payload_digest, deadline_s)
        except BaseException:
            self._shared.release(request_key)
            raise

    def _let_go(self, request_key: bytes, known: Existing | Conflict, payload_digest: bytes) -> Standing:
        """A decision that the index knows of and no journal of this host has: its segment went once it was shipped."""
        self._shared.release(request_key)
        stands = None if self._superseded is None else self._superseded.stands_for(known.decision_id)
        digest = b"" if isinstance(known, Conflict) else payload_digest
        return self._standing(Answered(stands or known.decision_id, digest), payload_digest)

    def _look(self, request_key: bytes) -> StoredDecision | None:
        """What the journals of the host have, also beyond what is indexed. The log's claim stays if they have nothing,
        and is given back otherwise."""
        try:
            stored = self._log.get_by_request_key(request_key)
        except BaseException:
            self._log.abandon(request_key)
            raise
        if stored is not None:
            self._log.abandon(request_key)
        return stored

    def recheck(self, request_key: bytes, payload_digest: bytes, deadline_s: float | None = None) -> Standing | None:
        """Before the record is committed: what stands already, because deciding took longer than the lease. The caller
        then abandons, and gives that."""
        other = self._shared.check(request_key, deadline_s)
        return None if other is None else self._standing(other, payload_digest)

    def finish(self, decided: Decided, deadline_s: float | None = None) -> Standing | None:
        """After the record was committed: None, the answer may be given; else what stands and must be given instead.
        Raises Refusal: nothing may be given; a retry with the same id is answered."""
        other = self._shared.settle(decided, deadline_s)
        return None if other is None else self._yield(decided.decision_id, other, decided.payload_digest)

    def finish_many(
        self, many: Sequence[Decided], deadline_s: float | None = None
    ) -> list[Standing | Exception | None]:
        """`finish` likewise, for decisions that are all committed."""
        found: list[Standing | Exception | None] = []
        for decided, other in zip(many, self._shared.settle_many(many, deadline_s), strict=True):
            if isinstance(other, Answered):
                found.append(self._yield(decided.decision_id, other, decided.payload_digest))
            else:
                found.append(other)
        return found

    def abandon(self, request_key: bytes) -> None:
        """Give a claim back undecided. Harmless when there is none."""
        self._log.abandon(request_key)
        self._shared.release(request_key)

    def wait(self, request_key: bytes, until_s: float) -> bool:
        """Wait for who is deciding a request, at most until a moment on `time.monotonic()`; then claim again. False:
        the time is up."""
        if not self._shared.wait(request_key, until_s):
            return False
        return self._log.wait(request_key, max(0.0, until_s - time.monotonic()))

    def was_given(self, decision_id: str) -> bool:
        """Whether a decision of this host's journals is one that stands."""
        return self._superseded is None or self._superseded.stands_for(decision_id) is None

    def counters(self) -> dict[str, int]:
        """Of the shared claims, and superseded_known: decisions of this host that were recorded and not given."""
        known = {} if self._superseded is None else {"superseded_known": len(self._superseded)}
        return self._shared.counters() | known

    def close(self) -> None:
        """Let go of the shared claims. The log stays its owner's."""
        self._shared.close()

    def _known(self, stored: StoredDecision, payload_digest: bytes, deadline_s: float | None) -> Standing:
        """A decision of this host's journals, under a claim of this call's: it stands unless another does."""
        stands = None if self._superseded is None else self._superseded.stands_for(stored.decision_id)
        if stands is not None:
            # Whoever knew of the other one has forgotten it by now; this one must not take its place.
            self._shared.release(stored.request_key)
            return self._standing(Answered(stands, stored.payload_digest), payload_digest)
        decided = decided_of(stored)
        if decided is None:
            raise Refusal("RECORD_FAILED", _UNREADABLE, {"decision_id": stored.decision_id})
        other = self._shared.settle(decided, deadline_s)
        if other is not None:
            return self._yield(decided.decision_id, other, payload_digest)
        return Standing(decided.decision_id, decided.payload_digest, decided.answer, _application(stored.record))

    def _yield(self, decision_id: str, other: Answered, payload_digest: bytes) -> Standing:
        if self._superseded is not None:
            self._superseded.note(decision_id, other.decision_id)
        return self._standing(other, payload_digest)

    def _standing(self, answered: Answered, payload_digest: bytes) -> Standing:
        """What stands, with what is needed of it: its answer for the same payload, its application for another."""
        if answered.answer and answered.payload_digest == payload_digest:
            return Standing(answered.decision_id, answered.payload_digest, answered.answer)
        content = self._record(answered)
        if content is None:
            return Standing(answered.decision_id, answered.payload_digest, answered.answer)
        answer = answered.answer or parse_record(content).decision.SerializeToString()
        return Standing(answered.decision_id, answered.payload_digest, answer, _application(content))

    def _record(self, answered: Answered) -> bytes | None:
        try:
            if answered.position is not None:
                stored = self._log.read(answered.position)
                if stored.decision_id == answered.decision_id:
                    return stored.record
            found = self._log.get_by_decision_id(answered.decision_id)
        except RecordError:
            found = None
        if found is not None:
            return found.record
        return None if self._elsewhere is None else self._elsewhere(answered.decision_id)


def _application(content: bytes) -> bytes:
    return parse_record(content).application.SerializeToString()
