"""All metrics of one process: what is noted, what is asked of other parts, and the snapshot of both."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from engine.plan import BundlePlan
from engine.telemetry.metrics.calls import RequestMetrics, StoreMetrics
from engine.telemetry.metrics.catalogue import METHODS
from engine.telemetry.metrics.decisions import DecisionMetrics
from engine.telemetry.metrics.drift import put_drift
from engine.telemetry.metrics.flow_series import FlowSeries
from engine.telemetry.metrics.resolve import InService, shapes_of
from engine.telemetry.metrics.snapshot import Snapshot
from engine.telemetry.metrics.sources import Source

_log = logging.getLogger("assay.metrics")
# What was noted waits so long at most, so that it does not pile up between two scrapes.
_TICK_S = 0.25
_FOLD_LEAST = 256
_FOLD_EVERY = 8


class Metrics:
    """One for each process, made after the fork. Threads may use all of it at once.

    decisions, requests: what the request path notes into.
    """

    def __init__(self, reasons: tuple[str, ...] = (), clock: Callable[[], float] = time.time) -> None:
        """reasons: the ErrorReasons there are. clock: seconds since 1970."""
        self._clock, self._start_s = clock, clock()
        self.decisions = DecisionMetrics(clock=clock)
        self.requests = RequestMetrics(METHODS, reasons)
        self._stores: dict[str, StoreMetrics] = {}
        self._in_service = InService()
        self._sources: list[Source] = [self._in_service.put]
        self._failed: set[int] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def store(self, name: str) -> StoreMetrics:
        """What calls to a store are noted into; the same one for the same name."""
        return self._stores.setdefault(name, StoreMetrics(name))

    def add(self, source: Source) -> None:
        """Asks a part of the engine whenever a snapshot is made; see `sources`."""
        self._sources.append(source)

    def prepare(self, plan: BundlePlan) -> Mapping[str, FlowSeries]:
        """The series of a bundle's flows by name, to be given to `decisions.observe` once it decides."""
        return self.decisions.prepare(shapes_of(plan))

    def switch(self, plan: BundlePlan, series: Mapping[str, FlowSeries]) -> None:
        """A bundle is the default one from now on."""
        self.decisions.switch(series)
        self._in_service.serve(plan)

    def serve(self, plan: BundlePlan) -> Mapping[str, FlowSeries]:
        """`prepare` and `switch` in one."""
        series = self.prepare(plan)
        self.switch(plan, series)
        return series

    def snapshot(self) -> Snapshot:
        """All metrics at this moment, without the indices of drift: those are made of a whole (`finished`)."""
        snapshot = Snapshot(self._clock(), self._start_s)
        self.decisions.put(snapshot)
        self.requests.put(snapshot)
        for store in list(self._stores.values()):
            store.put(snapshot)
        for index, source in enumerate(list(self._sources)):
            try:
                source(snapshot)
            except Exception:
                # The others are still worth having; one line tells.
                if index not in self._failed:
                    self._failed.add(index)
                    _log.exception("a source of metrics failed")
        snapshot.put("assay.workers", (), 1)
        return snapshot

    def finished(self) -> Snapshot:
        """All metrics at this moment, ready to be shown."""
        snapshot = self.snapshot()
        put_drift(snapshot)
        return snapshot

    def start(self) -> None:
        """Folds what is noted from now on, in a thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metrics-fold", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Snapshots can still be made, and are whole."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        tick = 0
        while not self._stop.wait(_TICK_S):
            tick += 1
            # Many at a time cost less each; few wait for more, but not for long.
            if self.decisions.waiting >= _FOLD_LEAST or tick % _FOLD_EVERY == 0:
                self.decisions.fold()
                self.requests.fold()
                for store in list(self._stores.values()):
                    store.fold()
