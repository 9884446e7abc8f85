"""Checks what operators ask for: every field at fault at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

from assay.admin.v1 import admin_service_pb2 as pb
from assay.admin.v1 import traffic_pb2
from engine.domain.enums import Verdict
from engine.errors import FieldViolation, RequestError
from engine.traffic.messages import flow_of
from engine.traffic.model import ARMS_MAX, FLOWS_MAX, SHADOWS_MAX, Author, FlowTraffic
from engine.traffic.split import PLACES

WHO_MAX, WHY_MAX = 128, 1_000
_NAME_RULE = "must be a small letter, then small letters, digits and _, 32 at most"
_is_name = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch
_is_flow = re.compile(r"[a-z][a-z0-9_]{0,63}\.[a-z][a-z0-9_]{0,63}").fullmatch
_WINDOW_S = (60.0, 86_400.0)
_TRIP_AFTER_MAX_S = 86_400.0
_DECISIONS_MAX = 1_000_000_000
_VERDICTS = frozenset(int(verdict) for verdict in Verdict)
# Whole digests by what was written of them. Raises Refusal.
Find = Callable[[str], str]


def author_of(message: pb.Author, identity: str) -> Author:
    """Who makes a change. identity: the name in the caller's certificate, "" without one. Raises RequestError."""
    bad = []
    stated, why = message.who.strip(), message.why.strip()
    if not stated and not identity:
        bad.append(FieldViolation("author.who", "is required: a name that a colleague knows"))
    if len(stated) > WHO_MAX or not stated.isprintable():
        bad.append(FieldViolation("author.who", f"must be at most {WHO_MAX} printable characters"))
    if not why:
        bad.append(FieldViolation("author.why", "is required: say it for who reads it in a year"))
    if len(why) > WHY_MAX:
        bad.append(FieldViolation("author.why", f"has {len(why)} characters; at most {WHY_MAX} are taken"))
    if bad:
        raise RequestError(bad)
    return Author(
        who=identity or stated,
        why=why,
        on_behalf_of=stated if identity and stated != identity else "",
        authenticated=bool(identity),
        expected_generation=message.expected_generation if message.HasField("expected_generation") else None,
    )


def flows_of(messages: Sequence[traffic_pb2.FlowTraffic], find: Find) -> dict[str, FlowTraffic]:
    """How flows are to be decided, by name. Raises RequestError with every field at fault, Refusal for a digest that is
    not known."""
    bad: list[FieldViolation] = []
    if not messages:
        bad.append(FieldViolation("flows", "is required: 1 at least"))
    if len(messages) > FLOWS_MAX:
        bad.append(FieldViolation("flows", f"holds {len(messages)}; at most {FLOWS_MAX} are taken"))
    seen: set[str] = set()
    for place, message in enumerate(messages[:FLOWS_MAX]):
        bad += _flow_faults(message, f"flows[{place}]")
        if message.flow in seen:
            bad.append(FieldViolation(f"flows[{place}].flow", "stands twice"))
        seen.add(message.flow)
    if bad:
        raise RequestError(bad)
    found = {}
    for message in messages:
        whole = traffic_pb2.FlowTraffic()
        whole.CopyFrom(message)
        for arm in whole.experiment.arms:
            arm.bundle = find(arm.bundle)
        for shadow in whole.shadows:
            shadow.bundle = find(shadow.bundle)
        found[message.flow] = flow_of(whole)
    return found


def _flow_faults(message: traffic_pb2.FlowTraffic, path: str) -> Iterator[FieldViolation]:
    if _is_flow(message.flow) is None:
        yield FieldViolation(f"{path}.flow", "must be a flow's name: product.moment")
    if message.HasField("experiment"):
        yield from _experiment_faults(message.experiment, f"{path}.experiment")
    if len(message.shadows) > SHADOWS_MAX:
        yield FieldViolation(f"{path}.shadows", f"holds {len(message.shadows)}; at most {SHADOWS_MAX} are taken")
    yield from _names_twice([shadow.name for shadow in message.shadows], f"{path}.shadows")
    for place, shadow in enumerate(message.shadows[:SHADOWS_MAX]):
        at = f"{path}.shadows[{place}]"
        yield from _name_fault(shadow.name, f"{at}.name")
        if not shadow.bundle:
            yield FieldViolation(f"{at}.bundle", "is required: a digest")
        if shadow.HasField("share_basis_points") and not 0 < shadow.share_basis_points <= PLACES:
            yield FieldViolation(f"{at}.share_basis_points", f"must be 1 to {PLACES}")
    if message.HasField("cut_out"):
        yield from _cut_out_faults(message.cut_out, f"{path}.cut_out")


def _experiment_faults(message: traffic_pb2.Experiment, path: str) -> Iterator[FieldViolation]:
    yield from _name_fault(message.name, f"{path}.name")
    if not 2 <= len(message.arms) <= ARMS_MAX:
        yield FieldViolation(f"{path}.arms", f"holds {len(message.arms)}; 2 to {ARMS_MAX} are taken")
        return
    yield from _names_twice([arm.name for arm in message.arms], f"{path}.arms")
    total = 0
    for place, arm in enumerate(message.arms):
        at = f"{path}.arms[{place}]"
        yield from _name_fault(arm.name, f"{at}.name")
        if arm.name == "default":
            yield FieldViolation(f"{at}.name", "is taken: what no experiment divides is called so")
        if not arm.bundle:
            yield FieldViolation(f"{at}.bundle", "is required: a digest")
        if not 0 <= arm.share_basis_points <= PLACES:
            yield FieldViolation(f"{at}.share_basis_points", f"must be 0 to {PLACES}")
        total += arm.share_basis_points
    if total != PLACES:
        yield FieldViolation(f"{path}.arms", f"have shares that sum to {total}; they must sum to {PLACES}")


def _cut_out_faults(message: traffic_pb2.CutOut, path: str) -> Iterator[FieldViolation]:
    if not message.bounds:
        yield FieldViolation(f"{path}.bounds", "is required: 1 at least")
    if len(message.bounds) > len(Verdict):
        yield FieldViolation(f"{path}.bounds", f"holds {len(message.bounds)}; at most one of each verdict is taken")
    verdicts = [bound.verdict for bound in message.bounds[: len(Verdict)]]
    if len(set(verdicts)) < len(verdicts):
        yield FieldViolation(f"{path}.bounds", "name one verdict twice")
    for place, bound in enumerate(message.bounds[: len(Verdict)]):
        at = f"{path}.bounds[{place}]"
        if int(bound.verdict) not in _VERDICTS:
            yield FieldViolation(f"{at}.verdict", "is required: one that the engine gives")
        least = bound.min if bound.HasField("min") else 0.0
        most = bound.max if bound.HasField("max") else 1.0
        if not bound.HasField("min") and not bound.HasField("max"):
            yield FieldViolation(at, "names neither min nor max")
        elif not 0.0 <= least <= most <= 1.0:
            yield FieldViolation(at, f"must have 0 <= min <= max <= 1; they are {least} and {most}")
    if message.HasField("window"):
        window_s = message.window.seconds + message.window.nanos / 1e9
        if not _WINDOW_S[0] <= window_s <= _WINDOW_S[1]:
            yield FieldViolation(f"{path}.window", f"must be {_WINDOW_S[0]:g} s to {_WINDOW_S[1]:g} s")
    if message.HasField("trip_after"):
        after_s = message.trip_after.seconds + message.trip_after.nanos / 1e9
        if not 0.0 <= after_s <= _TRIP_AFTER_MAX_S:
            yield FieldViolation(f"{path}.trip_after", f"must be 0 s to {_TRIP_AFTER_MAX_S:g} s")
    if message.HasField("decisions_min") and not 1 <= message.decisions_min <= _DECISIONS_MAX:
        yield FieldViolation(f"{path}.decisions_min", f"must be 1 to {_DECISIONS_MAX}")
    if message.HasField("margin") and not (math.isfinite(message.margin) and 0.0 <= message.margin <= 0.5):
        yield FieldViolation(f"{path}.margin", "must be 0 to 0.5")


def _name_fault(name: str, path: str) -> Iterator[FieldViolation]:
    if _is_name(name) is None:
        yield FieldViolation(path, _NAME_RULE)


def _names_twice(names: Sequence[str], path: str) -> Iterator[FieldViolation]:
    if len(set(names)) < len(names):
        yield FieldViolation(path, "name one twice")
