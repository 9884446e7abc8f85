"""What a call decides with: taken once at its start, never changed, so that no call sees half of two bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from engine.traffic.model import Traffic
from engine.traffic.split import Sample, Split

P = TypeVar("P")
DEFAULT_ARM = "default"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[P]):
    """A bundle that is ready to decide. served: what decides, of whatever type the caller uses; flows: what it decides;
    counters: the fingerprints of what it counts of applications."""

    served: P
    digest: str
    name: str
    version: str
    flows: frozenset[str]
    counters: frozenset[bytes] = frozenset()


class Arm(NamedTuple, Generic[P]):
    """Who decides one application. name: "default" where no experiment divides the flow."""

    name: str
    experiment: str
    bundle: str
    served: P


class ShadowArm(NamedTuple, Generic[P]):
    """A challenger behind the answers."""

    name: str
    bundle: str
    sample: Sample
    served: P


class _Divided(NamedTuple, Generic[P]):
    split: Split
    arms: Sequence[Arm[P]]


class Serving(Generic[P]):
    """One generation of what is served. Immutable; threads share it.

    A call takes it once and uses it to its end, for all items of a batch. What replaces it is for later calls.
    """

    __slots__ = ("_divided", "bundles", "default", "generation", "shadows", "traffic")

    def __init__(self, traffic: Traffic, loaded: Mapping[str, Loaded[P]]) -> None:
        """loaded: every bundle that the traffic uses, by digest. Raises KeyError for one that is not there."""
        self.traffic = traffic
        self.generation = traffic.generation
        # All bundles that can decide here, the default first.
        self.bundles = {digest: loaded[digest] for digest, _ in traffic.uses()}
        self.default: Arm[P] = Arm(DEFAULT_ARM, "", traffic.default, loaded[traffic.default].served)
        self._divided: dict[str, _Divided[P]] = {}
        # By flow; a flow without any is not there.
        self.shadows: dict[str, tuple[ShadowArm[P], ...]] = {}
        for name, flow in traffic.flows.items():
            if flow.experiment is not None:
                arms = flow.experiment.arms
                self._divided[name] = _Divided(
                    Split(flow.experiment.name, [arm.share for arm in arms]),
                    [Arm(a.name, flow.experiment.name, a.bundle, loaded[a.bundle].served) for a in arms],
                )
            if flow.shadows:
                self.shadows[name] = tuple(
                    ShadowArm(s.name, s.bundle, Sample(s.name, s.share), loaded[s.bundle].served) for s in flow.shadows
                )

    def choose(self, flow: str, subject_id: str) -> Arm[P]:
        """Who decides an application. flow: "product.moment", also one that no bundle has: the default refuses it."""
        divided = self._divided.get(flow)
        return self.default if divided is None else divided.arms[divided.split.arm_of(subject_id)]
