"""Scenarios: one TOML file says who asks what, how fast and for how long, and what the figures are held against.

A file names its driver. `locust`: users who wait for their answers (a closed loop), shaped over time. `open`: arrivals
at a fixed rate that wait for nobody (an open loop). Everything is checked before anything is started.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from loadtest.loads import LocustDriver, Model, OpenDriver, Positive, Ratio
from loadtest.problems import CouldNotRun

SCENARIOS = Path(__file__).resolve().parent / "scenarios"


class RpcLimits(Model):
    """What the calls of one RPC, or of all, are held against. What is left out is not checked."""

    # Latency in milliseconds that so many of a hundred calls may not exceed; calls that were shed are left out.
    p50_max_ms: Positive | None = None
    p90_max_ms: Positive | None = None
    p95_max_ms: Positive | None = None
    p99_max_ms: Positive | None = None
    p999_max_ms: Positive | None = None
    # Calls (and items of batches and streams) that failed, over all.
    error_max_ratio: Ratio | None = None
    # Calls (and items) that the server refused because it had too much to do, over all.
    shed_max_ratio: Ratio | None = None
    # Calls a second that were answered well.
    throughput_min_rps: Positive | None = None
    # Decisions a second, those of batches and streams among them.
    decisions_min_per_s: Positive | None = None


class Limits(RpcLimits):
    """Limits for all calls together, and for single RPCs by name."""

    rpc: dict[str, RpcLimits] = Field(default_factory=dict)


class GeneratorLimits(Model):
    """From where on the generator, not the server, is what was measured."""

    # The share of one core that the thread which sends may use, as the mean of the busiest fifth of the run.
    cpu_max_ratio: Ratio = 0.9
    # How late the loop that sends may come back from a short sleep (99 of 100).
    lag_p99_max_ms: Positive = 100.0
    # How late arrivals of the open loop may be sent although there was room for them (99 of 100).
    lateness_p99_max_ms: Positive = 50.0


class Shed(Model):
    """What users make of RESOURCE_EXHAUSTED with RetryInfo."""

    # Whether a call that was shed counts as an error. Otherwise it is counted apart.
    is_error: bool = False
    # Whether users wait as long as they are told, and ask again under the same request id.
    honour_retry_info: bool = True
    # How often one application is sent at most.
    attempts_max: Annotated[int, Field(ge=1, le=20)] = 3
    # The longest wait that is honoured, in milliseconds.
    wait_max_ms: Positive = 5_000.0


class Population(Model):
    """Who applies. Generated from the seed, the same on every machine."""

    consumers: Annotated[int, Field(ge=1, le=50_000)] = 2_000
    # The real companies of the shipped sample: there are 400.
    companies: Annotated[int, Field(ge=1, le=400)] = 200
    # The share of consumers whose signals are those of a fraud.
    fraud_ratio: Ratio = 0.05
    seed: int = 7


class Server(Model):
    """The server that the run starts where no address is given: the embedded default, with data of its own."""

    # ASSAY_* variables put over the defaults.
    settings: dict[str, str] = Field(default_factory=dict)
    # Whether its AdminService listens, for `operator` users.
    admin: bool = False
    start_timeout_s: Positive = 120.0

    @model_validator(mode="after")
    def _only_ours(self) -> Server:
        wrong = [name for name in self.settings if not name.startswith(("ASSAY_", "OTEL_"))]
        if wrong:
            raise ValueError(f"settings are ASSAY_* or OTEL_* variables, not {', '.join(wrong)}")
        return self


class Scenario(Model):
    """One scenario, whole."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    description: str = ""
    # Calls of the first so many seconds are shown over time, but are in no total and break no limit.
    warm_up_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    # What a call may take before its caller lets go, in milliseconds.
    timeout_ms: Positive = 2_000.0
    server: Server = Server()
    population: Population = Population()
    locust: LocustDriver | None = None
    open: OpenDriver | None = None
    shed: Shed = Shed()
    limits: Limits = Limits()
    generator: GeneratorLimits = GeneratorLimits()

    @model_validator(mode="after")
    def _one_driver(self) -> Scenario:
        if (self.locust is None) == (self.open is None):
            raise ValueError("exactly one of [locust] and [open] must be there")
        if self.warm_up_s >= self.duration_s:
            raise ValueError(f"warm_up_s is {self.warm_up_s:g}, and the whole run takes {self.duration_s:g} s")
        from loadtest.asks import ASKS
        from loadtest.rpcs import RPCS

        unknown = [name for name in self.limits.rpc if name not in RPCS]
        if unknown:
            raise ValueError(f"limits.rpc names {', '.join(unknown)}; there are {', '.join(RPCS)}")
        parts = [part.ask for part in self.open.mix] if self.open else []
        if wrong := [name for name in parts if name not in ASKS]:
            raise ValueError(f"open.mix names {', '.join(wrong)}; there are {', '.join(ASKS)}")
        return self

    @property
    def driver(self) -> LocustDriver | OpenDriver:
        """The driver that is there."""
        driver = self.locust or self.open
        assert driver is not None
        return driver

    @property
    def duration_s(self) -> float:
        """How long the load lasts, in seconds."""
        return self.driver.duration_s

    @property
    def interval_s(self) -> float:
        """How long one point of the plots is, so that there are at most 240: whole seconds."""
        return float(max(1, -(-int(self.duration_s) // 240)))


def find(name: str) -> Path:
    """A scenario's file: a path, or the name of one that is shipped. Raises CouldNotRun when there is none."""
    for candidate in (Path(name), SCENARIOS / name, SCENARIOS / f"{name}.toml"):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(file.stem for file in SCENARIOS.glob("*.toml")))
    raise CouldNotRun(f"there is no scenario {name}: name a TOML file, or one of {shipped}")


def read(path: Path, changes: Mapping[str, Any] | None = None) -> Scenario:
    """The scenario in a file. changes: values by dotted place ("open.processes") put over those of the file.

    Raises CouldNotRun that names every mistake with its place.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CouldNotRun(f"{path.name} cannot be read: {error}") from None
    for place, value in (changes or {}).items():
        _put(tree, place.split("."), value, path)
    return checked(tree, path.name)


def checked(tree: Mapping[str, Any], where: str) -> Scenario:
    """A scenario from its tree. Raises CouldNotRun that names every mistake with its place."""
    try:
        return Scenario.model_validate(tree)
    except ValidationError as error:
        lines = [f"{where} is at fault:"]
        for one in error.errors(include_url=False):
            place = ".".join(str(part) for part in one["loc"]) or "the whole"
            lines.append(f"  {place}: {one['msg'].removeprefix('Value error, ')}")
        raise CouldNotRun("\n".join(lines)) from None


def _put(tree: dict[str, Any], place: list[str], value: Any, path: Path) -> None:
    for part in place[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise CouldNotRun(f"{path.name}: {'.'.join(place)} cannot be set, {part} is no table")
    tree[place[-1]] = value
