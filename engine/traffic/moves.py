"""What a change makes of what is served: pure functions. Each gives the next state, None where it is so already, and
raises Refusal or RequestError for what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from engine.errors import FieldViolation, Refusal, RequestError
from engine.traffic.model import FLOWS_MAX, FlowTraffic, Traffic
from engine.traffic.serving import Loaded

Move = Callable[[Traffic], Traffic | None]


def activate(traffic: Traffic, digest: str, end_experiments: bool | None) -> Traffic | None:
    """Another default bundle. end_experiments: whether those running end; None: not said."""
    if traffic.experiments and end_experiments is None:
        raise Refusal(
            "EXPERIMENTS_RUNNING",
            f"Experiments are running in {', '.join(traffic.experiments)}: say whether they end or are kept.",
            {"flows": ",".join(traffic.experiments)[:500]},
        )
    ending = bool(traffic.experiments and end_experiments)
    if traffic.default == digest and not ending:
        return None
    return _with_default(traffic, digest, ending)


def rollback(traffic: Traffic) -> Traffic:
    """The previous bundle for everybody; what was the default becomes the previous one."""
    if not traffic.previous:
        raise Refusal(
            "NO_PREVIOUS_BUNDLE", "There is no previous bundle to go back to; activate one that ListBundles tells of."
        )
    return _with_default(traffic, traffic.previous, True)


def set_flows(traffic: Traffic, flows: Mapping[str, FlowTraffic]) -> Traffic | None:
    """Flows as given, the others as they are."""
    merged = {name: flow for name, flow in {**traffic.flows, **flows}.items() if not flow.empty}
    if merged == dict(traffic.flows):
        return None
    if len(merged) > FLOWS_MAX:
        raise RequestError([FieldViolation("flows", f"would be {len(merged)} in all; at most {FLOWS_MAX} are taken")])
    return replace(traffic, flows=merged)


def fall_back(traffic: Traffic, flow: str) -> Traffic | None:
    """What a cut-out does: ends the flow's experiment or, without one, goes back to the previous bundle. After that
    there is no previous one: it would be the bundle that was cut out."""
    setting = traffic.flows.get(flow)
    if setting is not None and setting.experiment is not None:
        return replace(traffic, flows={**traffic.flows, flow: replace(setting, experiment=None)})
    if not traffic.previous:
        return None
    return replace(_with_default(traffic, traffic.previous, True), previous="")


def _with_default(traffic: Traffic, digest: str, end_experiments: bool) -> Traffic:
    flows = {}
    for name, flow in traffic.flows.items():
        # A challenger that has become the default has nothing to be compared with.
        shadows = tuple(shadow for shadow in flow.shadows if shadow.bundle != digest)
        kept = replace(flow, shadows=shadows, experiment=None if end_experiments else flow.experiment)
        if not kept.empty:
            flows[name] = kept
    previous = traffic.default if traffic.default != digest else traffic.previous
    return replace(traffic, default=digest, previous=previous, flows=flows)


def check_fit(traffic: Traffic, loaded: Mapping[str, Loaded[Any]]) -> None:
    """Whether bundles can do what they are to do. Raises RequestError with everything that does not go together."""
    bad = []
    default = loaded[traffic.default]
    for name, flow in traffic.flows.items():
        path = f'flows["{name}"]'
        arms = flow.experiment.arms if flow.experiment is not None else ()
        for arm in arms:
            one, at = loaded[arm.bundle], f'{path}.experiment.arms["{arm.name}"].bundle'
            if name not in one.flows:
                bad.append(FieldViolation(at, _no_flow(one, name)))
            elif not one.counters <= default.counters:
                message = "counts of applications what the default bundle does not; activate it, or give both the same"
                bad.append(FieldViolation(at, message))
        for shadow in flow.shadows:
            if name not in loaded[shadow.bundle].flows:
                at = f'{path}.shadows["{shadow.name}"].bundle'
                bad.append(FieldViolation(at, _no_flow(loaded[shadow.bundle], name)))
        if not arms and name not in default.flows:
            bad.append(FieldViolation(f"{path}.flow", _no_flow(default, name)))
    if bad:
        raise RequestError(bad)


def _no_flow(bundle: Loaded[Any], flow: str) -> str:
    return f"{bundle.name} {bundle.version} does not decide {flow}; it decides {', '.join(sorted(bundle.flows))}"
