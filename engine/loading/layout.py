"""Which column of a file is what: the id, the event time, the features; and what is wrong with a file as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import Problem
from engine.features.writing.outcome import Rejected
from engine.features.writing.view_writer import ViewWriter
from engine.loading.cells import Cells

# Ignores every column that is no feature.
OTHERS = "*"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a person says of a file.

    id_column, event_time_column: their names; event_time_us: one event time for all rows, in place of a column; names:
    feature by column, where the names differ; units: by feature, where they are not its own; ignored: columns to leave
    alone, `*` for all that are no features; cells: how values are written; delimiter: of CSV.
    """

    id_column: str = "id"
    event_time_column: str = "event_time"
    event_time_us: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    cells: Cells = field(default_factory=Cells)
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file, resolved. features: column by feature; units: by feature; known: every column that may be
    there; anything: whether other columns are left alone too."""

    id_column: str
    event_time_column: str | None
    features: Mapping[str, str]
    units: Mapping[str, str]
    known: frozenset[str]
    anything: bool
    cells: Cells
    event_time_us: int | None


def check_options(options: LoadOptions, writer: ViewWriter, file: str) -> list[Problem]:
    """What is wrong with the options by themselves: names and units that the view does not have."""
    problems = []
    for column, feature in options.names.items():
        if feature not in writer.by_name:
            fix = f"Use one of {', '.join(writer.by_name)}."
            problems.append(
                Problem(file, f"--map {column}={feature}", f"{writer.name!r} has no feature {feature!r}", fix)
            )
    for feature, unit in options.units.items():
        place = f"--unit {feature}={unit}"
        rule = writer.by_name.get(feature)
        if rule is None:
            fix = f"Use one of {', '.join(writer.by_name)}."
            problems.append(Problem(file, place, f"{writer.name!r} has no feature {feature!r}", fix))
            continue
        try:
            rule.factor(unit)
        except Rejected as cause:
            fix = "Declare the unit with its factor under the feature's `cleaning.units`, or correct it."
            problems.append(Problem(file, place, cause.message, fix))
    twice = [f for f in writer.by_name if list(options.names.values()).count(f) > 1]
    problems += [Problem(file, f"--map ...={f}", "two columns are mapped to it", "Keep one of them.") for f in twice]
    return problems


def layout_of(columns: Sequence[str], options: LoadOptions, writer: ViewWriter, file: str) -> Layout | list[Problem]:
    """The layout of a file with these columns; or what is wrong with them."""
    problems = [
        Problem(file, name, "the column stands twice", "Rename one of the two.")
        for name in dict.fromkeys(columns)
        if columns.count(name) > 1
    ]
    needed = {options.id_column: "--id"}
    if options.event_time_us is None:
        needed[options.event_time_column] = "--event-time"
    for name, option in needed.items():
        if name not in columns:
            fix = f"Name it with {option}: the columns are {_listed(columns)}."
            if option == "--event-time":
                fix = f"{fix[:-1]}; or give one moment for all rows with --at."
            problems.append(Problem(file, name, "there is no such column", fix))
    for name in [*options.names, *(name for name in options.ignored if name != OTHERS)]:
        if name not in columns:
            problems.append(Problem(file, name, "there is no such column", f"The columns are {_listed(columns)}."))
    layout = open_layout(options, writer)
    for name in dict.fromkeys(columns):
        if name not in layout.known and not layout.anything:
            close = difflib.get_close_matches(name, list(writer.by_name), n=1)
            hint = f" (--map {name}={close[0]}?)" if close else ""
            fix = f"Map it to a feature{hint}, or leave it alone with --ignore {name!r} (or '*' for all such columns)."
            problems.append(Problem(file, name, f"the column is no feature of {writer.name!r}", fix))
    return problems or Layout(
        layout.id_column,
        layout.event_time_column,
        {feature: column for feature, column in layout.features.items() if column in columns},
        layout.units,
        layout.known,
        layout.anything,
        layout.cells,
        layout.event_time_us,
    )


def open_layout(options: LoadOptions, writer: ViewWriter) -> Layout:
    """The layout of a file whose columns are not known beforehand: all that may be there."""
    named = {feature: column for column, feature in options.names.items()}
    event_time = None if options.event_time_us is not None else options.event_time_column
    special = {options.id_column, event_time or options.id_column}
    # A column that is mapped, or is the id or the time, or is to be left alone, is not also a feature of its own name.
    taken = {*options.names, *special, *options.ignored}
    features = {name: named.get(name, name) for name in writer.by_name if name in named or name not in taken}
    known = frozenset(features.values()) | special | options.ignored
    return Layout(
        options.id_column,
        event_time,
        features,
        options.units,
        known,
        OTHERS in options.ignored,
        options.cells,
        options.event_time_us,
    )


def _listed(columns: Collection[str]) -> str:
    names = list(columns)
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
