"""How many users there are when: Locust's LoadTestShape for every shape that a scenario can have."""

from __future__ import annotations

from locust import LoadTestShape

from loadtest.loads import Ramp, Soak, Spike, Steady

_SOON_PER_S = 100.0


class _ScenarioShape(LoadTestShape):
    """A shape that ends with its duration."""

    abstract = True

    def users_at(self, second: float) -> float:
        """How many users there are so many seconds after the start."""
        raise NotImplementedError

    def tick(self) -> tuple[int, float] | None:
        """(users, users to start a second), as Locust asks once a second. None: the run is over."""
        second: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if second >= self.duration_s:
            return None
        return max(1, round(self.users_at(second))), self.spawn_per_s

    duration_s = 0.0
    spawn_per_s = _SOON_PER_S


def shape_class(wanted: Steady | Ramp | Spike | Soak) -> type[LoadTestShape]:
    """The class of a scenario's shape, for Locust to find."""
    made: type[_ScenarioShape]
    if isinstance(wanted, Steady):
        made = _steady(wanted)
    elif isinstance(wanted, Ramp):
        made = _ramp(wanted)
    elif isinstance(wanted, Spike):
        made = _spike(wanted)
    else:
        made = _soak(wanted)
    made.duration_s = wanted.duration_s
    return made


def _steady(wanted: Steady) -> type[_ScenarioShape]:
    class SteadyShape(_ScenarioShape):
        """The same number of users all the time."""

        spawn_per_s = wanted.spawn_per_s

        def users_at(self, second: float) -> float:
            return wanted.users

    return SteadyShape


def _ramp(wanted: Ramp) -> type[_ScenarioShape]:
    class RampShape(_ScenarioShape):
        """From one user to all in a straight line, and on."""

        def users_at(self, second: float) -> float:
            return wanted.users * min(1.0, second / wanted.over_s)

    return RampShape


def _spike(wanted: Spike) -> type[_ScenarioShape]:
    class SpikeShape(_ScenarioShape):
        """A sudden crowd, and back."""

        def users_at(self, second: float) -> float:
            in_spike = wanted.before_s <= second < wanted.before_s + wanted.spike_s
            return wanted.spike_users if in_spike else wanted.users

    return SpikeShape


def _soak(wanted: Soak) -> type[_ScenarioShape]:
    class SoakShape(_ScenarioShape):
        """Slowly up, for long, and slowly down."""

        def users_at(self, second: float) -> float:
            left_s = wanted.duration_s - second
            return wanted.users * min(1.0, second / wanted.ramp_s, left_s / wanted.ramp_s)

    return SoakShape
