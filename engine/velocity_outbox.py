"""From decisions to counters: every recorded application is counted, once, whatever stops in between.

    journal (the event is recorded with its decision) -> queue -> the store's counters -> checkpoint

The journal is the outbox. An answer does not wait for its event to be counted; a later decision about the same
entities does (`pending`). A checkpoint beside the journal says up to where all events are counted; after a crash, or
when the queue overflowed, the journal is read again from there, and what was counted already is known by its id.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.erased import Erased
from engine.errors import RecordError, RequestError, StoreError
from engine.events import event_of
from engine.features.row_schema import fingerprint_of
from engine.features.store import FeatureStore, entity_prefix
from engine.features.velocity.applier import VelocityApplier
from engine.features.velocity.definition import Event
from engine.features.velocity.updater import TTL_S
from engine.pipeline import Prepared
from engine.plan import BundlePlan
from engine.record.log import DecisionLog, Position
from engine.record.read import parse_record
from engine.validate import validate

_log = logging.getLogger("assay.velocity")
# A decision's event is handed over at once after its record is written; a mark is trusted only when it is much older
# than any call that might still be between the two.
_SETTLE_S = 5.0
_MARK_EVERY_S = 1.0
_MARKS_MAX = 1000
_LOOK_EVERY_S = 10.0


class _Mark(NamedTuple):
    """At this moment the journal ended here."""

    moment_s: float
    position: Position


class VelocityOutbox:
    """Hands events to the applier and keeps the checkpoint. Threads may call it at once."""

    def __init__(
        self,
        log: DecisionLog,
        make_applier: Callable[[Callable[[Position], None]], VelocityApplier],
        store: FeatureStore,
        checkpoint: Path,
        *,
        settle_s: float = _SETTLE_S,
        mark_every_s: float = _MARK_EVERY_S,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        """make_applier: given what is to be told up to where events are counted; it begins `behind`. store: where they
        are counted. checkpoint: the file that keeps up to where."""
        self._log_of_decisions, self._store, self._checkpoint = log, store, checkpoint
        self._settle_s, self._mark_every_s, self._look_every_s = settle_s, mark_every_s, look_every_s
        self._look_at_s = 0.0
        self._journal = uuid.uuid4().hex
        self._erased = Erased(checkpoint.with_suffix(".erased"))
        self._applied: Position | None = None
        self._marks: deque[_Mark] = deque()
        self._written: Position | None = None
        self._plan: BundlePlan | None = None
        self.applier = make_applier(self._on_applied)
        self._stopped, self._begun = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, plan: BundlePlan, wait_s: float = 5.0) -> None:
        """Counts what the journal holds beyond the checkpoint, and keeps the checkpoint from now on. Waits for the
        first a while: until it is done, counters are known to be too low and count as unavailable.

        plan: the bundle that reads the applications back."""
        self._plan = plan
        self._read_checkpoint()
        self._erased.load()
        self._thread = threading.Thread(target=self._run, name="velocity-checkpoint", daemon=True)
        self._thread.start()
        self._begun.wait(wait_s)

    def serve(self, plan: BundlePlan) -> None:
        """Another bundle is in service."""
        self._plan = plan

    def count(self, prepared: Prepared, now_us: int, position: Position) -> None:
        """A decision was recorded: its application is to be counted. Never waits, never fails."""
        self.applier.submit(event_of(prepared.flow, prepared.application, now_us), position)

    def pending(self, keys: Sequence[bytes], until_s: float) -> Collection[bytes]:
        """Waits until the events of these states are counted, at most until a moment on `time.monotonic()`; gives the
        keys whose states are known to lack some. All of them while the queue has overflowed."""
        applier = self.applier
        return keys if applier.behind else applier.wait_applied(keys, until_s)

    def settle(self, timeout_s: float = 2.0) -> None:
        """Waits until what was handed over so far is counted, or the time is up."""
        end_s = time.monotonic() + timeout_s
        while self.applier.depth and time.monotonic() < end_s:
            time.sleep(0.005)

    def erased(self, prefix: bytes) -> None:
        """An entity was erased: what the journal holds of it is not counted again."""
        self._erased.add(prefix, time.time_ns() // 1000)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Counts what waits, writes the checkpoint, and ends."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)
        end = self._log_of_decisions.end
        if self.applier.stop(timeout_s) and not self.applier.behind and end is not None and thread is not None:
            self._write_checkpoint(end)

    def _on_applied(self, position: Position) -> None:
        self._applied = position

    def _run(self) -> None:
        while True:
            try:
                if self.applier.behind or self._was_emptied():
                    self._catch_up()
                else:
                    self._advance()
            except StoreError:
                pass  # tried again in a while; the store's breaker says what is wrong
            except (RecordError, OSError) as error:
                _log.warning("the checkpoint of counters cannot be kept", extra={"error": str(error)})
            except Exception:
                _log.exception("the checkpoint of counters failed")
            if not self.applier.behind:
                self._begun.set()
            if self._stopped.wait(self._mark_every_s):
                return

    def _advance(self) -> None:
        """Notes where the journal ends, and moves the checkpoint to the youngest mark that all events have passed."""
        now_s, end = time.monotonic(), self._log_of_decisions.end
        if end is not None and (not self._marks or self._marks[-1].position != end):
            self._marks.append(_Mark(now_s, end))
            if len(self._marks) > _MARKS_MAX:
                del self._marks[1]
        # With nothing left to count, everything that was written when the mark was made is counted.
        idle = self.applier.depth == 0
        reached = None
        while self._marks and self._marks[0].moment_s <= now_s - self._settle_s:
            mark = self._marks[0].position
            if not idle and (self._applied is None or self._applied < mark):
                break
            reached = self._marks.popleft().position
        if reached is not None and reached != self._written:
            self._write_checkpoint(reached)

    def _catch_up(self) -> None:
        """After a start, or when the queue overflowed while the store failed: everything beyond the checkpoint again,
        as the store takes it."""
        self._marks.clear()
        note = self._note()
        if self._written is not None and self._store.get_schema(fingerprint_of(note)) != note:
            _log.warning("the store holds no counters of this journal: all is counted again")
            self._written = None
        if self.applier.catch_up(self._events(self._written)):
            self._store.put_schema(fingerprint_of(note), note)
            _log.info("all recorded applications are counted")

    def _was_emptied(self) -> bool:
        """Whether the store lost the note that it holds this journal's counters, and so the counters as well. Looked at
        from time to time."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return False
        self._look_at_s = now_s + self._look_every_s
        note = self._note()
        return self._store.get_schema(fingerprint_of(note)) != note

    def _note(self) -> bytes:
        """What the store keeps beside its schemas, to tell that it holds the counters of this journal."""
        return json.dumps({"counters_of_journal": self._journal}).encode()

    def _events(self, since: Position | None) -> Iterator[tuple[Event, Position]]:
        """The events of this worker's decisions from a position on."""
        skipped = 0
        for stored in self._log_of_decisions.iterate_own(since):
            event = self._event_of(stored.record)
            if event is None:
                skipped += 1
            else:
                yield event, stored.position
        if skipped:
            _log.info("recorded applications too old, or unknown to the bundle in service", extra={"count": skipped})

    def _event_of(self, content: bytes) -> Event | None:
        plan = self._plan
        assert plan is not None
        record = parse_record(content)
        decided_us = record.decision.decided_at.ToMicroseconds()
        if decided_us < time.time_ns() // 1000 - TTL_S * 1_000_000:
            return None  # no window reaches back to it
        request = DecideRequest(request_id=record.decision.request_id, application=record.application)
        try:
            flow, application = validate(plan, request, decided_us)
        except RequestError:
            return None
        if not flow.records_events:
            return None
        event = event_of(flow, application, decided_us)
        named = {e: i for e, i in event.entities.items() if not self._erased.covers(entity_prefix(e, i), decided_us)}
        return event._replace(entities=named) if named else None

    def _read_checkpoint(self) -> None:
        try:
            content = json.loads(self._checkpoint.read_text(encoding="utf-8"))
            self._written = Position(str(content["segment"]), int(content["offset"]))
            self._journal = str(content["journal"])
        except FileNotFoundError:
            self._written = None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the checkpoint of counters cannot be read: all is counted again", extra={"error": str(error)})
            self._written = None

    def _write_checkpoint(self, position: Position) -> None:
        temporary = self._checkpoint.with_suffix(".tmp")
        content = {"segment": position.segment, "offset": position.offset, "journal": self._journal}
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, self._checkpoint)
        self._written = position
