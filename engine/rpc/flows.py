"""`ListFlows`: the bundle in service as its callers see it."""

from __future__ import annotations

import math

from assay.decision.v1 import decision_service_pb2 as pb
from engine.plan import BundlePlan, FlowPlan


def list_flows(plan: BundlePlan) -> pb.ListFlowsResponse:
    """Every flow, with what it takes."""
    response = pb.ListFlowsResponse(languages=plan.languages)
    response.bundle.name, response.bundle.version, response.bundle.digest = plan.name, plan.version, plan.digest
    for flow in plan.flows.values():
        _put_flow(response.flows.add(), flow)
    return response


def _put_flow(target: pb.Flow, flow: FlowPlan) -> None:
    target.name, target.product, target.moment = flow.name, flow.product, flow.moment
    target.description = flow.description
    for money, minor in ((target.amount_min, flow.amount_min_minor), (target.amount_max, flow.amount_max_minor)):
        money.currency_code = flow.currency
        money.units, rest = divmod(minor, flow.minor_per_major)
        money.nanos = rest * (1_000_000_000 // flow.minor_per_major)
    target.terms_months.extend(flow.terms_months)
    target.subject_kind = flow.subject_kind  # type: ignore[assignment]
    target.entities.extend(flow.features.entities)
    target.models.extend(f"{m.model.id}@{m.model.version}" for m in flow.models)
    for name, field in flow.features.fields.items():
        feature = field.feature
        one = target.fields.add(
            name=name,
            type=feature.kind,
            unit=feature.unit,
            required=feature.required,
            description=feature.description,
            categories=feature.categories,
        )
        if feature.kind in ("float", "integer"):
            if math.isfinite(feature.lower):
                one.min = feature.lower
            if math.isfinite(feature.upper):
                one.max = feature.upper
