"""Compiles the feature catalogue, as one flow uses it, to a `FeaturePlan`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping

import numpy as np

from engine.bundle.catalogue import ABSENCES, Catalogue, check_catalogue, default_value, view_schema
from engine.bundle.check_views import AMOUNT
from engine.bundle.compile_counters import velocity_view
from engine.bundle.schema import Absence, FeatureEntry, FeaturesFile, FlowFile, ReasonsFile, ViewEntry
from engine.bundle.source import Document, Source
from engine.domain.enums import Component, FeatureStatus, SubstitutionAction, ValueOrigin, Verdict
from engine.features.derive import FUNCTIONS
from engine.features.encoding import RowDecoder
from engine.features.plan import (
    BUILT_INS,
    AbsenceRule,
    ConsentPlan,
    DerivedPlan,
    ExpiryPlan,
    Feature,
    FeaturePlan,
    FieldPlan,
    ViewPlan,
    bounds,
)
from engine.features.store import key_maker
from engine.features.velocity.reader import VelocityReader

__all__ = ["Catalogue", "check_catalogue", "compile_features", "view_schema"]

_DAY_US = 86_400_000_000
_NEVER_US = 2**62


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
        subjects=tuple(name for name, entity in file.entities.items() if entity.key == "subject"),
        entities=entities,
        event_amounts=_event_amounts(file, flow),
        entity_places={entity: place for place, entity in enumerate(entities, 1)},
        views=views,
        steps=tuple((v.decoder.reader(8 * v.start), v.all_present, v.max_age_us_min, v) for v in views),
        expiries=_expiries(file, flow, slots),
        consents=_consents(file, flow, flow_document, slots, source),
        last_good=tuple(
            index for index, v in enumerate(views) if any(_lends(f) for f in features[v.start : v.start + v.count])
        ),
        counted=tuple(i for i, v in enumerate(flow.views) if _is_counted(file.views[v])),
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
    used = set(names) | {name for name, entry in entries if any(getattr(entry, status).verdict for status in ABSENCES)}
    used |= {consent for v in flow.views if (consent := file.views[v].consent) is not None}
    for name in reversed(flow.derived):
        if name in used:
            used |= {a for a in catalogue.file.derived[name].arguments if isinstance(a, str)}
    return used


def _entities(file: FeaturesFile, flow: FlowFile) -> tuple[str, ...]:
    """The entities besides the subject, in the order in which the flow's views first name them."""
    found: dict[str, None] = {}
    named = [file.views[view].entity for view in flow.views]
    if flow.records_events:
        # What the flow does not read, it may still count.
        for view in file.views.values():
            counters = [e.counter for e in view.features.values() if e.counter is not None]
            named += [view.entity] * bool(counters)
            named += [c.of for c in counters if c.what == "distinct" and c.of is not None]
    for entity in named:
        if entity in file.entities and file.entities[entity].key == "entity":
            found[entity] = None
    return tuple(found)


def _event_amounts(file: FeaturesFile, flow: FlowFile) -> tuple[tuple[str, int | None], ...]:
    """What the counters of the catalogue sum, as far as applications of this flow hold it."""
    counters = [e.counter for v in file.views.values() for e in v.features.values() if e.counter is not None]
    names = dict.fromkeys(c.of for c in counters if c.what == "sum" and c.of is not None)
    return tuple(
        (name, None if name == AMOUNT else flow.request.index(name))
        for name in names
        if name == AMOUNT or name in flow.request
    )


def _is_counted(view: ViewEntry) -> bool:
    return any(entry.counter is not None for entry in view.features.values())


def _lends(feature: Feature) -> bool:
    return feature.used and any(r.action is SubstitutionAction.LAST_GOOD_VALUE for r in feature.rules)


def _expiries(file: FeaturesFile, flow: FlowFile, slots: Mapping[str, int]) -> tuple[ExpiryPlan, ...]:
    plans = []
    for index, view in enumerate(flow.views):
        for name, entry in file.views[view].features.items():
            # A `since` that names nothing was reported with the catalogue.
            if entry.expiry is not None and entry.expiry.since in file.views[view].features:
                then = default_value(entry.expiry.then, entry)
                plans.append(
                    ExpiryPlan(
                        slots[name],
                        slots[entry.expiry.since],
                        entry.expiry.after_days * 86_400.0,
                        math.nan if then is None else then,
                        index,
                    )
                )
    return tuple(plans)


def _consents(
    file: FeaturesFile, flow: FlowFile, document: Document, slots: Mapping[str, int], source: Source
) -> tuple[ConsentPlan, ...]:
    entries = {name: e for v in flow.views for name, e in file.views[v].features.items()}
    entries |= {name: file.request[name] for name in flow.request}
    plans = []
    for index, view in enumerate(flow.views):
        consent = file.views[view].consent
        if consent is None:
            continue
        if consent not in entries or entries[consent].type != "boolean":
            source.report(
                document.file,
                document.place("views", index),
                f"{view!r} needs the consent {consent!r}, which is no boolean of the flow's views or request",
                "Add the view or request field that holds it to the flow.",
            )
            continue
        plans.append(ConsentPlan(slots[consent], index))
    return tuple(plans)


def _rules(entry: FeatureEntry, reasons: ReasonsFile) -> tuple[AbsenceRule, ...]:
    """By the number of the status; those of no status and of PRESENT are never asked."""
    missing, stale, unavailable, withheld = (
        _rule(rule, entry, reasons)
        for rule in (entry.on_missing, entry.on_stale, entry.on_unavailable, entry.on_withheld)
    )
    by_status = {
        FeatureStatus.STALE: stale,
        FeatureStatus.UNAVAILABLE: unavailable,
        FeatureStatus.WITHHELD: withheld,
    }
    return missing, *(by_status.get(status, missing) for status in FeatureStatus)


def _rule(rule: Absence, entry: FeatureEntry, reasons: ReasonsFile) -> AbsenceRule:
    if rule.use == "last_good_value":
        otherwise = _rule(rule.model_copy(update={"use": None}), entry, reasons)
        return AbsenceRule(SubstitutionAction.LAST_GOOD_VALUE, otherwise=otherwise)
    if rule.verdict is not None:
        reason = reasons.reasons.get(rule.reason or "")
        component = Component[reason.component.upper()] if reason else Component.POLICY
        return AbsenceRule(
            SubstitutionAction.VERDICT, verdict=Verdict[rule.verdict], reason=rule.reason or "", component=component
        )
    if rule.default is not None:
        value = default_value(rule.default, entry)
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
        counted = velocity_view(file, name)
        reader = None if counted is None else VelocityReader(counted)
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
                counters=None if reader is None else reader.evaluate,
                learn_columns=None if reader is None else reader.learn,
                caps=tuple(_range(entry)[1] for entry in view.features.values()),
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
