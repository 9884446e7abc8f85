"""Writes the counts of rare things to the log when they have changed, so that they can be seen without a collector."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from engine.telemetry.counters import Counters, Series

_log = logging.getLogger("assay.counts")
_EVERY_S = 60.0


class CounterLog:
    """One line a minute at most, with every count that has risen since the last, and what it has come to."""

    def __init__(self, counters: Counters, every_s: float = _EVERY_S) -> None:
        self._counters, self._every_s = counters, every_s
        self._told: Mapping[Series, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what has risen since the last line, and ends."""
        self._stopped.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            stopped = self._stopped.wait(self._every_s)
            counts = self._counters.snapshot()
            risen = {_text(series): count for series, count in counts.items() if self._told.get(series) != count}
            if risen:
                _log.info("counts", extra={"risen": risen})
            self._told = counts
            if stopped:
                return


def _text(series: Series) -> str:
    """A count as metrics write it: name{label="value"}."""
    name, labels = series
    inside = ",".join(f'{label}="{value}"' for label, value in labels)
    return f"{name}{{{inside}}}" if inside else name
