"""Compiles one flow: its features, models, policy and reasons, joined by slot."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from engine.bundle.compile_features import Catalogue, compile_features
from engine.bundle.schema import FlowFile
from engine.bundle.source import Document, Source
from engine.domain.enums import Component, FeatureStatus, SubstitutionAction, ValueOrigin
from engine.features.plan import Feature, FeaturePlan
from engine.plan import FlowPlan, PolicyVector
from engine.policy.evaluate import Policy, Role, compile_policy
from engine.policy.slots import FlowTerms, SlotSpec
from engine.reasons.plan import ReasonGroups, ReasonPlan, ReasonText
from engine.scoring.manifest import Manifest
from engine.scoring.model import ForeignModel, Model
from engine.scoring.plan import ModelPlan

_SUBJECT_KINDS = {"person": 1, "company": 2}
# ISO 4217 currencies whose minor unit is not a hundredth.
_MINOR = {
    c: 1
    for c in [
        "BIF",
        "CLP",
        "DJF",
        "GNF",
        "ISK",
        "JPY",
        "KMF",
        "KRW",
        "PYG",
        "RWF",
        "UGX",
        "UYI",
        "VND",
        "VUV",
        "XAF",
        "XOF",
        "XPF",
    ]
} | {c: 1000 for c in ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"]}
_ROLES = ("knock_outs", "fraud_gate", "cut_offs", "limit", "price")
_FITTING = {
    "float": {"float", "integer"},
    "integer": {"integer", "float", "boolean"},
    "boolean": {"boolean"},
    "category": {"category"},
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a flow is compiled from."""

    catalogue: Catalogue
    models: Mapping[str, Model]
    reasons: Mapping[str, ReasonText]
    languages: tuple[str, ...]


def compile_flow(flow: FlowFile, document: Document, parts: Parts, source: Source) -> FlowPlan | None:
    """One flow; None, with every problem noted, when it cannot be served."""
    before = len(source.problems)
    _check_terms(flow, document, source)
    tables = _tables(flow, document, source)
    models = _models(flow, document, parts, source)
    named = {name for model in models.values() for name in model.inputs}
    policy_names = _policy_names(flow, tables)
    features = compile_features(parts.catalogue, flow, document, named | policy_names, source)
    if features is None:
        return None
    plans = tuple(
        plan
        for role, model in models.items()
        if (plan := _model_plan(role, flow, model, features, document, source)) is not None
    )
    groups = tuple(_groups(flow, document, plan, parts, source) for plan in plans)
    if len(plans) < len(flow.models):
        return None  # without its models' slots, tables would seem to be wrong
    policy, vector = _policy(flow, document, tables, plans, features, policy_names, parts, source)
    if len(source.problems) > before or policy is None:
        return None
    minor = _MINOR.get(flow.currency, 100)
    return FlowPlan(
        name=f"{flow.product}.{flow.moment}",
        product=flow.product,
        moment=flow.moment,
        description=flow.description,
        subject_kind=_SUBJECT_KINDS[flow.subject],
        currency=flow.currency,
        minor_per_major=minor,
        amount_min_minor=flow.amount.min * minor,
        amount_max_minor=flow.amount.max * minor,
        terms_months=flow.terms_months,
        features=features,
        models=plans,
        policy=policy,
        policy_vector=vector,
        reasons=ReasonPlan(groups, parts.reasons, flow.principal_reasons_max),
        records_events=flow.records_events,
        policy_digest=_policy_digest(flow, tables),
    )


def _policy_digest(flow: FlowFile, tables: Mapping[Role, dict[str, Any]]) -> str:
    content = {"tables": tables, "terms": flow.policy.model_dump(mode="json", exclude={"tables"})}
    whole = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return "sha256:" + hashlib.sha256(whole).hexdigest()


def _check_terms(flow: FlowFile, document: Document, source: Source) -> None:
    if flow.amount.min > flow.amount.max:
        source.report(document.file, document.place("amount"), "min is above max", "Swap or correct them.")
    if list(flow.terms_months) != sorted(set(flow.terms_months)):
        source.report(
            document.file, document.place("terms_months"), "terms must rise, each once", "Sort them, drop repeats."
        )


def _tables(flow: FlowFile, document: Document, source: Source) -> dict[Role, dict[str, Any]]:
    tables: dict[Role, dict[str, Any]] = {}
    for role, name in flow.policy.tables.items():
        if role not in _ROLES:
            source.report(
                document.file,
                document.place("policy", "tables", role),
                f"there is no role {role!r}",
                f"Use {', '.join(_ROLES)}.",
            )
            continue
        table = source.read_document(name, named_by=document.file)
        if table is None:
            continue
        if not isinstance(table.data, dict):
            source.report(name, "", "is not a JDM document", "Save it from the decision table editor.")
            continue
        tables[cast("Role", role)] = table.data
    return tables


def _policy_names(flow: FlowFile, tables: Mapping[Role, dict[str, Any]]) -> set[str]:
    """The feature names that tables and affordability read."""
    names = {n for n in (flow.policy.income, flow.policy.existing_debt_payments, flow.policy.debt_ratio) if n}
    for table in tables.values():
        nodes = table.get("nodes")
        for node in nodes if isinstance(nodes, list) else ():
            content = node.get("content") if isinstance(node, dict) else None
            inputs = content.get("inputs") if isinstance(content, dict) else None
            for column in inputs if isinstance(inputs, list) else ():
                field = column.get("field") if isinstance(column, dict) else None
                if isinstance(field, str):
                    names.add(field.strip())
    return names


def _models(flow: FlowFile, document: Document, parts: Parts, source: Source) -> dict[str, Model]:
    models = {}
    for role, entry in flow.models.items():
        place = document.place("models", role)
        if role in ("application", "offer", "now"):
            source.report(document.file, place, f"the name {role!r} is taken", "Call the model's part otherwise.")
        model = parts.models.get(entry.model)
        if model is None:
            # A model that is in bundle.yaml but did not load has its own problem already.
            if entry.model not in parts.catalogue.declared_models:
                source.report(
                    document.file,
                    place,
                    f"model {entry.model!r} is not in bundle.yaml",
                    f"Declare it there, or use one of {', '.join(sorted(parts.models)) or 'none'}.",
                )
            continue
        if model.manifest is not None and model.manifest.component != entry.component:
            source.report(
                document.file,
                place,
                f"{entry.model!r} is a {model.manifest.component} model, not {entry.component}",
                f"Write `component: {model.manifest.component}`.",
            )
        models[role] = model
    return models


def _model_plan(
    role: str, flow: FlowFile, model: Model, features: FeaturePlan, document: Document, source: Source
) -> ModelPlan | None:
    place = document.place("models", role)
    slots, recodes, good = [], [], True
    for index, name in enumerate(model.inputs):
        slot = features.slots.get(name)
        if slot is None:
            source.report(
                document.file,
                place,
                f"input {name!r} of model {model.id!r} is filled by no feature of the flow",
                "Add the view, request field or derived feature that gives it.",
            )
            good = False
            continue
        slots.append(slot)
        if model.manifest is not None:
            table = _fit(features.features[slot], model.manifest, index, document.file, place, source)
            if table is not None:
                recodes.append((index, table))
    if not good:
        return None
    component = Component[flow.models[role].component.upper()]
    return ModelPlan(role, component, model, np.array(slots, dtype=np.intp), _needs(features, slots), tuple(recodes))


def _needs(features: FeaturePlan, slots: list[int]) -> frozenset[int]:
    """The slots of a model and those behind them. A function that is about absence itself (the first that is there)
    needs none of its arguments."""
    needs = set(slots)
    for derived in reversed(features.derived):
        if derived.slot in needs and not derived.takes_missing:
            needs |= {slot for slot in derived.arguments if slot < features.count}
    return frozenset(needs)


def _fit(feature: Feature, manifest: Manifest, index: int, file: str, place: str, source: Source) -> np.ndarray | None:
    """Whether a feature fits the model's input; for categories in another order, the codes to feed instead."""
    wanted = manifest.features[index]
    if feature.origin is not ValueOrigin.DERIVED and feature.kind not in _FITTING[wanted.type]:
        source.report(
            file,
            place,
            f"type clash: {wanted.name!r} is {feature.kind} in features.yaml and {wanted.type} in {manifest.id!r}",
            "Give it the model's type in features.yaml, or derive a feature of that type.",
        )
    elif feature.unit and wanted.unit and feature.unit != wanted.unit:
        source.report(
            file,
            place,
            f"unit clash: {wanted.name!r} is in {feature.unit!r} here and in {wanted.unit!r} in {manifest.id!r}",
            "Convert it with a derived feature, or correct the unit.",
        )
    elif wanted.type == "category" and feature.categories != wanted.categories:
        strange = [c for c in feature.categories if c not in wanted.categories]
        if strange:
            source.report(
                file,
                place,
                f"{wanted.name!r}: the model does not know the categories {', '.join(strange)}",
                f"It knows {', '.join(wanted.categories)}.",
            )
            return None
        return np.array([float(wanted.categories.index(c)) for c in feature.categories])
    return None


def _groups(flow: FlowFile, document: Document, plan: ModelPlan, parts: Parts, source: Source) -> ReasonGroups | None:
    manifest = plan.model.manifest
    if manifest is None:
        return None
    place = document.place("models", plan.role)
    covered = {f for g in manifest.reasons for f in g.features}
    for name in plan.model.inputs:
        if name not in covered:
            source.report(
                document.file,
                place,
                f"input {name!r} of {manifest.id!r} can lower the score but has no reason code",
                "Put it into a reason group of the model and export again.",
            )
    for group in manifest.reasons:
        text = parts.reasons.get(group.code)
        if text is None:
            source.report(
                "reasons.yaml",
                group.code,
                f"the code is missing; model {manifest.id!r} gives it for {', '.join(group.features)}",
                "Add it with texts in every language of the bundle.",
            )
        elif text.retired is not None:
            source.report(
                "reasons.yaml", group.code, f"the code is retired, and {manifest.id!r} gives it", "Use another."
            )
        elif text.component is not plan.component:
            source.report(
                "reasons.yaml",
                group.code,
                f"belongs to {text.component.name.lower()}, and {manifest.id!r} is a {manifest.component} model",
                "Use a code of the model's component.",
            )
    index = {name: i for i, name in enumerate(plan.model.inputs)}
    order = [index[f] for g in manifest.reasons for f in g.features]
    starts = np.cumsum([0] + [len(g.features) for g in manifest.reasons])[:-1]
    per_raw = manifest.calibration.slope * (manifest.scaling.points_per_logit if manifest.scaling else 1.0)
    return ReasonGroups(
        component=plan.component,
        order=np.array(order, dtype=np.intp),
        starts=starts.astype(np.intp),
        codes=tuple(g.code for g in manifest.reasons),
        features=tuple(g.features for g in manifest.reasons),
        points_per_raw=per_raw,
    )


def _policy(
    flow: FlowFile,
    document: Document,
    tables: Mapping[Role, dict[str, Any]],
    models: tuple[ModelPlan, ...],
    features: FeaturePlan,
    names: set[str],
    parts: Parts,
    source: Source,
) -> tuple[Policy | None, PolicyVector]:
    specs: dict[str, SlotSpec] = {}
    for plan in models:
        low, high = _points_range(plan.model)
        specs[f"{plan.role}.points"] = SlotSpec(len(specs), "number", low, high, nullable=True, integer=True)
        specs[f"{plan.role}.probability"] = SlotSpec(len(specs), "number", 0.0, 1.0, nullable=True)
    read = [features.features[features.slots[n]] for n in sorted(names) if n in features.slots]
    numbers = [f for f in read if f.kind in ("float", "integer", "timestamp")]
    flags = [f for f in read if f.kind == "boolean"]
    categories = [f for f in read if f.kind == "category"]
    specs["application.amount"] = SlotSpec(len(specs), "number", float(flow.amount.min), float(flow.amount.max))
    terms = tuple(float(t) for t in flow.terms_months)
    specs["application.term_months"] = SlotSpec(len(specs), "number", integer=True, values=terms)
    for feature in numbers:
        low_, high_ = _open(feature.lower), _open(feature.upper)
        specs[feature.name] = SlotSpec(
            len(specs), "number", low_, high_, nullable=_nullable(feature), integer=feature.kind == "integer"
        )
    for feature in flags:
        specs[feature.name] = SlotSpec(len(specs), "boolean", nullable=_nullable(feature))
    for feature in categories:
        specs[feature.name] = SlotSpec(len(specs), "string", allowed=feature.categories, nullable=_nullable(feature))
    slots, end = features.slots, features.count
    vector = PolicyVector(
        models=len(models),
        numbers=(end, end + 1, *(slots[f.name] for f in numbers)),
        flags=tuple(slots[f.name] for f in flags),
        categories=tuple((slots[f.name], f.categories) for f in categories),
    )
    for key in ("income", "existing_debt_payments", "debt_ratio"):
        name = getattr(flow.policy, key)
        if name is not None and name not in specs:
            source.report(
                document.file,
                document.place("policy", key),
                f"{name!r} is no number that the flow has",
                "Name a feature of the flow.",
            )
            return None, vector
    minor = _MINOR.get(flow.currency, 100)
    policy, problems = compile_policy(
        tables,
        files={**{role: name for role, name in flow.policy.tables.items() if role in _ROLES}, "flow": document.file},
        slots=specs,
        flow_terms=FlowTerms(
            amount_min_minor=flow.amount.min * minor,
            amount_max_minor=flow.amount.max * minor,
            amount_step_minor=flow.amount.step * minor,
            terms_months=flow.terms_months,
            legal_cap_percent=flow.policy.legal_cap_percent,
            income_slot=flow.policy.income,
            existing_payments_slot=flow.policy.existing_debt_payments,
            debt_ratio_slot=flow.policy.debt_ratio,
            minor_per_major=minor,
        ),
        reason_codes={c for c, t in parts.reasons.items() if t.retired is None},
        fraud_model=any(plan.component is Component.FRAUD for plan in models),
    )
    source.problems += problems
    return policy, vector


def _open(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def _nullable(feature: Feature) -> bool:
    """Whether the policy can meet null: unless the field is required, or a default stands in for every absence."""
    if feature.origin is ValueOrigin.CALLER:
        rules = [feature.rules[FeatureStatus.NOT_FOUND]]
        return not feature.required and any(r.action is not SubstitutionAction.DEFAULT for r in rules)
    if feature.origin is ValueOrigin.DERIVED or not feature.subject:
        return True
    return any(rule.action is not SubstitutionAction.DEFAULT for rule in feature.rules)


def _points_range(model: Model) -> tuple[float | None, float | None]:
    if isinstance(model, ForeignModel):
        scaling = model.spec.scaling
    else:
        scaling = model.manifest.scaling if model.manifest else None
    return (scaling.points_min, scaling.points_max) if scaling else (None, None)
