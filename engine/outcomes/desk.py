"""The shell around recording outcomes: it has the clock, the journal and the index; the rules are pure.

    check -> does the decision exist? -> is the id known? -> append to the journal -> note in the index -> answer

Threads may call it at once. It knows nothing of gRPC.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assay.outcome.v1 import outcome_pb2 as pb
from engine.clock import Clock
from engine.errors import FieldViolation, RecordError, Refusal, RequestError
from engine.outcomes.book import INDEX_FILE
from engine.outcomes.catch_up import CaughtUp, catch_up, note, parse_outcome
from engine.outcomes.check import KnownDecision, check_against, check_outcome, differing
from engine.outcomes.index import OutcomeIndex
from engine.outcomes.lookup import find_decision
from engine.outcomes.ports import Decisions, NoteSealer, OutcomeLog
from engine.outcomes.standing import NOW_US, Observed, Standing, observed, standings
from engine.record.entries import KeyNotHere
from engine.record.segments import FrameKind, Position
from engine.telemetry.counters import Counters

RECORD_SCHEMA = 1
# Monthly statements of a long mortgage and many corrections; beyond it something sends the same again and again.
OUTCOMES_PER_DECISION_MAX = 10_000
PAGE_MAX = 1_000
_MARK_EVERY_S = 30.0
_log = logging.getLogger("assay.outcomes")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An outcome that is recorded. decision_id: empty where the decision is not known here; recorded_us: microseconds
    since 1970 UTC; already: it was recorded before."""

    decision_id: str
    recorded_us: int
    already: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """An outcome as it is told."""

    record: pb.OutcomeRecord
    standing: Standing


class OutcomeDesk:
    """Records outcomes and tells what is known."""

    def __init__(
        self,
        log: OutcomeLog,
        decisions: Decisions,
        directory: Path,
        clock: Clock,
        counters: Counters | None = None,
        *,
        worker: str = "w0",
        durability: Literal["process", "disk"] = "process",
        sealer: NoteSealer | None = None,
    ) -> None:
        """directory: the journal's; the index lies in it. worker: the name that `log` writes under. Reads from the
        journal what the index lacks. Raises RecordError."""
        self._log, self._decisions, self._clock = log, decisions, clock
        self._worker, self._sealer = worker, sealer
        self._counters = counters or Counters()
        self._last_us = 0
        self._index = OutcomeIndex(Path(directory) / INDEX_FILE, to_disk=durability == "disk")
        try:
            self.caught_up: CaughtUp = catch_up(Path(directory), self._index)
        except BaseException:
            self._index.close()
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="assay-outcomes", daemon=True)
        self._thread.start()

    def record(self, outcome: pb.Outcome, *, allow_unknown: bool = False, tenant: str = "") -> Recorded:
        """Records one outcome; it survives what the journal's durability says when this returns. Raises RequestError,
        Refusal, RecordError."""
        (found,) = self.record_many([outcome], allow_unknown=allow_unknown, tenant=tenant)
        if isinstance(found, Exception):
            raise found
        return found

    def record_many(
        self, outcomes: Sequence[pb.Outcome], *, allow_unknown: bool = False, tenant: str = ""
    ) -> list[Recorded | RequestError | Refusal]:
        """Records outcomes in their order; one at fault harms no other. Raises RecordError: some may be recorded, and
        all may be sent again; Refusal when it cannot be
        told now whether a decision exists: none is recorded."""
        checked = [self._check(one, allow_unknown, tenant) for one in outcomes]
        found: list[Recorded | RequestError | Refusal] = []
        with self._index.writing():
            for outcome, decision in zip(outcomes, checked, strict=True):
                if isinstance(decision, RequestError | Refusal):
                    found.append(decision)
                    continue
                try:
                    found.append(self._record(outcome, decision, allow_unknown, tenant))
                except (RequestError, Refusal) as error:
                    found.append(error)
        for outcome, result in zip(outcomes, found, strict=True):
            kind = outcome.WhichOneof("kind") or "none"
            what = "refused" if isinstance(result, Exception) else "already" if result.already else "recorded"
            self._counters.add("outcomes", kind=kind, result=what)
        return found

    def get(self, outcome_id: str, tenant: str = "") -> Shown:
        """One outcome, as it stands now. Raises RequestError, Refusal, RecordError."""
        if not outcome_id:
            raise RequestError([FieldViolation("outcome_id", "is required")])
        payload = self._index.find(tenant, outcome_id[:129])
        record = None if payload is None else parse_outcome(payload)
        if record is None:
            raise Refusal(
                "OUTCOME_NOT_FOUND", "No outcome is recorded under this id.", {"outcome_id": outcome_id[:128]}
            )
        records = self._records(tenant, record.decision_id, record.request_id)
        for one, standing in standings(records):
            if one.outcome_id == outcome_id:
                return Shown(self._open(record), standing)
        return Shown(self._open(record), Standing.HOLDS)

    def of_decision(
        self, decision_id: str = "", request_id: str = "", *, as_of_us: int = NOW_US, tenant: str = ""
    ) -> list[Shown]:
        """What was known of a decision at a moment, in the order of recording. One of the two ids. Raises RequestError,
        Refusal, RecordError."""
        if not decision_id and not request_id:
            raise RequestError([FieldViolation("decision_id", "is required, or request_id in its place")])
        known = find_decision(self._decisions, decision_id, request_id, tenant)
        if known is not None:
            decision_id, request_id = known.decision_id, known.request_id
        records = self._records(tenant, decision_id, request_id)
        if known is None and not records:
            name, value = ("decision_id", decision_id) if decision_id else ("request_id", request_id)
            raise Refusal("DECISION_NOT_FOUND", "No decision is stored under this id.", {name: value[:128]})
        return [Shown(self._open(records[one]), standing) for one, standing in standings(records, as_of_us)]

    def mark(self) -> None:
        """Notes how far the journal is indexed, so that the next start reads on from here. Raises RecordError."""
        with self._index.writing():
            # Held by this thread: no other of this process is between its append and its note.
            end = self._log.end
            if end is not None:
                self._index.move_watermark(self._worker, end)

    def close(self) -> None:
        """Lets go; to be called before the log is closed. Harmless when repeated."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            with contextlib.suppress(RecordError):
                self.mark()
        self._index.close()

    def _check(
        self, outcome: pb.Outcome, allow_unknown: bool, tenant: str
    ) -> KnownDecision | RequestError | Refusal | None:
        """The decision, None for one that need not be known."""
        bad = check_outcome(outcome, self._clock.now_us())
        if bad:
            return RequestError(bad)
        known = find_decision(self._decisions, outcome.decision_id, outcome.request_id, tenant)
        if known is None:
            if allow_unknown:
                return None
            name = outcome.WhichOneof("decision") or "decision_id"
            text = "No decision is known here under this id; `allow_unknown` records outcomes that overtake theirs."
            return Refusal("DECISION_NOT_FOUND", text, {name: getattr(outcome, name)})
        bad = check_against(outcome, known)
        return RequestError(bad) if bad else known

    def _record(self, outcome: pb.Outcome, known: KnownDecision | None, allow_unknown: bool, tenant: str) -> Recorded:
        payload = self._index.find(tenant, outcome.outcome_id)
        before = None if payload is None else parse_outcome(payload)
        if before is not None:
            return self._repeated(outcome, before)
        decision_id = known.decision_id if known is not None else outcome.decision_id
        if decision_id and self._index.count_of(tenant, decision_id) >= OUTCOMES_PER_DECISION_MAX:
            text = f"has {OUTCOMES_PER_DECISION_MAX:,} outcomes already"
            raise RequestError([FieldViolation(f"outcome.{outcome.WhichOneof('decision')}", text)])
        if outcome.supersedes:
            self._check_superseded(outcome, known, allow_unknown, tenant)
        self._last_us = max(self._clock.now_us(), self._last_us + 1)
        record = pb.OutcomeRecord(
            schema_version=RECORD_SCHEMA,
            outcome=outcome,
            decision_id=decision_id,
            request_id=known.request_id if known is not None else outcome.request_id,
            tenant=tenant,
        )
        record.recorded_at.FromMicroseconds(self._last_us)
        self._seal(record, known)
        record.payload_digest = _digest(outcome)
        content = record.SerializeToString()
        self._log.append(FrameKind.OUTCOME, content)
        note(self._index, record, content)
        return Recorded(decision_id, self._last_us)

    def _repeated(self, outcome: pb.Outcome, before: pb.OutcomeRecord) -> Recorded:
        held = self._open(before).outcome
        if before.sealed_note and not held.manual_override.note:
            # The person was erased, and the note with the key: nobody can say whether it was the same.
            held.manual_override.note = outcome.manual_override.note
        differs = ",".join(differing(held, outcome))
        if not differs:
            return Recorded(before.decision_id, before.recorded_at.ToMicroseconds(), already=True)
        raise Refusal(
            "OUTCOME_ID_REUSED",
            f"The outcome id was used before with other content; it differs in {differs}.",
            {"outcome_id": outcome.outcome_id, "differs": differs},
        )

    def _check_superseded(
        self, outcome: pb.Outcome, known: KnownDecision | None, allow_unknown: bool, tenant: str
    ) -> None:
        payload = self._index.find(tenant, outcome.supersedes)
        target = None if payload is None else parse_outcome(payload)
        text = ""
        if target is None:
            text = "" if allow_unknown else "names no outcome that is known here"
        elif known is not None and target.decision_id not in ("", known.decision_id):
            text = "names an outcome of another decision"
        elif target.outcome.supersedes == outcome.outcome_id:
            text = "names an outcome that supersedes this one"
        if text:
            raise RequestError([FieldViolation("outcome.supersedes", text)])

    def _seal(self, record: pb.OutcomeRecord, known: KnownDecision | None) -> None:
        """Puts the note under its person's key, where notes are sealed. Raises RequestError where there is no key."""
        override = record.outcome.manual_override
        if self._sealer is None or not override.note:
            return
        if known is None or not known.subject:
            text = "cannot be kept: the decision is not known here, or its person's key is gone; leave it out"
            raise RequestError([FieldViolation("outcome.manual_override.note", text)])
        record.sealed_note = self._sealer.seal(_note_of(record), known.subject, override.note.encode())
        override.note = ""

    def _open(self, record: pb.OutcomeRecord) -> pb.OutcomeRecord:
        """The record with its note, as far as it can still be read."""
        if record.sealed_note and self._sealer is not None:
            try:
                content = self._sealer.unseal(_note_of(record), record.sealed_note)
            except KeyNotHere:
                content = None
            if content is not None:
                record.outcome.manual_override.note = content.decode()
        return record

    def _records(self, tenant: str, decision_id: str, request_id: str) -> dict[Observed, pb.OutcomeRecord]:
        found = {}
        for payload in self._index.of_decision(tenant, decision_id, request_id):
            record = parse_outcome(payload)
            if record is not None and record.outcome.WhichOneof("kind") is not None:
                found[observed(record)] = record
        return found

    def _run(self) -> None:
        marked: Position | None = None
        while not self._stop.wait(_MARK_EVERY_S):
            end = self._log.end
            if end == marked:
                continue
            try:
                self.mark()
                marked = end
            except RecordError as error:
                _log.warning("the index of outcomes cannot be marked", extra={"cause": str(error)})


def _note_of(record: pb.OutcomeRecord) -> str:
    """What a sealed note is bound to: it opens beside no other outcome."""
    return f"{record.decision_id}/{record.outcome.outcome_id}"


def _digest(outcome: pb.Outcome) -> bytes:
    """Without the note, whose few words could be found by trying after its key is gone."""
    plain = pb.Outcome()
    plain.CopyFrom(outcome)
    if plain.HasField("manual_override"):
        plain.manual_override.note = ""
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).digest()
