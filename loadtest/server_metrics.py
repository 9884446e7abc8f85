"""What the server says of itself while it is under load: its /metrics, and what the kernel says of its processes."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_TIMEOUT_S = 2.0
_BODY_MAX_BYTES = 8 << 20
# Past any proxy that the machine has for the web.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_GAUGES = ("assay_requests_in_flight", "assay_requests_waiting", "assay_streams_open")

Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Sample:
    """The samples of a page in Prometheus' or OpenMetrics' text form, by name and sorted labels."""
    found: Sample = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        found[match[1], tuple(sorted(_LABEL.findall(match[2] or "")))] = value
    return found


class Watcher:
    """Reads a server once a second, in a thread of its own. metrics_url: absent, that of nobody; pid: of a server that
    this run started, None otherwise."""

    def __init__(self, metrics_url: str, pid: int | None) -> None:
        self._url, self._pid = metrics_url, pid
        self._first: Sample | None = None
        self._last: Sample = {}
        # (seconds since 1970, name, value).
        self._readings: list[tuple[float, str, float]] = []
        self._trouble = "" if metrics_url else "no address of metrics was given"
        self._cpu_s = [0.0, 0.0]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Watches until the block ends."""
        self._look(first=True)
        self._thread.start()
        try:
            yield self
        finally:
            self._done.set()
            self._thread.join(10)
            self._look()

    def _run(self) -> None:
        while not self._done.wait(1.0):
            self._look()

    def _look(self, *, first: bool = False) -> None:
        now_s = time.time()
        if self._pid is not None:
            cpu_s, rss_bytes = _processes(self._pid)
            if first:
                self._cpu_s[0] = cpu_s
            elif cpu_s < self._cpu_s[1]:
                # A worker ended and took its time along.
                self._cpu_s[0] -= self._cpu_s[1] - cpu_s
            self._cpu_s[1] = cpu_s
            self._readings += [(now_s, "cpu_s", cpu_s), (now_s, "rss_bytes", rss_bytes)]
        if not self._url:
            return
        try:
            with _DIRECT.open(self._url, timeout=_TIMEOUT_S) as answer:
                sample = parse(answer.read(_BODY_MAX_BYTES).decode("utf-8", "replace"))
        except (OSError, ValueError) as error:
            self._trouble = f"the metrics could not be read: {getattr(error, 'reason', error)}"
            return
        self._trouble = ""
        self._first = self._first if self._first is not None else sample
        self._last = sample
        for name in _GAUGES:
            values = [value for (found, _), value in sample.items() if found == name]
            if values:
                self._readings.append((now_s, name.removeprefix("assay_"), sum(values)))

    def result(self, began_s: float) -> dict[str, Any]:
        """What was seen, as plain data. began_s: what the times of the series count from."""
        series: dict[str, list[list[float]]] = {}
        for moment_s, name, value in self._readings:
            series.setdefault(name, []).append([round(moment_s - began_s, 2), value])
        found: dict[str, Any] = {"series": _thin(series), "trouble": self._trouble}
        if self._pid is not None:
            found["cpu_s"] = round(self._cpu_s[1] - self._cpu_s[0], 3)
            found["rss_peak_bytes"] = max((v for _, name, v in self._readings if name == "rss_bytes"), default=0)
        if self._first is not None:
            found |= _deltas(self._first, self._last)
        return found


def _processes(pid: int) -> tuple[float, float]:
    """CPU seconds and resident bytes of a process and all that it started. Zeros when it is gone."""
    cpu_s = rss_bytes = 0.0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += one.memory_info().rss
    return cpu_s, rss_bytes


def _thin(series: dict[str, list[list[float]]]) -> dict[str, list[list[float]]]:
    """At most some 300 readings of each."""
    return {name: readings[:: max(1, len(readings) // 300)] for name, readings in series.items()}


def _deltas(first: Sample, last: Sample) -> dict[str, Any]:
    """What was counted between two readings."""
    grown = {key: value - first.get(key, 0.0) for key, value in last.items()}
    return {
        "decisions": _by_label(grown, "assay_decisions_total", "verdict"),
        "requests": {
            f"{dict(labels).get('method', '')} {dict(labels).get('reason', '')}".strip(): value
            for (name, labels), value in sorted(grown.items())
            if name == "assay_requests_total" and value > 0
        },
        "stage_mean_ms": _means(grown, "assay_decision_stage_duration_seconds", "stage"),
        "queue_ms": _percentiles(grown, "assay_request_queue_duration_seconds", ""),
        "request_ms": {
            method: _percentiles(grown, "assay_request_duration_seconds", method)
            for method in _by_label(grown, "assay_request_duration_seconds_count", "method")
        },
    }


def _by_label(grown: Mapping[Any, float], wanted: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for (name, labels), value in sorted(grown.items()):
        if name == wanted and value > 0:
            key = dict(labels).get(label, "")
            found[key] = found.get(key, 0.0) + value
    return found


def _means(grown: Mapping[Any, float], wanted: str, label: str) -> dict[str, float]:
    sums, counts = _by_label(grown, f"{wanted}_sum", label), _by_label(grown, f"{wanted}_count", label)
    return {key: round(sums.get(key, 0.0) / count * 1000, 4) for key, count in counts.items()}


def _percentiles(grown: Mapping[Any, float], wanted: str, method: str) -> dict[str, float]:
    """p50 and p99 in milliseconds: the upper ends of the histogram's buckets, so at most so much."""
    buckets: dict[float, float] = {}
    for (name, labels), value in grown.items():
        told = dict(labels)
        if name == f"{wanted}_bucket" and told.get("method", "") == method:
            edge = float(told["le"].replace("+Inf", "inf"))
            buckets[edge] = buckets.get(edge, 0.0) + value
    total = buckets.get(float("inf"), 0.0)
    if not total:
        return {}
    finite = max((edge for edge in buckets if edge != float("inf")), default=0.0)
    found = {}
    for title, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        edge = min((edge for edge, count in buckets.items() if count >= share * total), default=finite)
        found[title] = round(min(edge, finite) * 1000, 3)
    return found
