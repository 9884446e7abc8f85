"""Holds what was measured against the limits that stand beside the scenario."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from loadtest.measures import ALL, Totals
from loadtest.scenario import Limits, RpcLimits


class Judged(BaseModel):
    """One limit. where: the RPC, or `all`; found: None where there was nothing to measure, which breaks it."""

    where: str
    limit: str
    kind: Literal["max", "min"]
    bound: float
    found: float | None
    kept: bool


def ratio(part: int, whole: int) -> float:
    """A part of a whole; 0 of nothing."""
    return part / whole if whole else 0.0


def judge(limits: Limits, totals: dict[str, Totals], measured_s: float, unsent: int) -> list[Judged]:
    """Every limit of a scenario with what was found. totals: by RPC, with `all` among them; unsent: arrivals that were
    never sent, which count as failed among all."""
    found = _one(ALL, limits, totals.get(ALL), measured_s, unsent)
    for rpc, one in limits.rpc.items():
        found += _one(rpc, one, totals.get(rpc), measured_s, 0)
    return found


def _one(where: str, limits: RpcLimits, total: Totals | None, measured_s: float, unsent: int) -> list[Judged]:
    if total is None or not total.tally.calls:
        total = None
    judged = []
    for name in RpcLimits.model_fields:
        bound = getattr(limits, name)
        if bound is None:
            continue
        value = None if total is None else _value(name, total, measured_s, unsent)
        least = "_min_" in name
        kept = value is not None and (value >= bound if least else value <= bound)
        rounded = None if value is None else round(value, 6)
        judged.append(
            Judged(where=where, limit=name, kind="min" if least else "max", bound=bound, found=rounded, kept=kept)
        )
    return judged


_PERCENTILES = {
    "p50_max_ms": 50.0,
    "p90_max_ms": 90.0,
    "p95_max_ms": 95.0,
    "p99_max_ms": 99.0,
    "p999_max_ms": 99.9,
}


def _value(name: str, total: Totals, measured_s: float, unsent: int) -> float | None:
    tally = total.tally
    if name in _PERCENTILES:
        # Without a single call that was not shed there is no latency.
        return total.latencies.percentile_ms(_PERCENTILES[name]) if total.latencies.count else None
    if name == "error_max_ratio":
        return ratio(tally.errors + unsent, tally.units + unsent)
    if name == "shed_max_ratio":
        return ratio(tally.shed, tally.units)
    if name == "throughput_min_rps":
        return tally.answered / measured_s
    return tally.decisions / measured_s
