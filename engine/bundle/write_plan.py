"""Compiles the catalogue for those who write and read features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.bundle.catalogue import Catalogue, check_catalogue, view_schema
from engine.bundle.compile_features import compile_features
from engine.bundle.schema import FeatureEntry, FeaturesFile, FlowFile, ReasonsFile, ViewEntry
from engine.bundle.source import Source
from engine.errors import BundleError
from engine.features.row_schema import Field
from engine.features.store import key_maker
from engine.features.writing.events import EventRules
from engine.features.writing.feature_rule import FeatureRule, range_of
from engine.features.writing.plan import DeskPlan, ReadingView, WritePlan
from engine.features.writing.view_writer import ViewWriter
from engine.plan import BundlePlan

_FEATURES_FILE, _REASONS_FILE = "features.yaml", "reasons.yaml"


def read_catalogue(root: Path) -> Catalogue:
    """The catalogue of the bundle in a directory, checked by itself: no flow, model or policy is looked at. For those
    who only write rows. Raises BundleError with every problem found."""
    source = Source(root)
    features, document = source.read_as(_FEATURES_FILE, FeaturesFile, named_by=str(root))
    reasons, _ = source.read_as(_REASONS_FILE, ReasonsFile, named_by=str(root))
    if features is None or document is None or reasons is None:
        raise BundleError(source.problems)
    catalogue = Catalogue(features, document, reasons)
    check_catalogue(catalogue, source)
    if source.problems:
        raise BundleError(source.problems)
    return catalogue


def make_write_plan(catalogue: Catalogue) -> WritePlan:
    """How writers' values become rows. The catalogue must be free of mistakes."""
    file = catalogue.file
    counted = frozenset(name for name, view in file.views.items() if _is_counted(view))
    amounts: dict[str, set[str]] = {}
    for view in file.views.values():
        for entry in view.features.values():
            if entry.counter is not None and entry.counter.what == "sum" and entry.counter.of is not None:
                amounts.setdefault(entry.counter.of, set()).add(entry.unit)
    entities = frozenset(file.entities)
    return WritePlan(
        views={name: _writer(name, view) for name, view in file.views.items() if name not in counted},
        counted=counted,
        entities=entities,
        events=EventRules(entities, {name: frozenset(units) for name, units in amounts.items()}),
    )


def make_desk_plan(catalogue: Catalogue, bundle: BundlePlan | None = None) -> DeskPlan:
    """All that writers and readers of features need. bundle: absent, no flow is known by name."""
    file = catalogue.file
    readings = {}
    for name, view in file.views.items():
        # A flow of this one view, so that what is shown is what a decision reads.
        flow = FlowFile.model_construct(views=(name,), request=(), derived=(), records_events=False)
        plan = compile_features(catalogue, flow, catalogue.document, (), Source(Path()))
        if plan is not None:
            readings[name] = ReadingView(name, view.entity, replace(plan, consents=()))
    flows: Mapping[str, tuple[str, ...]] = {}
    if bundle is not None:
        flows = {name: tuple(view.name for view in flow.features.views) for name, flow in bundle.flows.items()}
    subjects = tuple(name for name, entity in file.entities.items() if entity.key == "subject")
    return DeskPlan(make_write_plan(catalogue), readings, flows, subjects)


def _is_counted(view: ViewEntry) -> bool:
    return any(entry.counter is not None for entry in view.features.values())


def _writer(name: str, view: ViewEntry) -> ViewWriter:
    schema = view_schema(name, view)
    rules = tuple(_rule(field, view.features[field.name]) for field in schema.fields)
    return ViewWriter(name, view.entity, schema, rules, key_maker(view.entity, name))


def _rule(field: Field, entry: FeatureEntry) -> FeatureRule:
    lower, upper = range_of(field.kind, entry.range)
    codes = {category: float(code) for code, category in enumerate(entry.categories)}
    cleaning = entry.cleaning
    return FeatureRule(
        name=field.name,
        kind=field.kind,
        unit=field.unit,
        lower=0.0 if codes else lower,
        upper=len(codes) - 1.0 if codes else upper,
        ranged=entry.range is not None,
        outside=cleaning.outside,
        factors=cleaning.units,
        codes=codes,
        mapped={name: codes[category] for name, category in cleaning.map.items() if category in codes},
        unknown=cleaning.unknown,
    )
