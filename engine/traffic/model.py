"""The words of traffic: what is served to whom. All immutable; `engine/traffic/messages.py` puts them on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from engine.domain.enums import Verdict

FLOWS_MAX, ARMS_MAX, SHADOWS_MAX = 64, 8, 3


class ChangeKind(IntEnum):
    """What a change was; numbers are those of the proto."""

    START = 1
    LOAD = 2
    ACTIVATE = 3
    ROLLBACK = 4
    SET_TRAFFIC = 5
    CUT_OUT = 6


@dataclass(frozen=True, slots=True)
class ArmShare:
    """One arm of an experiment: the digest of its bundle and its share of the subjects in basis points."""

    name: str
    bundle: str
    share: int


@dataclass(frozen=True, slots=True)
class Experiment:
    """Subjects divided between bundles, the champion's arm first."""

    name: str
    arms: tuple[ArmShare, ...]


@dataclass(frozen=True, slots=True)
class ShadowSetting:
    """A challenger behind the answers, and the share of subjects that it decides, in basis points."""

    name: str
    bundle: str
    share: int = 10_000


@dataclass(frozen=True, slots=True)
class Bound:
    """What the rate of one verdict must not leave; None where it is open."""

    verdict: Verdict
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class CutOutRule:
    """When the rates of a flow's verdicts are out of bounds, and what follows; see the proto's CutOut."""

    bounds: tuple[Bound, ...]
    window_s: float = 900.0
    decisions_min: int = 100
    trip_after_s: float = 60.0
    margin: float = 0.02
    fall_back: bool = False


@dataclass(frozen=True, slots=True)
class FlowTraffic:
    """How one flow's applications are decided."""

    experiment: Experiment | None = None
    shadows: tuple[ShadowSetting, ...] = ()
    cut_out: CutOutRule | None = None

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return self.experiment is None and not self.shadows and self.cut_out is None


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, and why. authenticated: whether `who` is from a certificate; expected_generation: what the
    author has looked at, None when that does not matter."""

    who: str
    why: str
    on_behalf_of: str = ""
    authenticated: bool = False
    expected_generation: int | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is served, whole. default, previous, configured: digests of bundles, "" for none; changed_us, effective_us:
    microseconds since 1970 UTC."""

    generation: int
    default: str
    previous: str = ""
    flows: Mapping[str, FlowTraffic] = field(default_factory=dict)
    change_id: str = ""
    kind: ChangeKind = ChangeKind.START
    who: str = ""
    on_behalf_of: str = ""
    why: str = ""
    changed_us: int = 0
    effective_us: int = 0
    configured: str = ""

    def uses(self) -> Iterator[tuple[str, str]]:
        """(digest, role) of every bundle that must be ready to decide."""
        yield self.default, "default"
        for name, flow in self.flows.items():
            if flow.experiment is not None:
                for arm in flow.experiment.arms:
                    yield arm.bundle, f"{name}/{arm.name}"
            for shadow in flow.shadows:
                yield shadow.bundle, f"{name}/shadow/{shadow.name}"

    @property
    def bundles(self) -> frozenset[str]:
        """The digests of all bundles that must be ready to decide."""
        return frozenset(digest for digest, _ in self.uses())

    @property
    def kept(self) -> frozenset[str]:
        """The digests of all bundles that must stay in the registry."""
        return self.bundles | ({self.previous, self.configured} - {""})

    @property
    def experiments(self) -> tuple[str, ...]:
        """The flows with an experiment."""
        return tuple(name for name, flow in self.flows.items() if flow.experiment is not None)
