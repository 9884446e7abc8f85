"""What features.yaml says of cleaning, held against the features that it is said of."""

from __future__ import annotations

from collections.abc import Callable

from engine.bundle.schema import CleaningEntry, FeatureEntry, FeaturesFile
from engine.bundle.source import Document, Source
from engine.features.row_schema import Kind
from engine.features.writing.feature_rule import range_of

_NUMBERS = ("float", "integer")


def check_cleaning(file: FeaturesFile, document: Document, source: Source) -> None:
    """Every cleaning rule belongs to a feature that writers write, and fits its type, unit, range and categories."""
    for view_name, view in file.views.items():
        for name, entry in view.features.items():
            _check(document, source, entry, ("views", view_name, "features", name, "cleaning"), written=True)
    for name, entry in file.request.items():
        _check(document, source, entry, ("request", name, "cleaning"), written=False)


def _check(document: Document, source: Source, entry: FeatureEntry, path: tuple[str, ...], *, written: bool) -> None:
    cleaning = entry.cleaning
    if cleaning == CleaningEntry():
        return

    def report(message: str, fix: str, *more: str) -> None:
        source.report(document.file, document.place(*path, *more), message, fix)

    if not written:
        report("a field of the request is taken as it is or refused, never cleaned", "Remove it.")
        return
    if entry.counter is not None:
        report("nobody writes a counter, so there is nothing to clean", "Remove it.")
        return
    if cleaning.units:
        if entry.type not in _NUMBERS:
            report(f"units do not go with type {entry.type}", "Remove them.", "units")
        elif not entry.unit:
            report("the feature has no unit that others could be converted to", "Give it its `unit`.", "units")
        elif entry.unit in cleaning.units:
            report(f"{entry.unit!r} is the feature's own unit", "Remove it; its factor is 1.", "units", entry.unit)
    _check_outside(entry, report)
    if entry.type != "category":
        if cleaning.map:
            report(f"a map of categories does not go with type {entry.type}", "Remove it.", "map")
        if cleaning.unknown != "reject":
            report(f"`unknown` does not go with type {entry.type}", "Remove it.", "unknown")
        return
    for name, category in cleaning.map.items():
        if category not in entry.categories:
            known = ", ".join(entry.categories)
            report(f"{name!r} is mapped to {category!r}, which is not listed", f"Use one of {known}.", "map", name)
        if name in entry.categories:
            report(f"{name!r} is listed itself, so it is never mapped", "Remove it from one of the two.", "map", name)


def _check_outside(entry: FeatureEntry, report: Callable[..., None]) -> None:
    outside = entry.cleaning.outside
    if outside == "reject":
        return
    if entry.type in ("category", "boolean"):
        report(f"`outside` does not go with type {entry.type}", "Remove it.", "outside")
    elif entry.range is None:
        report("the feature has no range that a value could be outside of", "Give it its `range`.", "outside")
    elif entry.type == "integer" and outside == "clip":
        lower, upper = range_of(Kind.INT64, entry.range)
        if lower > upper:
            report("there is no whole number in the range to clip to", "Widen the range.", "outside")
