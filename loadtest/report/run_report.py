"""The report of one run."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path

from loadtest.measures import ALL
from loadtest.report import plots
from loadtest.report.page import badge, notice, page, picked, table, tile
from loadtest.report.plots import Line
from loadtest.report.scales import number
from loadtest.report.server_part import server_part
from loadtest.results import Calls, Result

VERDICTS = {
    "passed": ("good", "passed"),
    "limits_broken": ("bad", "limits broken"),
    "generator_limited": ("warn", "the generator was the limit"),
}
_EMPTY = "–"


def write(result: Result, path: Path) -> None:
    """Writes the report of a run."""
    path.write_text(page(f"Load test {result.name}", _body(result)), encoding="utf-8")


def _body(result: Result) -> Iterator[str]:
    kind, words = VERDICTS[result.verdict]
    yield f"<header><h1>{html.escape(result.name)}{badge(kind, words)}</h1>"
    yield f"<p>{html.escape(str(result.scenario['description']))}</p>"
    yield f'<p class="soft">{html.escape(_subtitle(result))}</p></header>'
    if result.generator.limited:
        yield notice(
            "warn", "These figures say nothing about the server: the generator was the limit", result.generator.why
        )
    yield from _tiles(result)
    if result.limits:
        yield "<h2>Limits</h2>"
        yield limits_table(result)
    yield "<h2>Latency and throughput over time</h2>"
    yield picked("time", [(rpc, _over_time(result, rpc)) for rpc in result.calls])
    yield "<h2>Latency by percentile</h2>"
    yield picked("percentiles", [(rpc, _percentiles(calls, rpc)) for rpc, calls in result.calls.items()])
    yield "<h2>Calls</h2>"
    yield _calls_table(result)
    yield from _reasons(result)
    yield "<h2>The generator</h2>"
    yield from _generator(result)
    yield "<h2>The server</h2>"
    yield from server_part(result)
    yield "<h2>Made with</h2>"
    yield _about(result)


def _subtitle(result: Result) -> str:
    how = "Locust users (closed loop)" if result.driver == "locust" else "arrivals at a fixed rate (open loop)"
    server = "a server of its own, embedded store" if result.own_server else "a server that was there"
    return (
        f"{how}, {result.duration_s:g} s against {server}. {result.began.replace('T', ' ').replace('+00:00', ' UTC')}"
    )


def _tiles(result: Result) -> Iterator[str]:
    calls = result.calls[ALL]
    yield '<div class="tiles">'
    yield tile(number(calls.throughput_rps), "/s", f"calls answered, {calls.answered:,} in all")
    yield tile(number(calls.decisions_per_s), "/s", f"decisions, {calls.decisions:,} in all")
    chosen = result.calls.get("Decide", calls)
    name = "Decide" if "Decide" in result.calls else "all calls"
    for key, title in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
        yield tile(_ms(chosen, key), "ms", f"{title} of {name}")
    yield tile(_percent(calls.error_ratio), "", f"errors, {calls.errors:,}")
    yield tile(_percent(calls.shed_ratio), "", f"shed, {calls.shed:,}")
    yield "</div>"


def limits_table(result: Result) -> str:
    """The limits, what was found, and whether they were kept."""
    rows = []
    for one in result.limits:
        ratio = one.limit.endswith("_ratio")
        found = _EMPTY if one.found is None else _percent(one.found) if ratio else number(one.found)
        bound = _percent(one.bound) if ratio else number(one.bound)
        verdict = badge("good", "kept") if one.kept else badge("bad", "broken" if one.found is not None else "no calls")
        rows.append([one.where, one.limit, f"{'≤' if one.kind == 'max' else '≥'} {bound}", found, verdict])
    return table(["calls", "limit", "bound", "found", ""], rows, left=2)


def _over_time(result: Result, rpc: str) -> str:
    series, warm_up_s = result.series[rpc], float(result.scenario["warm_up_s"])
    latency = plots.over_time(
        f"Latency of {'all calls' if rpc == ALL else rpc}",
        "ms",
        result.interval_s,
        [
            Line("max", "grey", series["max_ms"], "faint"),
            Line("p99", "orange", series["p99_ms"]),
            Line("p90", "teal", series["p90_ms"]),
            Line("p50", "blue", series["p50_ms"]),
        ],
        log=True,
        warm_up_s=warm_up_s,
    )
    lines = [Line("answered", "blue", series["answered_rps"], "area")]
    if any(series["decisions_per_s"]) and series["decisions_per_s"] != series["answered_rps"]:
        lines.append(Line("decisions", "teal", series["decisions_per_s"]))
    for name, colour, values in (
        ("shed", "amber", series["shed_per_s"]),
        ("errors", "red", series["errors_per_s"]),
    ):
        if any(values):
            lines.append(Line(name, colour, values))
    if rpc == ALL and result.offered_per_s is not None:
        lines.append(Line("offered", "grey", result.offered_per_s, "dashed"))
    rate = plots.over_time("Throughput", "per second", result.interval_s, lines, warm_up_s=warm_up_s, height=230)
    return latency + rate


def _percentiles(calls: Calls, rpc: str) -> str:
    name = "all calls" if rpc == ALL else rpc
    title = f"Latency of {name} by percentile, {int(calls.latency.get('count', 0)):,} calls"
    return plots.percentiles(title, [(name, "blue", calls.curve)])


def _calls_table(result: Result) -> str:
    rows = []
    for rpc, calls in result.calls.items():
        rows.append(
            [
                "all" if rpc == ALL else rpc,
                f"{calls.calls:,}",
                number(calls.throughput_rps),
                *(_ms(calls, key) for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")),
                f"{calls.errors:,}",
                f"{calls.shed:,}",
            ]
        )
        for title, extra in (("from sending on", calls.service), ("each answer", calls.answers)):
            if extra is not None and rpc != ALL:
                cells = [number(extra.get(key, 0.0)) for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")]
                rows.append([f'<span class="soft">&nbsp;&nbsp;{title}</span>', "", "", *cells, "", ""])
    head = ["RPC", "calls", "per s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "shed"]
    return table(head, rows, sums=1)


def _reasons(result: Result) -> Iterator[str]:
    rows = []
    for rpc, calls in result.calls.items():
        if rpc != ALL:
            rows += [[rpc, "error", html.escape(reason), f"{count:,}"] for reason, count in calls.reasons.items()]
            rows += [[rpc, "shed", html.escape(reason), f"{count:,}"] for reason, count in calls.shed_reasons.items()]
    yield "<h2>Errors by reason</h2>"
    if rows:
        yield table(["RPC", "", "reason", "count"], rows, left=3)
    else:
        yield '<div class="card soft">None: every call was answered well.</div>'
    verdicts = result.calls[ALL].verdicts
    total = sum(verdicts.values())
    if total:
        told = ", ".join(f"{name} {count:,} ({count / total:.0%})" for name, count in verdicts.items())
        yield f'<p class="soft">Verdicts: {html.escape(told)}. Replayed: {result.calls[ALL].replayed:,}.</p>'


def _generator(result: Result) -> Iterator[str]:
    state = result.generator
    told = [
        ["was the limit", "yes" if state.limited else "no"],
        ["sending processes", str(state.processes)],
        ["busiest fifth of the run: of a core, the sending thread", f"{state.cpu_ratio:.0%}"],
        ["busiest fifth of the run: ready to run, and no core free", f"{state.starved_ratio:.0%}"],
        ["lateness of the loop after short sleeps, p50 / p99 / max", _three(state.lag)],
    ]
    if result.driver == "open":
        told += [
            ["lateness of arrivals that nothing held back, p50 / p99 / max", _three(state.lateness)],
            ["arrivals that waited for room among the calls under way", f"{state.held:,}"],
            ["arrivals never sent", f"{state.unsent:,}"],
        ]
    else:
        told += [
            ["asked again after the wait that the server named", f"{state.retried:,}"],
            ["given up after the last try", f"{state.gave_up:,}"],
        ]
    yield table(["", ""], told)
    gauges = result.gauges
    what, name = ("Users", "users") if result.driver == "locust" else ("Calls under way", "in_flight")
    for title, unit, gauge, colour in (
        (what, "", name, "teal"),
        ("CPU of the sending thread", "of a core", "cpu", "blue"),
        ("Lateness of the loop", "ms", "lag_ms", "orange"),
    ):
        if gauge in gauges:
            highest = [None if pair is None else pair[1] for pair in gauges[gauge]]
            mean = [None if pair is None else pair[0] for pair in gauges[gauge]]
            lines = [Line("mean", colour, mean, "area"), Line("max", "grey", highest, "faint")]
            yield plots.over_time(title, unit, result.interval_s, lines, height=180)


def _about(result: Result) -> str:
    served = result.served
    rows = [
        ["machine", ", ".join(f"{key} {value}" for key, value in result.machine.items())],
        ["versions", ", ".join(f"{key} {value}" for key, value in result.versions.items())],
        ["commit", result.commit or _EMPTY],
        ["bundle", f"{served['bundle']} {served['version']}, {served['digest']}"],
        ["flows, models", f"{', '.join(served['flows'])}; {', '.join(served['models'])}"],
        ["rows loaded", f"{served['rows']:,} in {served['loading_s']:g} s"],
    ]
    cells = "".join(
        f'<tr><td class="l soft">{name}</td><td class="l wrap">{html.escape(text)}</td></tr>' for name, text in rows
    )
    scenario = html.escape(json.dumps(result.scenario, indent=1))
    return (
        f'<div class="card"><table><tbody>{cells}</tbody></table></div>'
        f'<details class="card"><summary>The scenario, whole</summary><pre>{scenario}</pre></details>'
    )


def _three(summary: dict[str, float]) -> str:
    if not summary.get("count"):
        return _EMPTY
    return " / ".join(number(summary[key]) for key in ("p50_ms", "p99_ms", "max_ms")) + " ms"


def _ms(calls: Calls, key: str) -> str:
    return number(calls.latency[key]) if key in calls.latency else _EMPTY


def _percent(ratio: float) -> str:
    return f"{number(ratio * 100)} %"
