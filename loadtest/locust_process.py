"""What one Locust process holds, and where its figures go.

Every process that runs users measures, and writes a file of its own into the directory that LOADTEST_OUT names when the
run ends; who started the run puts them together. They do not go with Locust's reports to its master: on a machine that
is busy the master does not wait for the last ones. Set up by `loadtest.locustfile`; told what to do by LOADTEST_*
variables, which `loadtest.locust_driver` sets.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import MasterRunner

from loadtest import population
from loadtest.measures import Call, Measures
from loadtest.rpcs import methods
from loadtest.scenario import Scenario
from loadtest.target import Target
from loadtest.watch import NAP_S, LoopWatch
from loadtest.world import World

SCENARIO, POPULATION, TARGET, OUT = "LOADTEST_SCENARIO", "LOADTEST_POPULATION", "LOADTEST_TARGET", "LOADTEST_OUT"
_CHANNELS_MAX = 16


class LocustProcess:
    """One a process; what it measures starts anew with each run."""

    scenario: Scenario
    target: Target
    world: World
    measures: Measures
    # When the run started, in seconds since 1970.
    began_s: float

    def __init__(self) -> None:
        self._channels: list[Mapping[str, Any]] = []
        self._next = 0
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._chance = random.Random()
        self.runs_users = False

    def begin(self, environment: Environment) -> None:
        """A run starts in this process. Nothing of gRPC is made before: workers are forked."""
        self.began_s = time.time()
        self.measures = Measures(
            self.scenario.interval_s,
            self.began_s,
            self.scenario.warm_up_s,
            shed_is_error=self.scenario.shed.is_error,
        )
        self.runs_users = not isinstance(environment.runner, MasterRunner)
        if not self.runs_users:
            return
        self.world = World(population.read(Path(os.environ[POPULATION])))
        self.world.bundle_path = self.target.bundle_path
        self._channels, self._next = [], 0
        watch = LoopWatch(self.measures)

        def look() -> None:
            while True:
                watch.before()
                gevent.sleep(NAP_S)
                watch.woke()

        def count_users() -> None:
            while environment.runner is not None:
                self.measures.gauge("users", time.time(), environment.runner.user_count)
                gevent.sleep(0.5)

        self._greenlets = [gevent.spawn(look), gevent.spawn(count_users)]

    def end(self) -> None:
        """The run is over."""
        gevent.killall(self._greenlets)
        self._greenlets = []

    def write(self) -> None:
        """Writes what was measured, where that is wanted. A master has nothing to write."""
        directory = os.environ.get(OUT)
        if directory and self.runs_users:
            wire = self.measures.wire() | {"began_s": self.began_s}
            part = Path(directory) / f"locust-{os.getpid()}.part"
            part.write_text(json.dumps(wire), encoding="utf-8")
            part.rename(part.with_suffix(".json"))

    def connection(self) -> Mapping[str, Any]:
        """The methods of a connection: a new one, or one that is shared once there are many."""
        if len(self._channels) < _CHANNELS_MAX:
            target = self.target
            admin = target.channel(target.admin_address) if target.admin_address else None
            self._channels.append(methods(target.channel(), admin))
            return self._channels[-1]
        self._next += 1
        return self._channels[self._next % _CHANNELS_MAX]

    def pause_s(self) -> float:
        """A user's next pause."""
        driver = self.scenario.locust
        assert driver is not None
        return self._chance.uniform(driver.pause_min_s, driver.pause_max_s)

    def note(self, call: Call) -> None:
        """Takes in a call."""
        self.measures.note(call)


PROCESS = LocustProcess()


def listen(environment: Environment) -> None:
    """Hooks this process's measures into Locust's events."""
    events = environment.events

    @events.test_start.add_listener  # type: ignore[untyped-decorator]
    def _begin(environment: Environment, **_: object) -> None:
        PROCESS.begin(environment)

    @events.test_stop.add_listener  # type: ignore[untyped-decorator]
    def _end(environment: Environment, **_: object) -> None:
        PROCESS.end()
        PROCESS.write()

    @events.quitting.add_listener  # type: ignore[untyped-decorator]
    def _quit(environment: Environment, **_: object) -> None:
        PROCESS.write()
        # What became of the calls is judged by who started this process.
        environment.process_exit_code = 0
