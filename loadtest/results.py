"""The result of a run: one JSON document, versioned, from which reports and comparisons are made."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtest import about, selfcheck
from loadtest.histograms import Buckets
from loadtest.limits import Judged, judge, ratio
from loadtest.measures import ALL, Measures, Tally, Totals
from loadtest.prepare import Served
from loadtest.problems import CouldNotRun, ExitCode
from loadtest.scenario import Scenario
from loadtest.schedule import expected
from loadtest.selfcheck import GeneratorState

SCHEMA_VERSION: Literal[1] = 1
_SERIES_PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "max_ms": 100.0}

Verdict = Literal["passed", "limits_broken", "generator_limited"]
_EXIT: dict[str, ExitCode] = {
    "passed": ExitCode.PASSED,
    "limits_broken": ExitCode.LIMITS_BROKEN,
    "generator_limited": ExitCode.GENERATOR_LIMITED,
}


class Calls(BaseModel):
    """The calls of one RPC, or of all. latency: milliseconds by percentile; for the open loop from the moment that a
    call was due, and service from the moment that it was sent; answers: of streams, each answer; curve: percentile and
    milliseconds; histogram: HdrHistogram's own form."""

    calls: int
    answered: int
    units: int
    errors: int
    shed: int
    decisions: int
    replayed: int
    error_ratio: float
    shed_ratio: float
    throughput_rps: float
    decisions_per_s: float
    latency: dict[str, float]
    service: dict[str, float] | None = None
    answers: dict[str, float] | None = None
    reasons: dict[str, int]
    shed_reasons: dict[str, int]
    verdicts: dict[str, int]
    curve: list[tuple[float, float]]
    histogram: str


class Result(BaseModel):
    """One run. series: by RPC and name, one value an interval; gauges: (mean, maximum) an interval by name."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1]
    driver: Literal["locust", "open"]
    scenario: dict[str, Any]
    began: str
    duration_s: float
    measured_s: float
    own_server: bool
    served: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    calls: dict[str, Calls]
    interval_s: float
    series: dict[str, dict[str, list[float | None]]]
    gauges: dict[str, list[tuple[float, float] | None]]
    offered_per_s: list[float] | None
    generator: GeneratorState
    server: dict[str, Any]
    limits: list[Judged]
    verdict: Verdict

    @property
    def name(self) -> str:
        """The scenario's name."""
        return str(self.scenario["name"])

    @property
    def exit_code(self) -> ExitCode:
        """How the run ends."""
        return _EXIT[self.verdict]

    def write(self, path: Path) -> None:
        """Writes the document."""
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Result:
    """The result in a file. Raises CouldNotRun when it is none, or of another version."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CouldNotRun(f"{path} cannot be read as a result: {error}") from None
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        raise CouldNotRun(f"{path} is no result that is understood: schema_version is {version}, not {SCHEMA_VERSION}")
    try:
        return Result.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CouldNotRun(f"{path} is no whole result: {place}: {first['msg']}") from None


def make(
    scenario: Scenario, measures: Measures, began_s: float, served: Served, server: dict[str, Any], *, own: bool
) -> Result:
    """The result of what was measured. Raises CouldNotRun when nothing was."""
    if not measures.points:
        raise CouldNotRun("not a single call ended: the run measured nothing")
    measured_s = scenario.duration_s - scenario.warm_up_s
    totals = {**measures.totals, ALL: measures.together()}
    generator = selfcheck.check(measures, scenario.generator, scenario.driver.processes)
    judged = judge(scenario.limits, totals, measured_s, measures.unsent)
    verdict: Verdict = "passed"
    if generator.limited:
        verdict = "generator_limited"
    elif not all(one.kept for one in judged):
        verdict = "limits_broken"
    count = max(1, -(-int(scenario.duration_s * 1000) // int(measures.interval_s * 1000)))
    return Result(
        schema_version=SCHEMA_VERSION,
        driver="locust" if scenario.locust is not None else "open",
        scenario=scenario.model_dump(mode="json"),
        began=datetime.fromtimestamp(began_s, UTC).isoformat(timespec="seconds"),
        duration_s=scenario.duration_s,
        measured_s=measured_s,
        own_server=own,
        served={
            "bundle": served.bundle,
            "version": served.version,
            "digest": served.digest,
            "flows": list(served.flows),
            "models": list(served.models),
            "rows": served.rows,
            "loading_s": served.loading_s,
        },
        machine=about.machine(),
        versions=about.versions(),
        commit=about.commit(),
        calls={rpc: _calls(total, measured_s) for rpc, total in sorted(totals.items(), key=_most_calls)},
        interval_s=measures.interval_s,
        series=_series(measures, count),
        gauges=_gauges(measures, count, scenario.driver.processes),
        offered_per_s=_offered(scenario, measures.interval_s, count),
        generator=generator,
        server=server,
        limits=judged,
        verdict=verdict,
    )


def _most_calls(item: tuple[str, Totals]) -> tuple[bool, int]:
    return item[0] != ALL, -item[1].tally.calls


def _calls(total: Totals, measured_s: float) -> Calls:
    tally = total.tally
    return Calls(
        calls=tally.calls,
        answered=tally.answered,
        units=tally.units,
        errors=tally.errors,
        shed=tally.shed,
        decisions=tally.decisions,
        replayed=tally.replayed,
        error_ratio=round(ratio(tally.errors, tally.units), 6),
        shed_ratio=round(ratio(tally.shed, tally.units), 6),
        throughput_rps=round(tally.answered / measured_s, 3),
        decisions_per_s=round(tally.decisions / measured_s, 3),
        latency=total.latencies.summary(),
        service=None if total.service is None else total.service.summary(),
        answers=None if total.answers is None else total.answers.summary(),
        reasons=dict(total.reasons.most_common()),
        shed_reasons=dict(total.shed_reasons.most_common()),
        verdicts=dict(total.verdicts.most_common()),
        curve=total.latencies.curve(),
        histogram=total.latencies.encoded(),
    )


def _series(measures: Measures, count: int) -> dict[str, dict[str, list[float | None]]]:
    """By RPC: latencies and rates of each interval. An interval without a call has no latency."""
    found = {}
    for rpc in (ALL, *measures.points):
        lines: dict[str, list[float | None]] = {
            name: [] for name in (*_SERIES_PERCENTILES, "answered_rps", "errors_per_s", "shed_per_s", "decisions_per_s")
        }
        chosen = measures.points.values() if rpc == ALL else [measures.points[rpc]]
        for index in range(count):
            buckets, tally = Buckets(), Tally()
            for points in chosen:
                if (point := points.get(index)) is not None:
                    buckets.add(point.buckets.counts)
                    tally.add(point.tally.plain())
            values = buckets.values_ms(list(_SERIES_PERCENTILES.values()))
            for name, value in zip(_SERIES_PERCENTILES, values, strict=True):
                lines[name].append(value if buckets.counts else None)
            rates = (tally.answered, tally.errors, tally.shed, tally.decisions)
            for name, rate in zip(list(lines)[len(_SERIES_PERCENTILES) :], rates, strict=True):
                lines[name].append(round(rate / measures.interval_s, 3))
        found[rpc] = lines
    return found


def _gauges(measures: Measures, count: int, processes: int) -> dict[str, list[tuple[float, float] | None]]:
    """(mean, maximum) of each interval. Each process notes its own users and calls under way: they are added up."""
    found: dict[str, list[tuple[float, float] | None]] = {}
    for name in sorted({name for _, name in measures.gauges}):
        times = processes if name in ("users", "in_flight") else 1
        line: list[tuple[float, float] | None] = []
        for index in range(count):
            held = measures.gauges.get((index, name))
            line.append(None if held is None else (round(held[0] / held[1] * times, 4), round(held[2] * times, 4)))
        found[name] = line
    return found


def _offered(scenario: Scenario, interval_s: float, count: int) -> list[float] | None:
    """The rate that arrivals of the open loop were to have."""
    if scenario.open is None:
        return None
    stages = scenario.open.stages
    # The number of arrivals until each moment, and its differences.
    counted = []
    for index in range(count + 1):
        left_s, total = index * interval_s, 0.0
        for stage in stages:
            past = min(left_s, stage.duration_s)
            rate = stage.rate_per_s + (stage.end_rate_per_s - stage.rate_per_s) * past / stage.duration_s
            total += (stage.rate_per_s + rate) / 2 * past
            left_s -= past
        counted.append(total)
    assert counted[-1] <= sum(expected(stage) for stage in stages) + 1e-6
    return [round((after - before) / interval_s, 3) for before, after in itertools.pairwise(counted)]
