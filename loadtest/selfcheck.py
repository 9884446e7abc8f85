"""Whether the generator, and not the server, was the limit of a run.

Three things tell. The thread that sends everything uses a whole core: it cannot send more, whatever the server could
take. Its loop comes back late from short sleeps: answers lie there read too late, and latencies are its own. Arrivals
of the open loop are sent late although there was room for them. What was measured under any of these says nothing of
the server, neither good nor bad.
"""

from __future__ import annotations

from pydantic import BaseModel

from loadtest.measures import Measures
from loadtest.scenario import GeneratorLimits


class GeneratorState(BaseModel):
    """How the generator did. why: what was beyond its limit, in words; empty: nothing was.

    cpu_ratio: of one core, the thread that sends, as the mean of the busiest fifth of the run; starved_ratio: of that
    time, ready to run and without a core; lag, lateness: milliseconds by percentile; held: arrivals that waited because
    as many calls as are allowed were under way, which is the server's doing; unsent: arrivals never sent.
    """

    limited: bool
    why: list[str]
    processes: int
    cpu_ratio: float
    starved_ratio: float
    lag: dict[str, float]
    lateness: dict[str, float]
    held: int
    unsent: int
    retried: int
    gave_up: int


def check(measures: Measures, limits: GeneratorLimits, processes: int) -> GeneratorState:
    """Holds what the generator noted about itself against the limits."""
    cpu, starved = _busiest(measures, "cpu"), _busiest(measures, "starved")
    lag, lateness = measures.lag.summary(), measures.lateness.summary()
    why = []
    if cpu > limits.cpu_max_ratio:
        why.append(
            f"the sending thread used {cpu:.0%} of a core (limit {limits.cpu_max_ratio:.0%}): "
            f"use more processes than {processes}, or ask for less"
        )
    if (found := lag.get("p99_ms", 0.0)) > limits.lag_p99_max_ms:
        why.append(
            f"the sending loop came back {found:.0f} ms late (p99, limit {limits.lag_p99_max_ms:.0f} ms; it waited for "
            f"a core for {starved:.0%} of the time): give the generator cores that the server does not use"
        )
    if (found := lateness.get("p99_ms", 0.0)) > limits.lateness_p99_max_ms:
        why.append(
            f"arrivals were sent {found:.0f} ms late (p99, limit {limits.lateness_p99_max_ms:.0f} ms) with room for "
            f"them: use more processes than {processes}, or a lower rate"
        )
    if not lag.get("count"):
        why.append("the generator noted nothing about itself: its loop did not run")
    return GeneratorState(
        limited=bool(why),
        why=why,
        processes=processes,
        cpu_ratio=round(cpu, 3),
        starved_ratio=round(starved, 3),
        lag=lag,
        lateness=lateness,
        held=measures.held,
        unsent=measures.unsent,
        retried=measures.retried,
        gave_up=measures.gave_up,
    )


def _busiest(measures: Measures, name: str) -> float:
    """The mean of the highest fifth of a gauge's readings, the busiest process of each interval."""
    readings = sorted((held[2] for (_, found), held in measures.gauges.items() if found == name), reverse=True)
    chosen = readings[: max(1, len(readings) // 5)]
    return sum(chosen) / len(chosen) if chosen else 0.0
