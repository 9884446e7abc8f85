"""What the decider tells of each decision, and the fold of it.

The request path appends one tuple to a deque and does nothing else: no lock, no look-up, no arithmetic. A thread takes
the notes out again, some at a time, and counts them in bulk (`flow_series`).

Exact: `deque.append` and `deque.popleft` are atomic by Python's own promise, every note is taken out once, and only the
holder of the fold's lock counts. A snapshot folds first, so a scrape sees every decision that was answered before it.
What can be lost is what has no room (`notes_max`; counted as dropped) and what waits when the process is killed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from engine.domain.facts import Facts
from engine.domain.reason import Reasons
from engine.domain.score import ModelScore
from engine.telemetry.metrics.flow_series import FlowSeries, FlowShape, Note
from engine.telemetry.metrics.snapshot import Snapshot, merge

_log = logging.getLogger("assay.metrics")
# Folded at a time: a millisecond and a half, so that no call waits long for the interpreter; a third of that is the
# same for any number.
_CHUNK = 256
_PAUSE_S = 0.0005
# Flows of bundles that may be counted into at once, and then some.
_SERIES_MAX = 256
# The order of `Note`: a plain tuple is made several times as fast.
_new_note = tuple.__new__


class DecisionMetrics:
    """Counts decisions. Threads may call `observe` and `replayed` at once. One a process, made after the fork."""

    def __init__(self, notes_max: int = 20_000, clock: Callable[[], float] = time.time) -> None:
        """notes_max: decisions that may wait to be folded; some 2 KB each. clock: seconds since 1970."""
        self._notes: deque[Note] = deque()
        self._notes_max, self._clock = notes_max, clock
        self._rare = threading.Lock()
        self._dropped = self._replayed = self._unread = 0
        self._folding = threading.Lock()
        # All that may still be counted into, by age, and those of the default bundle.
        self._series: list[FlowSeries] = []
        self._default: dict[str, FlowSeries] = {}
        self._retired = Snapshot()

    def prepare(self, shapes: Sequence[FlowShape]) -> Mapping[str, FlowSeries]:
        """The series of a bundle's flows by name, to be given to `observe` once it decides."""
        series = {shape.name: FlowSeries(shape) for shape in shapes}
        with self._folding:
            self._series += series.values()
        return series

    def switch(self, default: Mapping[str, FlowSeries]) -> None:
        """Another bundle is the default one: it is the one whose drift is shown. Counts go on where the same labels
        were counted before, drift where the same models are."""
        with self._folding:
            self._fold_all(len(self._notes))
            for name, one in default.items():
                before = self._default.get(name)
                if before is not None and before is not one:
                    one.continue_drift_of(before)
            self._default = dict(default)
            shown = {id(one) for one in default.values()}
            gone = Snapshot()
            while len(self._series) > _SERIES_MAX:
                # Nobody decides with what is so old: only its counts are left.
                old = next(one for one in self._series if id(one) not in shown)
                self._series.remove(old)
                old.put(gone, self._clock(), drift=False)
            self._retired = merge((), (self._retired, gone))

    def serve(self, shapes: Sequence[FlowShape]) -> Mapping[str, FlowSeries]:
        """`prepare` and `switch` in one, for who serves one bundle at a time."""
        series = self.prepare(shapes)
        self.switch(series)
        return series

    def observe(
        self,
        series: FlowSeries,
        verdict: int,
        marks: Sequence[int],
        end_ns: int,
        facts: Facts,
        scores: Sequence[ModelScore],
        reasons: Reasons,
        now_us: int,
        trace_id: str = "",
        degraded: bool = False,
        recorded: bool = True,
    ) -> None:
        """Notes a decision that is answered. Never waits, never raises.

        marks: the seven moments of `engine.record.build.Parts`, on the clock of end_ns; end_ns: after the record was
        written. trace_id: 32 digits for an exemplar, "" when its trace is not kept. degraded: it lacked something that
        a failure withheld. recorded: False when it is answered without a record. Nothing given may change afterwards.
        """
        notes = self._notes
        if len(notes) >= self._notes_max:
            self._drop()
            return
        notes.append(
            _new_note(
                Note,
                (
                    series,
                    verdict,
                    marks,
                    end_ns,
                    facts.values,
                    facts.statuses,
                    facts.view_statuses,
                    facts.event_times_us,
                    scores,
                    reasons,
                    now_us,
                    trace_id,
                    degraded,
                    recorded,
                ),
            )
        )

    def replayed(self) -> None:
        """Notes that a stored decision was given again."""
        with self._rare:
            self._replayed += 1

    def _drop(self) -> None:
        with self._rare:
            self._dropped += 1

    @property
    def waiting(self) -> int:
        """Decisions that are not folded yet."""
        return len(self._notes)

    def fold(self, pause_s: float = _PAUSE_S) -> None:
        """Counts what was noted up to now. pause_s: between chunks, for calls that wait for the interpreter."""
        left = len(self._notes)
        while left > 0:
            with self._folding:
                taken = self._fold_all(min(left, _CHUNK))
            if taken == 0:
                return
            left -= taken
            if left > 0 and pause_s:
                time.sleep(pause_s)

    def _fold_all(self, most: int) -> int:
        """Takes so many notes out and counts them. With the lock."""
        popleft = self._notes.popleft
        # Only the holder of the lock takes out, so there are as many as there were.
        taken = [popleft() for _ in range(min(most, len(self._notes)))]
        by_series: dict[FlowSeries, list[Note]] = {}
        for note in taken:
            if (mine := by_series.get(note[0])) is None:
                mine = by_series[note[0]] = []
            mine.append(note)
        for series, notes in by_series.items():
            try:
                series.fold(notes)
            except Exception:
                self._fold_each(series, notes)
        return len(taken)

    def _fold_each(self, series: FlowSeries, notes: Sequence[Note]) -> None:
        """One at a time, so that the one at fault stands alone."""
        for note in notes:
            try:
                series.fold([note])
            except Exception:
                if not self._unread:
                    _log.exception("a decision could not be counted")
                self._unread += 1

    def put(self, snapshot: Snapshot) -> None:
        """Folds, and adds everything to a snapshot."""
        self.fold()
        now_s = self._clock()
        with self._folding:
            current = Snapshot()
            shown = {id(one) for one in self._default.values()}
            for one in self._series:
                one.put(current, now_s, drift=id(one) in shown)
            whole = merge((current,), (self._retired,))
            unread = self._unread
        snapshot.points.update(whole.points)
        snapshot.tracks.update(whole.tracks)
        with self._rare:
            snapshot.put("assay.decisions.replayed", (), self._replayed)
            snapshot.put("assay.metrics.dropped", (), self._dropped)
            snapshot.put("assay.metrics.unread", (), unread)
