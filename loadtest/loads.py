"""The two kinds of load that a scenario can have: users over time, and arrivals over time."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The kinds of users, each a class of `loadtest.users`.
UserKind = Literal[
    "interactive_los",
    "batch_partner",
    "stream_partner",
    "velocity_attack",
    "mixed_products",
    "feature_writer",
    "outcome_sender",
    "operator",
]
USER_KINDS: tuple[str, ...] = get_args(UserKind)
DURATION_MAX_S = 7 * 86_400.0

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Duration = Annotated[float, Field(gt=0, le=DURATION_MAX_S)]


class Model(BaseModel):
    """A part of a scenario. What it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Users(Model):
    """Some users of one kind."""

    kind: UserKind
    # How many of the users there are at any time are of this kind, against the weights of the other kinds.
    weight: Count = 1


class Steady(Model):
    """The same number of users all the time."""

    kind: Literal["steady"]
    users: Count
    duration_s: Duration
    spawn_per_s: Positive = 50.0


class Ramp(Model):
    """From one user to all in a straight line, and on."""

    kind: Literal["ramp"]
    users: Count
    over_s: Duration
    hold_s: Annotated[float, Field(ge=0, le=DURATION_MAX_S)] = 0.0

    @property
    def duration_s(self) -> float:
        return self.over_s + self.hold_s


class Spike(Model):
    """A sudden crowd, and back."""

    kind: Literal["spike"]
    users: Count
    spike_users: Count
    before_s: Duration
    spike_s: Duration
    after_s: Duration

    @property
    def duration_s(self) -> float:
        return self.before_s + self.spike_s + self.after_s


class Soak(Model):
    """Slowly up, for long, and slowly down: what leaks shows."""

    kind: Literal["soak"]
    users: Count
    ramp_s: Duration
    hold_s: Duration

    @property
    def duration_s(self) -> float:
        return 2 * self.ramp_s + self.hold_s


Shape = Annotated[Steady | Ramp | Spike | Soak, Field(discriminator="kind")]


class LocustDriver(Model):
    """Users, as Locust runs them."""

    users: Annotated[list[Users], Field(min_length=1)]
    shape: Shape
    # Locust processes: 1 does it all; more are so many workers and a master.
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    # A user's pause between two things that it does: uniform between the two, in seconds.
    pause_min_s: Annotated[float, Field(ge=0)] = 0.2
    pause_max_s: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _pause_ordered(self) -> LocustDriver:
        if self.pause_min_s > self.pause_max_s:
            raise ValueError("pause_min_s is more than pause_max_s")
        return self

    @property
    def duration_s(self) -> float:
        return self.shape.duration_s


class Stage(Model):
    """A stretch of time in which the rate goes from one value to another in a straight line."""

    duration_s: Duration
    rate_per_s: Annotated[float, Field(gt=0, le=100_000)]
    # Absent: the rate stays.
    to_rate_per_s: Annotated[float, Field(gt=0, le=100_000)] | None = None

    @property
    def end_rate_per_s(self) -> float:
        return self.rate_per_s if self.to_rate_per_s is None else self.to_rate_per_s


class Part(Model):
    """A part of the arrivals: what is asked, by its name in `loadtest.asks`."""

    ask: str
    weight: Positive = 1.0


class OpenDriver(Model):
    """Arrivals that wait for nobody."""

    stages: Annotated[list[Stage], Field(min_length=1)]
    mix: Annotated[list[Part], Field(min_length=1)]
    # poisson: independent arrivals, as many small callers are; constant: evenly spaced.
    arrivals: Literal["poisson", "constant"] = "poisson"
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    # Calls under way at once, over all processes. An arrival that finds no room waits, and its latency with it.
    in_flight_max: Annotated[int, Field(ge=1, le=100_000)] = 512
    # Connections of each process.
    channels: Annotated[int, Field(ge=1, le=64)] = 2
    # How long calls under way may take once no more are sent.
    drain_s: Positive = 10.0
    seed: int = 11

    @property
    def duration_s(self) -> float:
        return sum(stage.duration_s for stage in self.stages)
