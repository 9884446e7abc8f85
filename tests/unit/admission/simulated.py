"""A server that exists on paper: one worker, calls that come as they like, a gate before it; time passes as told."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.admission.gate import Gate, GateSettings, Lane, Refused, Ticket


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Served:
    """What came of the calls. took_s: of those answered, in the order of their ends."""

    took_s: list[float] = field(default_factory=list)
    refused: Counter[tuple[Lane, str]] = field(default_factory=Counter)
    answered: Counter[Lane] = field(default_factory=Counter)
    retry_s: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        return sorted(self.took_s)[len(self.took_s) * 99 // 100]

    @property
    def mean_s(self) -> float:
        return sum(self.took_s) / len(self.took_s)


class SimulatedServer:
    """Calls wait in order for `workers`, which take `service_s` each (give or take a fifth); `extra_s` passes beside,
    as a store's answer does. A refusal costs the time of `refusal_s` of a worker."""

    def __init__(
        self,
        settings: GateSettings,
        service_s: float = 0.001,
        workers: int = 1,
        extra_s: Callable[[float], float] = lambda now_s: 0.0,
        refusal_s: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.clock = Clock()
        self.chance = random.Random(seed)
        self.gate = Gate(settings, self.clock, self.chance.random)
        self._service_s, self._extra_s, self._refusal_s = service_s, extra_s, refusal_s
        self._free_s = [0.0] * workers

    def run(self, seconds: float, rates: dict[Lane, float]) -> Served:
        """Calls come for so many seconds, by lane and second, at random moments."""
        served, number = Served(), itertools.count()
        comes: list[tuple[float, int, Lane]] = []
        ends: list[tuple[float, int, Lane, Ticket]] = []
        until_s = self.clock.now_s + seconds
        for lane, rate in rates.items():
            heapq.heappush(comes, (self.clock.now_s + self.chance.expovariate(rate), next(number), lane))
        while comes or ends:
            if ends and (not comes or ends[0][0] <= comes[0][0]):
                self._end(served, *heapq.heappop(ends))
                continue
            self.clock.now_s, _, lane = heapq.heappop(comes)
            next_s = self.clock.now_s + self.chance.expovariate(rates[lane])
            if next_s < until_s:
                heapq.heappush(comes, (next_s, next(number), lane))
            found = self.gate.arrive(lane)
            if isinstance(found, Refused):
                served.refused[lane, found.why] += 1
                assert found.retry_s is not None
                served.retry_s.append(found.retry_s)
                self._work(self._refusal_s)
            else:
                ends_s = self._work(self._service_s * self.chance.uniform(0.8, 1.2))
                heapq.heappush(ends, (ends_s + self._extra_s(self.clock.now_s), next(number), lane, found))
        return served

    def _work(self, takes_s: float) -> float:
        worker = min(range(len(self._free_s)), key=self._free_s.__getitem__)
        self._free_s[worker] = max(self._free_s[worker], self.clock.now_s) + takes_s
        return self._free_s[worker]

    def _end(self, served: Served, now_s: float, _: int, lane: Lane, ticket: Ticket) -> None:
        self.clock.now_s = now_s
        ticket.answered = True
        ticket.done()
        served.answered[lane] += 1
        if lane == "interactive":
            served.took_s.append(now_s - ticket.arrived_s)
            served.levels.append(self.gate.limit.level)
