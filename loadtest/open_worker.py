"""One sending process of the open loop: sends at the moments that the schedule says, whatever the answers do.

Started by `loadtest.open_driver` with its task on standard input. It says `ready`, waits for the moment to begin, and
writes what it measured to the file that the task names.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loadtest import population
from loadtest.asks import ASKS
from loadtest.loads import OpenDriver
from loadtest.measures import Measures
from loadtest.rpcs import methods
from loadtest.scenario import Scenario
from loadtest.schedule import arrivals
from loadtest.sending import send_async
from loadtest.target import Target
from loadtest.timers import Sleeper
from loadtest.watch import NAP_S, LoopWatch
from loadtest.world import World


class Sending:
    """The calls of one process. `share`: which of how many processes this is."""

    def __init__(self, scenario: Scenario, target: Target, world: World, share: tuple[int, int]) -> None:
        assert scenario.open is not None
        self._scenario, self._target, self._world, self._share = scenario, target, world, share
        self._driver: OpenDriver = scenario.open
        self._chance = random.Random(f"{self._driver.seed}-{share[0]}")
        self._makers: list[Callable[[World], Any]] = [ASKS[part.ask] for part in self._driver.mix]
        self._weights = list(itertools.accumulate(part.weight for part in self._driver.mix))
        self.measures = Measures(scenario.interval_s)
        self._channels: list[Any] = []
        self._methods: list[Mapping[str, Any]] = []
        # Moments of time.perf_counter: what was to be sent before this one may have been held back.
        self._held_until = 0.0

    async def connect(self) -> None:
        """Makes the connections, so that no call pays for one."""
        target = self._target
        for _ in range(self._driver.channels):
            channel = target.aio_channel()
            self._channels.append(channel)
            admin = None
            if target.admin_address:
                admin = target.aio_channel(target.admin_address)
                self._channels.append(admin)
            self._methods.append(methods(channel, admin))
        for channel in self._channels:
            await asyncio.wait_for(channel.channel_ready(), 30)

    async def run(self, begin_s: float) -> None:
        """Sends everything. begin_s: the moment of the first second, in seconds since 1970."""
        scenario = self._scenario
        self.measures = Measures(scenario.interval_s, begin_s, scenario.warm_up_s, shed_is_error=scenario.shed.is_error)
        # The wall clock may be set while the run goes on; what is due is told by the other one.
        zero = time.perf_counter() + begin_s - time.time()
        number, of = self._share
        room = asyncio.Semaphore(max(1, self._driver.in_flight_max // of))
        under_way: set[asyncio.Task[None]] = set()
        watching = asyncio.create_task(self._watch(under_way))
        sleeper = Sleeper()
        end = zero + self._driver.duration_s
        for due_s in arrivals(self._driver, self._chance, number, of):
            due = zero + due_s
            if time.perf_counter() < due:
                await sleeper.until(due)
            if room.locked():
                self.measures.held += 1
                if not await self._wait_for_room(room, end):
                    self.measures.unsent += 1
                    self._held_until = time.perf_counter()
                    continue
                self._held_until = time.perf_counter()
            else:
                await room.acquire()
            if due >= self._held_until and begin_s + due_s >= self.measures.warm_until_s:
                self.measures.lateness.note((time.perf_counter() - due) * 1e6)
            task = asyncio.create_task(self._one(begin_s + due_s, room))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(set(under_way), timeout=self._driver.drain_s + self._scenario.timeout_ms / 1000)
        watching.cancel()
        sleeper.close()
        for task in under_way:
            task.cancel()
            self.measures.unsent += 1
        for channel in self._channels:
            await channel.close()

    @staticmethod
    async def _wait_for_room(room: asyncio.Semaphore, end: float) -> bool:
        """Waits for room among the calls under way, until the run is over."""
        left_s = end - time.perf_counter()
        if left_s <= 0:
            return False
        try:
            await asyncio.wait_for(room.acquire(), left_s)
        except TimeoutError:
            return False
        return True

    async def _one(self, due_s: float, room: asyncio.Semaphore) -> None:
        """One arrival: the call, or with shed calls that are to be repeated none: an arrival waits for nobody."""
        try:
            (make,) = self._chance.choices(self._makers, cum_weights=self._weights)
            ask = make(self._world)
            use = self._methods[self._chance.randrange(len(self._methods))]
            timeout_s = self._scenario.timeout_ms / 1000
            sent = await send_async(use, ask, timeout_s, due_s, self._target.headers)
            self.measures.note(sent.call)
        finally:
            room.release()

    async def _watch(self, under_way: set[asyncio.Task[None]]) -> None:
        watch = LoopWatch(self.measures)
        while True:
            watch.before()
            await asyncio.sleep(NAP_S)
            watch.woke()
            self.measures.gauge("in_flight", time.time(), len(under_way))


async def _main(task: Mapping[str, Any]) -> None:
    scenario = Scenario.model_validate_json(task["scenario"])
    target = Target.from_json(task["target"])
    world = World(population.read(Path(task["population"])))
    world.bundle_path = target.bundle_path
    sending = Sending(scenario, target, world, (task["number"], task["of"]))
    await sending.connect()
    print("ready", flush=True)
    begin_s = float(await asyncio.to_thread(sys.stdin.readline))
    await sending.run(begin_s)
    Path(task["out"]).write_text(json.dumps(sending.measures.wire()), encoding="utf-8")


def main() -> None:
    """Runs what standard input says."""
    task = json.loads(sys.stdin.readline())
    try:
        import uvloop
    except ImportError:
        asyncio.run(_main(task))
    else:
        uvloop.run(_main(task))


if __name__ == "__main__":
    main()
