"""Watches the process that sends: whether it, and not the server, is what is measured."""

from __future__ import annotations

import time
from pathlib import Path

from loadtest.measures import Measures

NAP_S = 0.05
_SCHEDSTAT = Path("/proc/thread-self/schedstat")


class LoopWatch:
    """Of the thread whose loop sends everything: how much of a core it uses (`cpu`), how long it waits for one
    (`starved`), and how late it comes back from a short sleep (`lag_ms`).

    Call `woke` from that thread after each sleep of `NAP_S`.
    """

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._slept = self._sampled = time.perf_counter()
        self._cpu_s, self._starved_s = time.thread_time(), _waited_s()

    def before(self) -> None:
        """About to sleep."""
        self._slept = time.perf_counter()

    def woke(self) -> None:
        """Back from the sleep."""
        now, moment_s = time.perf_counter(), time.time()
        lag_s = max(0.0, now - self._slept - NAP_S)
        if moment_s >= self._measures.warm_until_s:
            self._measures.lag.note(lag_s * 1e6)
        self._measures.gauge("lag_ms", moment_s, lag_s * 1e3)
        if (past_s := now - self._sampled) >= 1.0:
            cpu_s, starved_s = time.thread_time(), _waited_s()
            self._measures.gauge("cpu", moment_s, (cpu_s - self._cpu_s) / past_s)
            self._measures.gauge("starved", moment_s, (starved_s - self._starved_s) / past_s)
            self._sampled, self._cpu_s, self._starved_s = now, cpu_s, starved_s


def _waited_s() -> float:
    """Seconds that this thread was ready to run and had no core (Linux; elsewhere always 0)."""
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
