"""What features.yaml says of counters and of values that expire, held against the rest of it."""

from __future__ import annotations

from collections.abc import Callable

from engine.bundle.schema import FeatureEntry, FeaturesFile, ViewEntry
from engine.bundle.source import Document, Source

_TYPES = {"count": "integer", "distinct": "integer", "sum": "float", "time_since": "float"}
AMOUNT = "amount"


def check_counters(file: FeaturesFile, document: Document, source: Source, view_name: str) -> None:
    """A view is counted as a whole or not at all, and every counter counts something that there is."""
    view = file.views[view_name]
    counted = [name for name, entry in view.features.items() if entry.counter is not None]
    if not counted:
        return
    for name, entry in view.features.items():
        path = ("views", view_name, "features", name)
        where, counter = document.place(*path), entry.counter
        if counter is None:
            source.report(
                document.file,
                where,
                f"has no `counter`, and {counted[0]!r} of the same view has one",
                "Counters have views of their own, which the engine writes: move it to another view.",
            )
            continue
        where = document.place(*path, "counter")
        if entry.type != _TYPES[counter.what]:
            source.report(
                document.file,
                where,
                f"{counter.what} gives {_TYPES[counter.what]}",
                f"Set type: {_TYPES[counter.what]}.",
            )
        _check_of(file, document, source, where, view, entry)
        if entry.range is not None and entry.range[0] > 0:
            source.report(document.file, where, "the range leaves out 0, where every counter begins", "Begin at 0.")
    if view.caller_may_send:
        source.report(
            document.file, document.place("views", view_name), "a caller may not send counters", "Drop caller_may_send."
        )


def _check_of(
    file: FeaturesFile, document: Document, source: Source, where: str, view: ViewEntry, entry: FeatureEntry
) -> None:
    counter = entry.counter
    assert counter is not None
    if counter.what in ("count", "time_since"):
        if counter.of is not None:
            source.report(document.file, where, f"{counter.what} takes no `of`", "Remove it.")
    elif counter.what == "sum":
        numbers = [AMOUNT, *(n for n, e in file.request.items() if e.type in ("float", "integer"))]
        if counter.of not in numbers:
            source.report(
                document.file, where, f"there is no amount {counter.of!r} to sum", f"Use one of {', '.join(numbers)}."
            )
    elif counter.of not in file.entities or counter.of == view.entity:
        others = ", ".join(e for e in file.entities if e != view.entity)
        source.report(document.file, where, f"`of` names no other entity: {counter.of!r}", f"Use one of {others}.")


def check_expiries(
    view_name: str,
    view: ViewEntry,
    document: Document,
    source: Source,
    number: Callable[[float | bool | str, FeatureEntry], float | None],
) -> None:
    """The moment stands in the same view, and what counts afterwards is a value of the feature. number: the number in
    the slot for a value, None when it does not fit."""
    for name, entry in view.features.items():
        if entry.expiry is None:
            continue
        where = document.place("views", view_name, "features", name, "expiry")
        since = view.features.get(entry.expiry.since)
        if since is None or since.type != "timestamp":
            source.report(
                document.file,
                where,
                f"`since` names no timestamp of this view: {entry.expiry.since!r}",
                "Name a feature of type timestamp in the same view.",
            )
        if number(entry.expiry.then, entry) is None:
            source.report(
                document.file, where, f"`then` {entry.expiry.then!r} is no {entry.type} in range", "Give one that is."
            )
