"""What decides, and what is known of a call: the words that the decider and what stands around it share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from engine.labels import Labels
from engine.plan import BundlePlan
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.watch import WatchedFlow


@dataclass(frozen=True, slots=True)
class Served:
    """A bundle in service: its plan, the labels that its answers carry, what is watched of its flows. Swapped as one,
    so that no call ever sees half of two bundles."""

    plan: BundlePlan
    labels: Labels
    watched: Mapping[str, WatchedFlow] = field(default_factory=dict)


class ChosenArm(Protocol):
    """Who decides one application: `engine.traffic.serving.Arm`."""

    @property
    def name(self) -> str: ...
    @property
    def experiment(self) -> str: ...
    @property
    def served(self) -> Served: ...


class Serves(Protocol):
    """What a call decides with, taken once at its start: `engine.traffic.serving.Serving`, or a bundle alone."""

    @property
    def default(self) -> ChosenArm:
        """Who decides where nothing else is said."""

    def choose(self, flow: str, subject_id: str) -> ChosenArm:
        """Who decides an application. flow: "product.moment", also one that no bundle has."""


@dataclass(frozen=True, slots=True)
class _OnlyArm:
    served: Served
    name: str = ""
    experiment: str = ""


class OneBundle:
    """One bundle that decides everything."""

    def __init__(self, served: Served) -> None:
        self.default = _OnlyArm(served)

    def choose(self, flow: str, subject_id: str) -> ChosenArm:
        """See `Serves`."""
        return self.default


class Asked(NamedTuple):
    """What is known of a call besides its requests. trace_id: 32 hexadecimal digits; deadline_s: the caller's, on
    `time.monotonic()`, None without one; trace: what is noted of the call, None when it is not traced; tenant: whose
    request it is, "" where the server has no tenants."""

    trace_id: str
    deadline_s: float | None = None
    trace: CallTrace | None = None
    tenant: str = ""
