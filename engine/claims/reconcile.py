"""Settles what this worker's journal has and the store does not: after a crash between the two, and after the store
failed. A checkpoint beside the journal says up to where all is settled; what lies beyond it is settled again, which
does no harm."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from engine.claims.shared import Decided
from engine.claims.store import StoreClaims
from engine.claims.superseded import Superseded
from engine.errors import RecordError, StoreError
from engine.record.entries import StoredDecision
from engine.record.log import DecisionLog, Position
from engine.record.read import parse_record

_log = logging.getLogger("assay.claims")
# A decision is settled at once after its record is written; a mark is trusted only when it is much older than any call
# that might still be between the two.
_SETTLE_S, _EVERY_S, _LONGEST_S, _MARKS_MAX = 30.0, 1.0, 15.0, 1000
_BATCH, _BATCH_TIMEOUT_S = 100, 10.0


class Reconciler:
    """Runs on a thread of its own. A log's own worker has one; `behind` may be called from any thread."""

    def __init__(
        self,
        log: DecisionLog,
        claims: StoreClaims,
        superseded: Superseded,
        checkpoint: Path,
        *,
        look_back_s: float = 3600.0,
        settle_s: float = _SETTLE_S,
        every_s: float = _EVERY_S,
    ) -> None:
        """checkpoint: the file. look_back_s: how old decisions may be that are settled where there is no checkpoint."""
        self._decisions, self._claims, self._superseded = log, claims, superseded
        self._checkpoint, self._look_back_s = checkpoint, look_back_s
        self._settle_s, self._every_s = settle_s, every_s
        self._counts: Counter[str] = Counter()
        self._behind, self._stopped = threading.Event(), threading.Event()
        self._marks: deque[tuple[float, Position]] = deque()
        self._reached: Position | None = None
        self._thread: threading.Thread | None = None
        claims.on_unsettled = self.behind

    def start(self) -> None:
        """Settles what the checkpoint does not cover, and keeps it from now on."""
        self._behind.set()
        self._thread = threading.Thread(target=self._run, name="assay-claims", daemon=True)
        self._thread.start()

    def behind(self) -> None:
        """A decision that is in the journal could not be settled: look through it again from the checkpoint."""
        self._behind.set()

    @property
    def is_behind(self) -> bool:
        """Whether the journal may have decisions that the store does not know of."""
        return self._behind.is_set()

    def counters(self) -> dict[str, int]:
        """resettled: decisions told to the store; conflicts: those of them that another host's stands in place of;
        passes: how often the journal was looked through; failures: how often the store failed at it."""
        return {name: self._counts[name] for name in ("resettled", "conflicts", "passes", "failures")}

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends. Call it before the store is closed. Harmless when repeated."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)

    def reconcile(self) -> int:
        """One pass from the checkpoint to the end; gives how many conflicts there were. Raises StoreError, RecordError:
        the rest was not looked at."""
        end = self._decisions.end
        start, oldest_ms = self._read_checkpoint()
        found = 0
        items = self._items(start, oldest_ms)
        while batch := list(islice(items, _BATCH)):
            if self._stopped.is_set():
                return found
            others = self._claims.adopt(batch, time.monotonic() + _BATCH_TIMEOUT_S)
            for one, other in zip(batch, others, strict=True):
                if other is not None:
                    found += 1
                    self._superseded.note(one.decision_id, other.decision_id)
            self._counts["resettled"] += len(batch)
        self._counts["conflicts"] += found
        self._counts["passes"] += 1
        if end is not None:
            self._marks.append((time.monotonic(), end))
        return found

    def _items(self, start: Position | None, oldest_ms: int) -> Iterator[Decided]:
        for stored in self._decisions.iterate_own(start):
            if _moment_ms(stored.decision_id) >= oldest_ms and self._stands(stored.decision_id):
                decided = decided_of(stored)
                if decided is not None:
                    yield decided

    def _stands(self, decision_id: str) -> bool:
        return self._superseded.stands_for(decision_id) is None

    def _run(self) -> None:
        pause_s = self._every_s
        while True:
            try:
                if self._behind.is_set():
                    # Cleared first: what fails during the pass makes for another one.
                    self._behind.clear()
                    try:
                        conflicts = self.reconcile()
                    except BaseException:
                        self._behind.set()
                        raise
                    if conflicts:
                        _log.warning("decisions of this journal were made elsewhere too", extra={"count": conflicts})
                self._advance()
                pause_s = self._every_s
            except StoreError:
                self._counts["failures"] += 1
                pause_s = min(2 * pause_s, _LONGEST_S)
            except (RecordError, OSError) as error:
                _log.warning("the checkpoint of claims cannot be kept", extra={"error": str(error)})
            except Exception:
                _log.exception("settling what the journal has failed")
            if self._stopped.wait(pause_s):
                return

    def _advance(self) -> None:
        """Note where the journal ends, and move the checkpoint to the youngest mark that is old enough."""
        if self._behind.is_set():
            self._marks.clear()
            return
        now_s, end = time.monotonic(), self._decisions.end
        if end is not None and (not self._marks or self._marks[-1][1] != end):
            self._marks.append((now_s, end))
            if len(self._marks) > _MARKS_MAX:
                del self._marks[1]
        reached = None
        while self._marks and self._marks[0][0] <= now_s - self._settle_s:
            reached = self._marks.popleft()[1]
        if reached is not None and reached != self._reached:
            self._write_checkpoint(reached)

    def _read_checkpoint(self) -> tuple[Position | None, int]:
        """Where to start, and from which moment on decisions count. Raises RecordError for a file that is none."""
        try:
            content = json.loads(self._checkpoint.read_text())
            return Position(str(content["segment"]), int(content["offset"])), 0
        except FileNotFoundError:
            return None, time.time_ns() // 1_000_000 - int(1000 * self._look_back_s)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the checkpoint of claims makes no sense and is made anew", extra={"error": str(error)})
            with contextlib.suppress(OSError):
                self._checkpoint.unlink()
            return None, time.time_ns() // 1_000_000 - int(1000 * self._look_back_s)

    def _write_checkpoint(self, position: Position) -> None:
        fresh = self._checkpoint.with_suffix(".new")
        fresh.write_text(json.dumps({"segment": position.segment, "offset": position.offset}))
        os.replace(fresh, self._checkpoint)
        self._reached = position


def decided_of(stored: StoredDecision) -> Decided | None:
    """What a stored decision is to claims; None for a record that cannot be read any more."""
    try:
        decision = parse_record(stored.record).decision
    except RecordError:
        return None
    if not decision.decision_id:
        return None
    answer = decision.SerializeToString()
    return Decided(stored.request_key, stored.payload_digest, stored.decision_id, answer, stored.position)


def _moment_ms(decision_id: str) -> int:
    """When a decision was made, milliseconds since 1970 UTC: what its id (a UUID of version 7) begins with."""
    try:
        return int(decision_id[:8] + decision_id[9:13], 16)
    except ValueError:
        return 0
