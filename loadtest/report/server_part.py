"""What a report says of the server itself."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import pairwise

from loadtest.measures import ALL
from loadtest.report import plots
from loadtest.report.page import table
from loadtest.report.plots import Line
from loadtest.report.scales import number
from loadtest.results import Result


def server_part(result: Result) -> Iterator[str]:
    """Tables and plots of the server's metrics, as far as they could be read."""
    server = result.server
    facts = []
    decisions = sum(server.get("decisions", {}).values()) or result.calls[ALL].decisions
    if "cpu_s" in server:
        facts.append(["CPU of its processes", f"{number(server['cpu_s'])} s"])
        if decisions:
            each = server["cpu_s"] / decisions * 1e6
            facts.append(["CPU a decision, all other calls included", f"{number(each)} µs"])
        facts.append(
            [
                "most memory of its processes, shared pages counted in each",
                f"{server['rss_peak_bytes'] / 2**20:,.0f} MiB",
            ]
        )
    if server.get("queue_ms"):
        queue = server["queue_ms"]
        facts.append(
            ["wait for a thread, p50 / p99 at most", f"{number(queue['p50_ms'])} / {number(queue['p99_ms'])} ms"]
        )
    if facts:
        yield table(["", ""], facts)
    if server["trouble"]:
        yield f'<div class="card soft">Of its own figures there are none: {html.escape(server["trouble"])}.</div>'
    stages, requests = server.get("stage_mean_ms", {}), server.get("request_ms", {})
    if stages or requests:
        yield '<div class="two">'
        if stages:
            rows = [[html.escape(name), number(value)] for name, value in stages.items()]
            yield table(["stage of a decision", "mean ms, as its metrics have it"], rows)
        if requests:
            rows = [
                [html.escape(name), number(value["p50_ms"]), number(value["p99_ms"])]
                for name, value in requests.items()
                if value
            ]
            yield table(["calls as the server saw them", "p50 ≤ ms", "p99 ≤ ms"], rows)
        yield "</div>"
    series = server["series"]
    cpu = series.get("cpu_s", [])
    if len(cpu) > 2:
        times = [(a[0] + b[0]) / 2 for a, b in pairwise(cpu) if b[0] > a[0]]
        used = [max(0.0, (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairwise(cpu) if b[0] > a[0]]
        yield _readings(result, "CPU of the server", "cores", "blue", times, used)
    for name, title, unit, times_by in (
        ("rss_bytes", "Memory of the server", "MiB", 2**-20),
        ("requests_in_flight", "Calls under way in the server", "", 1.0),
    ):
        if len(series.get(name, [])) > 1:
            moments = [moment for moment, _ in series[name]]
            yield _readings(result, title, unit, "teal", moments, [value * times_by for _, value in series[name]])


def _readings(result: Result, title: str, unit: str, colour: str, times: list[float], values: list[float]) -> str:
    kept = [(time, value) for time, value in zip(times, values, strict=True) if 0 <= time <= result.duration_s]
    line = Line(title, colour, [value for _, value in kept], "area")
    return plots.readings(title, unit, result.duration_s, line, [time for time, _ in kept])
