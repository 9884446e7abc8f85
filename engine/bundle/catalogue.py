"""The feature catalogue (features.yaml) by itself: every feature's type, range, categories, rules and names."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.bundle.check_cleaning import check_cleaning
from engine.bundle.check_views import check_counters, check_expiries
from engine.bundle.schema import Absence, DerivedEntry, FeatureEntry, FeaturesFile, ReasonsFile, ViewEntry
from engine.bundle.source import Document, Source
from engine.features.derive import FUNCTIONS
from engine.features.encoding import Field, Kind, RowSchema

ABSENCES = ("on_missing", "on_stale", "on_unavailable", "on_unnamed", "on_withheld")
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
        check_counters(file, document, source, view_name)
        check_expiries(view_name, view, document, source, default_value)
    for name, entry in file.request.items():
        claim(name, "request", name)
        if entry.counter is not None or entry.expiry is not None:
            where_ = document.place("request", name)
            source.report(document.file, where_, "`counter` and `expiry` are for features of views", "Remove it.")
        _check_entry(catalogue, source, name, entry, ("request", name))
    for name, derived in file.derived.items():
        claim(name, "derived", name)
        _check_derived(catalogue, source, name, derived)
    check_cleaning(file, document, source)


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
    for status in ABSENCES:
        _check_absence(catalogue, source, getattr(entry, status), entry, (*path, status))


def _check_absence(
    catalogue: Catalogue, source: Source, rule: Absence, entry: FeatureEntry, path: tuple[str, ...]
) -> None:
    file, place = catalogue.document.file, catalogue.document.place(*path)
    lends = rule.use == "last_good_value"
    given = sum(x is not None for x in (rule.use, rule.default, rule.verdict))
    if given != 1 and not (lends and given == 2):
        source.report(file, place, "exactly one of `use`, `default` and `verdict` must be given", "Keep one.")
        return
    if lends and path[-1] != "on_unavailable":
        source.report(file, place, "the store is there in this case", "Use it under `on_unavailable` only.")
    if rule.use in ("last_good_value", "stale_value") and entry.counter is not None:
        source.report(file, place, "an old count is no count", "Name a default, a verdict, or `use: missing`.")
    if rule.use == "stale_value" and path[-1] != "on_stale":
        source.report(file, place, "there is no stale value in this case", "Use it under `on_stale` only.")
    if rule.verdict is not None and rule.reason is None:
        source.report(file, place, "a verdict needs its reason", "Add `reason:` with a code of reasons.yaml.")
    if rule.reason is not None and rule.reason not in catalogue.reasons.reasons:
        source.report(file, place, f"reason {rule.reason!r} is not in reasons.yaml", "Add it there, or correct it.")
    elif rule.reason is not None and catalogue.reasons.reasons[rule.reason].retired is not None:
        source.report(file, place, f"reason {rule.reason!r} is retired", "Use another code.")
    if rule.default is not None and default_value(rule.default, entry) is None:
        source.report(
            file, place, f"default {rule.default!r} is no {entry.type} in range", "Give a value of the feature's type."
        )


def default_value(value: float | bool | str, entry: FeatureEntry) -> float | None:
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
