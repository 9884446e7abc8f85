"""From decisions to counters: every recorded application is counted, once, whatever stops in between.

    journal (the event is recorded with its decision) -> queue -> the store's counters -> checkpoint

The journal is the outbox. An answer does not wait for its event to be counted; a later decision about the same
entities does (`pending`). A checkpoint beside the journal says up to where all events are counted; after a crash, or
when the queue overflowed, the journal is read again from there, and what was counted already is known by its id.
"""

from __future__ import annotations

import contextlib
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
from engine.features.encoding import encode
from engine.features.evolve import describe
from engine.features.row_schema import Field, Kind, RowSchema
from engine.features.store import JOURNAL_ENTITY, FeatureStore, entity_prefix, event_time_of, row_key
from engine.features.velocity.applier import VelocityApplier
from engine.features.velocity.definition import Event
from engine.features.velocity.updater import TTL_S
from engine.pipeline import Prepared
from engine.plan import BundlePlan
from engine.record.log import DecisionLog, Position
from engine.record.read import parse_record
from engine.under_way import UnderWay
from engine.validate import validate

_log = logging.getLogger("assay.velocity")
# A decision's event is handed over at once after its record is written; a mark is trusted only when it is much older
# than any call that might still be between the two.
_SETTLE_S = 5.0
_MARK_EVERY_S = 1.0
_MARKS_MAX = 1000
_LOOK_EVERY_S = 10.0
# The row that says up to where a store holds the counts of a journal.
_NOTE = RowSchema("counted_to", (Field("segment", Kind.STRING), Field("offset", Kind.INT64)))
_NOTE_TIMEOUT_S = 2.0
_NOWHERE = Position("", 0)


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
        erased: Erased | None = None,
        under_way: UnderWay | None = None,
    ) -> None:
        """make_applier: given what is to be told up to where events are counted; it begins `behind`. store: where they
        are counted. checkpoint: the file that keeps up to where. erased: the host's list; None: one of its own.
        under_way: what the host's workers have under way, which the applier tells it; None: it has no others."""
        self._log_of_decisions, self._store, self._checkpoint = log, store, checkpoint
        self._settle_s, self._mark_every_s, self._look_every_s = settle_s, mark_every_s, look_every_s
        self._look_at_s = 0.0
        self._journal = uuid.uuid4().hex
        self._noted: Position | None = None
        self._erased = Erased(checkpoint.with_suffix(".erased")) if erased is None else erased
        self._under_way = under_way
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

    def use(self, plan: BundlePlan) -> None:
        """Another bundle is in service: what it counts is counted from now on, and it reads the journal back."""
        self._plan = plan
        self.applier.use(plan.counters)

    def count(self, prepared: Prepared, now_us: int, position: Position) -> None:
        """A decision was recorded: its application is to be counted. Never waits, never fails."""
        self.applier.submit(event_of(prepared.flow, prepared.application, now_us), position)

    def pending(self, keys: Sequence[bytes], until_s: float) -> Collection[bytes]:
        """Waits until the events of these states are counted, at most until a moment on `time.monotonic()`; gives the
        keys whose states are known to lack some. All of them while the queue has overflowed."""
        applier = self.applier
        if applier.behind:
            return keys
        late = applier.wait_applied(keys, until_s)
        if self._under_way is None or not (elsewhere := self._under_way.wait(keys, until_s)):
            return late
        return {*late, *elsewhere}

    def settle(self, prefix: bytes, timeout_s: float = 2.0) -> None:
        """Waits until what this worker was handed so far is counted, and what others were of an entity, by the prefix
        of its keys, or the time is up. Raises StoreError when another worker still has something of it under way, which
        could bring back what is to be erased."""
        end_s = time.monotonic() + timeout_s
        while self.applier.depth and time.monotonic() < end_s:
            time.sleep(0.005)
        if self._under_way is None or self._plan is None:
            return
        views = self._plan.counters.views
        keys = [prefix + view.view.encode() for view in views if prefix.startswith(b"{%b/" % view.entity.encode())]
        if self._under_way.wait(keys, end_s):
            raise StoreError("counts of the entity are under way in another worker")

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
                if self.applier.behind or self._fell_back():
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
        since = self._counted_in_store()
        if self._written is not None and since != self._written:
            _log.warning(
                "the store's counters are behind their journal: counting from there", extra={"from": str(since)}
            )
        if self.applier.catch_up(self._events(since)):
            end = self._log_of_decisions.end
            self._note(self.applier.checkpoint or since or end or _NOWHERE)
            _log.info("all recorded applications are counted")

    def _fell_back(self) -> bool:
        """Whether the store holds fewer counts than it did: it was emptied, or is back from an older copy. Looked at
        from time to time."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return False
        self._look_at_s = now_s + self._look_every_s
        held = self._counted_in_store()
        return held is None or (self._noted is not None and held < self._noted)

    def _counted_in_store(self) -> Position | None:
        """Up to where the store itself says that it holds this journal's counts: a row beside them, so that it is lost,
        copied and restored with them. None: it says nothing. Raises StoreError."""
        (row,) = self._store.read([self._note_key()], time.monotonic() + _NOTE_TIMEOUT_S)
        if row is None:
            return None
        try:
            values = describe(row, lambda _: _NOTE.canonical).values
        except StoreError:
            return None
        return Position(str(values["segment"]), int(values["offset"] or 0))

    def _note(self, position: Position) -> None:
        """Lets the store say up to where it holds the counts. Raises StoreError."""
        self._store.put_schema(_NOTE.fingerprint, _NOTE.canonical)
        values = {"segment": position.segment, "offset": position.offset}

        def newer(held: bytes | None) -> bytes:
            # Newer than what is there, whatever the clock says.
            after_us = 0 if held is None else event_time_of(held) + 1
            return encode(_NOTE, values, max(time.time_ns() // 1000, after_us))

        self._store.update([(self._note_key(), newer)])
        self._noted = position

    def _note_key(self) -> bytes:
        return row_key(JOURNAL_ENTITY, self._journal, _NOTE.view)

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
        with contextlib.suppress(StoreError):  # what it does not say it holds is counted once more, and known by its id
            self._note(position)
