"""Compiles the feature catalogue, as one flow uses it, to a `FeaturePlan`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from engine.bundle.schema import Absence, DerivedEntry, FeatureEntry, FeaturesFile, FlowFile, ReasonsFile, ViewEntry
from engine.bundle.source import Document, Source
from engine.domain.enums import Component, FeatureStatus, SubstitutionAction, ValueOrigin, Verdict
from engine.features.derive import FUNCTIONS
from engine.features.encoding import Field, Kind, RowDecoder, RowSchema
from engine.features.plan import (
    BUILT_INS,
    AbsenceRule,
    DerivedPlan,
    Feature,
    FeaturePlan,
    FieldPlan,
    ViewPlan,
    bounds,
)
from engine.features.store import key_maker

_DAY_US = 86_400_000_000
_NEVER_US = 2**62
_KINDS = {
    "float": Kind.FLOAT64,
    "integer": Kind.INT64,
    "boolean": Kind.BOOLEAN,
    "category": Kind.CATEGORY,
    "timestamp": Kind.TIMESTAMP,
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """features.yaml with its document, the reason codes that its rules may name, and the models that
    bundle.yaml declares."""

    file: FeaturesFile
    document: Document
    reasons: ReasonsFile
    declared_models: frozenset[str] = frozenset()


def view_schema(name: str, view: ViewEntry) -> RowSchema:
    """The schema of a view's rows: what writers encode with and the plan decodes with."""
    return RowSchema(
        name,
        tuple(Field(f, _KINDS[e.type], e.unit, e.categories) for f, e in view.features.items()),
    )


def check_catalogue(catalogue: Catalogue, source: Source) -> None:
    """Everything about the catalogue that needs no flow: each feature's type, range, categories, rules; names."""
    file, document = catalogue.file, catalogue.document
    where: dict[str, str] = {}

    def claim(name: str, *path: str) -> None:
        if name in where:
            source.report(
                document.file,
                document.place(*path),
                f"the name {name!r} is taken by {where[name]}",
                "Feature names are unique over views, request and derived features: rename one.",
            )
        where[name] = ".".join(path)

    for view_name, view in file.views.items():
        if view.entity not in file.entities:
            source.report(
                document.file,
                document.place("views", view_name, "entity"),
                f"entity {view.entity!r} is not declared",
                f"Declare it under `entities`, or use one of {', '.join(file.entities)}.",
            )
        for name, entry in view.features.items():
            claim(name, "views", view_name, "features", name)
            _check_entry(catalogue, source, name, entry, ("views", view_name, "features", name))
    for name, entry in file.request.items():
        claim(name, "request", name)
        _check_entry(catalogue, source, name, entry, ("request", name))
    for name, derived in file.derived.items():
        claim(name, "derived", name)
        _check_derived(catalogue, source, name, derived)


def _check_entry(catalogue: Catalogue, source: Source, name: str, entry: FeatureEntry, path: tuple[str, ...]) -> None:
    file, place = catalogue.document.file, catalogue.document.place
    if entry.type == "category" and not entry.categories:
        source.report(file, place(*path), "a category needs its `categories`", "List every value it can have.")
    if entry.type != "category" and entry.categories:
        source.report(file, place(*path), f"`categories` do not go with type {entry.type}", "Remove them.")
    if len(set(entry.categories)) != len(entry.categories):
        source.report(file, place(*path, "categories"), "a category stands twice", "Remove one of the two.")
    if entry.range is not None:
        if not entry.range[0] <= entry.range[1] or not all(map(math.isfinite, entry.range)):
            source.report(file, place(*path, "range"), "the range is empty or not finite", "Write [lowest, highest].")
        if entry.type in ("category", "boolean"):
            source.report(file, place(*path, "range"), f"a range does not go with type {entry.type}", "Remove it.")
    for status in ("on_missing", "on_stale", "on_unavailable", "on_unnamed"):
        _check_absence(catalogue, source, getattr(entry, status), entry, (*path, status))


def _check_absence(
    catalogue: Catalogue, source: Source, rule: Absence, entry: FeatureEntry, path: tuple[str, ...]
) -> None:
    file, place = catalogue.document.file, catalogue.document.place(*path)
    if sum(x is not None for x in (rule.use, rule.default, rule.verdict)) != 1:
        source.report(file, place, "exactly one of `use`, `default` and `verdict` must be given", "Keep one.")
        return
    if rule.use == "stale_value" and path[-1] != "on_stale":
        source.report(file, place, "there is no stale value in this case", "Use it under `on_stale` only.")
    if rule.verdict is not None and rule.reason is None:
        source.report(file, place, "a verdict needs its reason", "Add `reason:` with a code of reasons.yaml.")
    if rule.reason is not None and rule.reason not in catalogue.reasons.reasons:
        source.report(file, place, f"reason {rule.reason!r} is not in reasons.yaml", "Add it there, or correct it.")
    elif rule.reason is not None and catalogue.reasons.reasons[rule.reason].retired is not None:
        source.report(file, place, f"reason {rule.reason!r} is retired", "Use another code.")
    if rule.default is not None and _default(rule.default, entry) is None:
        source.report(
            file, place, f"default {rule.default!r} is no {entry.type} in range", "Give a value of the feature's type."
        )


def _default(value: float | bool | str, entry: FeatureEntry) -> float | None:
    """The number in the slot for a default; None when it does not fit."""
    if entry.type == "category":
        return float(entry.categories.index(value)) if value in entry.categories else None
    if entry.type == "boolean":
        return float(value) if isinstance(value, bool) else None
    if isinstance(value, bool | str) or not math.isfinite(value):
        return None
    if entry.type == "integer" and value != int(value):
        return None
    if entry.range is not None and not entry.range[0] <= value <= entry.range[1]:
        return None
    return float(value)


def _check_derived(catalogue: Catalogue, source: Source, name: str, entry: DerivedEntry) -> None:
    file, place = catalogue.document.file, catalogue.document.place
    function = FUNCTIONS.get(entry.function)
    if function is None:
        source.report(
            file,
            place("derived", name, "function"),
            f"there is no function {entry.function!r}",
            f"Use one of {', '.join(sorted(FUNCTIONS))}.",
        )
    elif function.arity is not None and len(entry.arguments) != function.arity:
        source.report(
            file,
            place("derived", name, "arguments"),
            f"{entry.function} takes {function.arity} arguments, and {len(entry.arguments)} are given",
            f"It gives {function.description}.",
        )
    if not entry.arguments:
        source.report(file, place("derived", name, "arguments"), "there is no argument", "Name at least one.")


def compile_features(
    catalogue: Catalogue, flow: FlowFile, flow_document: Document, used_names: Collection[str], source: Source
) -> FeaturePlan | None:
    """One flow's feature plan. `used_names` are the features that a model or the policy of the flow reads; derived
    features pass the mark on to their arguments. None, with problems noted, when a name cannot be resolved."""
    file = catalogue.file
    before = len(source.problems)
    for kind, names, known in (
        ("views", flow.views, file.views),
        ("request", flow.request, file.request),
        ("derived", flow.derived, file.derived),
    ):
        for index, name in enumerate(names):
            if name not in known:
                source.report(
                    flow_document.file,
                    flow_document.place(kind, index),
                    f"{name!r} is not in features.yaml under `{kind}`",
                    f"Declare it there, or use one of {', '.join(known) or 'none'}.",
                )
        if len(set(names)) != len(names):
            source.report(flow_document.file, flow_document.place(kind), "a name stands twice", "Remove one.")
    undeclared = [view for view in flow.views if view in file.views and file.views[view].entity not in file.entities]
    if len(source.problems) > before or undeclared:
        return None

    slots: dict[str, int] = {}
    for view in flow.views:
        for name in file.views[view].features:
            slots[name] = len(slots)
    request_start = len(slots)
    for name in (*flow.request, *flow.derived):
        slots[name] = len(slots)
    derived_start = request_start + len(flow.request)

    used = _used(catalogue, flow, used_names)
    features = _features(catalogue, flow, slots, used)
    derived, constants = _derived(catalogue, flow, flow_document, slots, source)
    if len(source.problems) > before:
        return None

    entities = _entities(file, flow)
    listing = {
        "features": [
            {
                "name": f.name,
                "type": f.kind,
                "unit": f.unit,
                "categories": list(f.categories),
                "origin": f.origin.name,
                "view": f.view,
                "max_age_us": f.max_age_us,
                "purpose": f.purpose or (file.views[f.view].purpose if f.view else ""),
            }
            for f in features
        ],
        "views": [
            {"name": name, "entity": file.views[name].entity, "source": file.views[name].source} for name in flow.views
        ],
    }
    catalogue_json = json.dumps(listing, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    lower, upper = bounds(features)
    views = _views(file, flow, slots, entities)
    count = len(features)
    return FeaturePlan(
        features=features,
        slots=slots,
        entities=entities,
        entity_places={entity: place for place, entity in enumerate(entities, 1)},
        views=views,
        steps=tuple((v.decoder.decode_into_bytes, 8 * v.start, v.all_present, v.max_age_us_min, v) for v in views),
        fields=_fields(file, flow, slots, features),
        required_fields=tuple(n for n in flow.request if file.request[n].required),
        request_start=request_start,
        request_count=len(flow.request),
        derived_start=derived_start,
        derived=derived,
        constants=constants,
        values_template=np.full(count, math.nan),
        statuses_template=np.full(count, FeatureStatus.PRESENT, dtype=np.uint8),
        origins_template=np.array([f.origin for f in features], dtype=np.uint8),
        lower=lower,
        upper=upper,
        used=tuple(f.used for f in features),
        catalogue_digest="sha256:" + hashlib.sha256(catalogue_json).hexdigest(),
        catalogue_json=catalogue_json,
    )


def _used(catalogue: Catalogue, flow: FlowFile, names: Collection[str]) -> set[str]:
    """The features read, directly or by a derived feature, and those whose absence has a verdict. Derived features come
    after their arguments, so one walk from the last to the first marks all."""
    file = catalogue.file
    entries = [e for v in flow.views for e in file.views[v].features.items()] + [
        (n, file.request[n]) for n in flow.request
    ]
    # A verdict that the catalogue names must be heard, whoever reads the feature.
    used = set(names) | {
        name
        for name, entry in entries
        if any(r.verdict for r in (entry.on_missing, entry.on_stale, entry.on_unavailable, entry.on_unnamed))
    }
    for name in reversed(flow.derived):
        if name in used:
            used |= {a for a in catalogue.file.derived[name].arguments if isinstance(a, str)}
    return used


def _entities(file: FeaturesFile, flow: FlowFile) -> tuple[str, ...]:
    """The entities besides the subject, in the order in which the flow's views first name them."""
    found: dict[str, None] = {}
    for view in flow.views:
        entity = file.views[view].entity
        if file.entities[entity].key == "entity":
            found[entity] = None
    return tuple(found)


def _rules(entry: FeatureEntry, reasons: ReasonsFile) -> tuple[AbsenceRule, ...]:
    """By the number of the status; those of no status and of PRESENT are never asked."""
    missing, stale, unavailable = (
        _rule(rule, entry, reasons) for rule in (entry.on_missing, entry.on_stale, entry.on_unavailable)
    )
    by_status = {FeatureStatus.STALE: stale, FeatureStatus.UNAVAILABLE: unavailable}
    return missing, *(by_status.get(status, missing) for status in FeatureStatus)


def _rule(rule: Absence, entry: FeatureEntry, reasons: ReasonsFile) -> AbsenceRule:
    if rule.verdict is not None:
        reason = reasons.reasons.get(rule.reason or "")
        component = Component[reason.component.upper()] if reason else Component.POLICY
        return AbsenceRule(
            SubstitutionAction.VERDICT, verdict=Verdict[rule.verdict], reason=rule.reason or "", component=component
        )
    if rule.default is not None:
        value = _default(rule.default, entry)
        return AbsenceRule(SubstitutionAction.DEFAULT, math.nan if value is None else value)
    if rule.use == "stale_value":
        return AbsenceRule(SubstitutionAction.STALE_VALUE)
    return AbsenceRule(SubstitutionAction.MISSING)


def _range(entry: FeatureEntry) -> tuple[float, float]:
    if entry.type == "category":
        return 0.0, float(max(len(entry.categories) - 1, 0))
    if entry.type == "boolean":
        return 0.0, 1.0
    return entry.range or (-math.inf, math.inf)


def _features(
    catalogue: Catalogue, flow: FlowFile, slots: Mapping[str, int], used: Collection[str]
) -> tuple[Feature, ...]:
    file = catalogue.file

    def make(name: str, entry: FeatureEntry, origin: ValueOrigin, view: str, age_days: float | None) -> Feature:
        lower, upper = _range(entry)
        return Feature(
            name=name,
            kind=entry.type,
            unit=entry.unit,
            description=entry.description,
            lower=lower,
            upper=upper,
            categories=entry.categories,
            max_age_us=None if age_days is None else round(age_days * _DAY_US),
            origin=origin,
            view=view,
            rules=_rules(entry, catalogue.reasons),
            unnamed=_rule(entry.on_unnamed, entry, catalogue.reasons),
            subject=bool(view) and file.entities[file.views[view].entity].key == "subject",
            purpose=entry.purpose,
            personal_data=entry.personal_data,
            required=entry.required,
            used=name in used,
        )

    features = []
    for view_name in flow.views:
        view = file.views[view_name]
        for name, entry in view.features.items():
            age_days = entry.max_age_days if entry.max_age_days is not None else view.max_age_days
            features.append(make(name, entry, ValueOrigin.STORE, view_name, age_days))
    for name in flow.request:
        features.append(make(name, file.request[name], ValueOrigin.CALLER, "", None))
    for name in flow.derived:
        derived = file.derived[name]
        entry = FeatureEntry(type="float", unit=derived.unit, description=derived.description, range=derived.range)
        features.append(make(name, entry, ValueOrigin.DERIVED, "", None))
    assert [slots[f.name] for f in features] == list(range(len(features)))
    return tuple(features)


def _derived(
    catalogue: Catalogue, flow: FlowFile, document: Document, slots: Mapping[str, int], source: Source
) -> tuple[tuple[DerivedPlan, ...], tuple[float, ...]]:
    constants: list[float] = []
    plans = []
    built_ins = {name: len(slots) + i for i, name in enumerate(BUILT_INS)}
    done = set(slots) - set(flow.derived)
    for index, name in enumerate(flow.derived):
        entry = catalogue.file.derived[name]
        function = FUNCTIONS.get(entry.function)
        arguments: list[int] = []
        for argument in entry.arguments:
            if isinstance(argument, str) and argument in built_ins:
                arguments.append(built_ins[argument])
            elif isinstance(argument, str) and argument in done:
                arguments.append(slots[argument])
            elif isinstance(argument, str):
                later = argument in slots
                source.report(
                    document.file,
                    document.place("derived", index),
                    f"{name!r} needs {argument!r}, which {'comes after it' if later else 'the flow does not have'}",
                    "List it before." if later else "Add its view, request field or derived feature to the flow.",
                )
            else:
                arguments.append(len(slots) + len(BUILT_INS) + len(constants))
                constants.append(float(argument))
        done.add(name)
        if function is not None:
            plans.append(DerivedPlan(slots[name], function.call, tuple(arguments), function.takes_missing))
    return tuple(plans), tuple(constants)


def _views(
    file: FeaturesFile, flow: FlowFile, slots: Mapping[str, int], entities: tuple[str, ...]
) -> tuple[ViewPlan, ...]:
    plans = []
    for name in flow.views:
        view = file.views[name]
        ages = tuple(
            None if (days := entry.max_age_days or view.max_age_days) is None else round(days * _DAY_US)
            for entry in view.features.values()
        )
        decoder = RowDecoder(view_schema(name, view))
        plans.append(
            ViewPlan(
                name=name,
                entity=view.entity,
                entity_index=0 if file.entities[view.entity].key == "subject" else 1 + entities.index(view.entity),
                key=key_maker(view.entity, name),
                decoder=decoder,
                start=slots[next(iter(view.features))],
                count=len(view.features),
                max_age_us=ages,
                max_age_us_min=min((a for a in ages if a is not None), default=_NEVER_US),
                all_present=decoder.all_present,
            )
        )
    return tuple(plans)


def _fields(
    file: FeaturesFile, flow: FlowFile, slots: Mapping[str, int], features: tuple[Feature, ...]
) -> dict[str, FieldPlan]:
    names = list(flow.request)
    for view in flow.views:
        if file.views[view].caller_may_send:
            names += file.views[view].features
    return {
        name: FieldPlan(
            slots[name], features[slots[name]], {c: float(i) for i, c in enumerate(features[slots[name]].categories)}
        )
        for name in names
    }
