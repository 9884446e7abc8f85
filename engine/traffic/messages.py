"""Between the words of traffic and the messages of `assay.admin.v1`."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from assay.admin.v1 import traffic_pb2 as pb
from engine.domain.enums import Verdict
from engine.traffic.model import (
    ArmShare,
    Author,
    Bound,
    ChangeKind,
    CutOutRule,
    Experiment,
    FlowTraffic,
    ShadowSetting,
    Traffic,
)

RECORD_SCHEMA = 1


def moment(us: int) -> Timestamp:
    """A moment as a message."""
    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    return stamp


def traffic_message(traffic: Traffic) -> pb.Traffic:
    """What is served, as a message."""
    message = pb.Traffic(
        generation=traffic.generation,
        default_bundle=traffic.default,
        previous_bundle=traffic.previous,
        flows=[flow_message(name, flow) for name, flow in sorted(traffic.flows.items())],
        change_id=traffic.change_id,
        who=traffic.who,
        on_behalf_of=traffic.on_behalf_of,
        why=traffic.why,
        changed_at=moment(traffic.changed_us),
        effective_at=moment(traffic.effective_us),
        configured_bundle=traffic.configured,
    )
    message.kind = int(traffic.kind)  # type: ignore[assignment]
    return message


def traffic_of(message: pb.Traffic) -> Traffic:
    """What a message of our own says. Raises ValueError for a kind or verdict that is not known."""
    return Traffic(
        generation=message.generation,
        default=message.default_bundle,
        previous=message.previous_bundle,
        flows={flow.flow: flow_of(flow) for flow in message.flows},
        change_id=message.change_id,
        kind=ChangeKind(message.kind),
        who=message.who,
        on_behalf_of=message.on_behalf_of,
        why=message.why,
        changed_us=message.changed_at.ToMicroseconds(),
        effective_us=message.effective_at.ToMicroseconds(),
        configured=message.configured_bundle,
    )


def flow_message(name: str, flow: FlowTraffic) -> pb.FlowTraffic:
    """How a flow is decided, as a message."""
    message = pb.FlowTraffic(flow=name)
    if flow.experiment is not None:
        message.experiment.name = flow.experiment.name
        for arm in flow.experiment.arms:
            message.experiment.arms.add(name=arm.name, bundle=arm.bundle, share_basis_points=arm.share)
    for shadow in flow.shadows:
        message.shadows.add(name=shadow.name, bundle=shadow.bundle, share_basis_points=shadow.share)
    if flow.cut_out is not None:
        rule, target = flow.cut_out, message.cut_out
        for bound in rule.bounds:
            one = target.bounds.add(min=bound.least, max=bound.most)
            one.verdict = int(bound.verdict)  # type: ignore[assignment]
        target.window.FromMicroseconds(round(rule.window_s * 1e6))
        target.trip_after.FromMicroseconds(round(rule.trip_after_s * 1e6))
        target.decisions_min, target.margin, target.fall_back = rule.decisions_min, rule.margin, rule.fall_back
    return message


def flow_of(message: pb.FlowTraffic) -> FlowTraffic:
    """How a flow is decided; what is absent takes its default. Raises ValueError for a verdict that is not known."""
    experiment = None
    if message.HasField("experiment"):
        arms = tuple(ArmShare(a.name, a.bundle, a.share_basis_points) for a in message.experiment.arms)
        experiment = Experiment(message.experiment.name, arms)
    shadows = tuple(
        ShadowSetting(s.name, s.bundle, s.share_basis_points if s.HasField("share_basis_points") else 10_000)
        for s in message.shadows
    )
    return FlowTraffic(experiment, shadows, _cut_out(message.cut_out) if message.HasField("cut_out") else None)


def _cut_out(message: pb.CutOut) -> CutOutRule:
    usual = CutOutRule(())
    return CutOutRule(
        bounds=tuple(
            Bound(Verdict(b.verdict), b.min if b.HasField("min") else None, b.max if b.HasField("max") else None)
            for b in message.bounds
        ),
        window_s=message.window.ToMicroseconds() / 1e6 if message.HasField("window") else usual.window_s,
        decisions_min=message.decisions_min if message.HasField("decisions_min") else usual.decisions_min,
        trip_after_s=message.trip_after.ToMicroseconds() / 1e6
        if message.HasField("trip_after")
        else usual.trip_after_s,
        margin=message.margin if message.HasField("margin") else usual.margin,
        fall_back=message.fall_back,
    )


def change_record(
    kind: ChangeKind,
    author: Author,
    change_id: str,
    now_us: int,
    before: Traffic | None = None,
    after: Traffic | None = None,
    bundle: pb.BundleInfo | None = None,
    facts: str = "",
) -> pb.ChangeRecord:
    """One change, as the journal keeps it."""
    record = pb.ChangeRecord(
        schema_version=RECORD_SCHEMA,
        change_id=change_id,
        changed_at=moment(now_us),
        who=author.who,
        authenticated=author.authenticated,
        on_behalf_of=author.on_behalf_of,
        why=author.why,
        before=None if before is None else traffic_message(before),
        after=None if after is None else traffic_message(after),
        bundle=bundle,
        facts=facts,
    )
    record.kind = int(kind)  # type: ignore[assignment]
    return record
