"""Holds two runs against each other: ratios, and a verdict with tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from loadtest.problems import ExitCode
from loadtest.results import Calls, Result

TOLERANCE = 0.10
# Percentiles of few calls are chance: one is judged when so many calls lie beyond it in both runs.
BEYOND_MIN = 10
_SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
# Differences below these are nothing, whatever their ratio.
_FLOOR_MS, _FLOOR_RATIO = 0.2, 0.001

Standing = Literal["same", "better", "worse", "not judged"]
Verdict = Literal["no worse", "worse", "generator_limited"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both runs. ratio: after / before, None where before is none; why: of what is not judged."""

    rpc: str
    name: str
    before: float
    after: float
    ratio: float | None
    standing: Standing
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All figures. notes: what makes the two runs hard to compare."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...]
    tolerance: float
    verdict: Verdict
    only_in_one: tuple[str, ...] = field(default_factory=tuple)

    @property
    def exit_code(self) -> ExitCode:
        """How the comparison ends."""
        codes = {
            "no worse": ExitCode.PASSED,
            "worse": ExitCode.LIMITS_BROKEN,
            "generator_limited": ExitCode.GENERATOR_LIMITED,
        }
        return codes[self.verdict]


def compare(before: Result, after: Result, tolerance: float = TOLERANCE) -> Comparison:
    """Every figure that both runs have. A run whose generator was the limit makes the whole worthless."""
    figures: list[Figure] = []
    for rpc, first in before.calls.items():
        second = after.calls.get(rpc)
        if second is not None:
            figures += _figures(rpc, first, second, tolerance, offered=before.driver == "open")
    only = tuple(sorted(before.calls.keys() ^ after.calls.keys()))
    verdict: Verdict = "no worse"
    if before.generator.limited or after.generator.limited:
        verdict = "generator_limited"
    elif any(figure.standing == "worse" for figure in figures):
        verdict = "worse"
    return Comparison(tuple(figures), _notes(before, after), tolerance, verdict, only)


def _figures(rpc: str, before: Calls, after: Calls, tolerance: float, *, offered: bool) -> list[Figure]:
    found = []
    for name, share in _SHARES.items():
        if name not in before.latency or name not in after.latency:
            continue
        beyond = min(before.latency["count"], after.latency["count"]) * (1 - share)
        why = "" if beyond >= BEYOND_MIN else f"only {beyond:.0f} calls lie beyond it"
        found.append(_one(rpc, name, before.latency[name], after.latency[name], tolerance, _FLOOR_MS, why=why))
    why = "the rate was given, not found" if offered else ""
    for name in ("throughput_rps", "decisions_per_s"):
        first, second = getattr(before, name), getattr(after, name)
        if first or second:
            found.append(_one(rpc, name, first, second, tolerance, 0.0, higher_is_better=True, why=why))
    for name in ("error_ratio", "shed_ratio"):
        found.append(_one(rpc, name, getattr(before, name), getattr(after, name), tolerance, _FLOOR_RATIO))
    return found


def _one(
    rpc: str,
    name: str,
    before: float,
    after: float,
    tolerance: float,
    floor: float,
    *,
    higher_is_better: bool = False,
    why: str = "",
) -> Figure:
    ratio = round(after / before, 4) if before else None
    standing: Standing = "same"
    lower, higher = before * (1 - tolerance) - floor, before * (1 + tolerance) + floor
    if after > higher:
        standing = "better" if higher_is_better else "worse"
    elif after < lower:
        standing = "worse" if higher_is_better else "better"
    return Figure(rpc, name, before, after, ratio, "not judged" if why else standing, why)


def _notes(before: Result, after: Result) -> tuple[str, ...]:
    notes = []
    told = {"before": before, "after": after}
    for name, run in told.items():
        if run.generator.limited:
            notes.append(f"the run {name}: the generator was the limit ({'; '.join(run.generator.why)})")
    # What a scenario is called, and what it is held against, is no part of the load.
    keys = (before.scenario.keys() | after.scenario.keys()) - {"name", "description", "limits", "generator"}
    if differs := sorted(key for key in keys if before.scenario.get(key) != after.scenario.get(key)):
        notes.append(f"the scenarios are not the same: {', '.join(differs)}")
    if _without_load(before.machine) != _without_load(after.machine):
        notes.append("the machines are not the same")
    if before.served.get("digest") != after.served.get("digest"):
        notes.append("the bundles are not the same")
    changed = sorted(
        name
        for name in before.versions.keys() | after.versions.keys()
        if before.versions.get(name) != after.versions.get(name)
    )
    if changed:
        told_versions = ", ".join(
            f"{name} {before.versions.get(name, 'none')} and {after.versions.get(name, 'none')}" for name in changed
        )
        notes.append(f"versions differ: {told_versions}")
    return tuple(notes)


def _without_load(machine: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in machine.items() if name != "load_before"}
