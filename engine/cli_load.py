"""`assay features load`: a file of rows into a view."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from engine.cli_stores import catalogue_of, opened_store, settings_of, writer_of
from engine.console import ConfigOption, err, fail, say, warn
from engine.errors import Problem, StoreError

if TYPE_CHECKING:
    from engine.feature_files import LoadOptions, LoadReport
    from engine.loading.cells import EpochUnit

_INTERRUPTED = 130
_REJECTED = 2


def load(
    file: Annotated[Path, typer.Argument(help="A .parquet, .csv, .csv.gz, .jsonl or .jsonl.gz file.")],
    view: Annotated[str, typer.Option("--view", help="The view that the rows are of.")],
    id_column: Annotated[str, typer.Option("--id", help="The column that holds the entity's id.")] = "id",
    event_time: Annotated[
        str, typer.Option("--event-time", help="The column that says when the row was true.")
    ] = "event_time",
    at: Annotated[
        str | None, typer.Option("--at", help="One event time for all rows, in place of a column (RFC 3339).")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="COLUMN=FEATURE", help="A column that has another name.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option("--unit", metavar="FEATURE=UNIT", help="The unit of a feature in this file.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="COLUMN", help="A column to leave alone; '*' for all others."),
    ] = None,
    null: Annotated[
        list[str] | None,
        typer.Option("--null", metavar="TEXT", help="A text that means NULL, besides the empty one (CSV)."),
    ] = None,
    epoch: Annotated[
        str | None,
        typer.Option("--epoch", metavar="s|ms|us", help="What plain numbers count since 1970 where moments are."),
    ] = None,
    assume_utc: Annotated[bool, typer.Option("--assume-utc", help="Moments that say no time zone are in UTC.")] = False,
    delimiter: Annotated[str, typer.Option("--delimiter", help="What stands between the cells of CSV.")] = ",",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row and write none.")] = False,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="A CSV file to list rejected rows in; it holds their ids.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where a load of the same file was interrupted.")
    ] = True,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1_000_000, help="Rows written at once.")] = 10_000,
    config: ConfigOption = None,
) -> None:
    """Load a file of rows into a view. Ends with 0, or with 2 when rows were rejected."""
    from engine.clock import SystemClock
    from engine.feature_files import FileError, FileProblems, LoadReport, LoadRequest, load_file
    from engine.loading.progress import LoadProgress

    settings = settings_of(config)
    catalogue = catalogue_of(settings)
    writer = writer_of(catalogue, view)
    options = _options(id_column, event_time, at, map_, unit, ignore, null, epoch, assume_utc, delimiter)
    label = settings.model_dump_json(include={"store", "tiered", "redis", "cassandra"})
    request = LoadRequest(file, options, rejects, resume, batch, label)
    report = LoadReport()
    begin_s = time.monotonic()
    try:
        with opened_store(settings, wanted=not dry_run) as store, LoadProgress(err) as progress:
            state = load_file(request, writer, store, SystemClock(), report, progress.update, progress.opened)
    except KeyboardInterrupt:
        _tell(report, time.monotonic() - begin_s, dry_run)
        warn("Interrupted: run the same command again to go on.", "bold red")
        raise typer.Exit(_INTERRUPTED) from None
    except FileProblems as error:
        fail("The file cannot be loaded", error.problems)
    except FileError as error:
        if report.rows:
            _tell(report, time.monotonic() - begin_s, dry_run)
        fail("The file cannot be loaded", [Problem(str(file), "", str(error), "Correct the file, and load it again.")])
    except OSError as error:
        fail(
            "The file cannot be loaded", [Problem(str(error.filename or file), "", str(error), "Name one that works.")]
        )
    except StoreError as error:
        _tell(report, time.monotonic() - begin_s, dry_run)
        fail(f"The store failed: {error}. Run the same command again to go on.")
    _tell(report, time.monotonic() - begin_s, dry_run)
    if state is not None and not state.writable:
        warn(f"note: {state.path} could not be written, so an interrupted load would have begun anew")
    if report.rejected:
        hint = f"listed in {rejects}" if rejects is not None else "name a file with --rejects to list them"
        warn(f"{report.rejected:,} rows were rejected: {hint}", "bold red")
        raise typer.Exit(_REJECTED)


def _options(
    id_column: str,
    event_time: str,
    at: str | None,
    names: list[str] | None,
    units: list[str] | None,
    ignore: list[str] | None,
    null: list[str] | None,
    epoch: str | None,
    assume_utc: bool,
    delimiter: str,
) -> LoadOptions:
    """What was said of the file. Ends the command with everything that is no good."""
    from engine.features.writing.checks import microseconds_of
    from engine.features.writing.outcome import Rejected
    from engine.loading.cells import Cells
    from engine.loading.layout import LoadOptions

    problems: list[Problem] = []

    def pairs(option: str, given: list[str] | None) -> dict[str, str]:
        found = {}
        for one in given or ():
            left, equals, right = one.rpartition("=") if option == "--map" else one.partition("=")
            if not equals or not left or not right or left in found:
                problems.append(
                    Problem("command line", option, f"{one!r} is no NAME=NAME, or stands twice", "Correct it.")
                )
            found[left] = right
        return found

    if epoch not in (None, "s", "ms", "us"):
        problems.append(Problem("command line", "--epoch", f"{epoch!r} is none of s, ms, us", "Use one of these."))
        epoch = None
    if len(delimiter) != 1 or delimiter in '"\r\n':
        problems.append(Problem("command line", "--delimiter", "must be one character", "Use , or ; or a tab."))
    at_us = None
    cells = Cells(cast("EpochUnit | None", epoch), assume_utc, frozenset({"", *(null or ())}))
    if at is not None:
        try:
            at_us = microseconds_of(cells.moment(at))
        except Rejected as cause:
            problems.append(Problem("command line", "--at", cause.message, "Write 2026-01-31T00:00:00Z."))
    found = LoadOptions(
        id_column=id_column,
        event_time_column=event_time,
        event_time_us=at_us,
        names=pairs("--map", names),
        units=pairs("--unit", units),
        ignored=frozenset(ignore or ()),
        cells=cells,
        delimiter=delimiter,
    )
    if problems:
        fail("The file cannot be loaded", problems)
    return found


def _tell(report: LoadReport, seconds: float, dry_run: bool) -> None:
    """What became of the rows."""
    here = report.rows - report.resumed_rows
    pace = f"{here / seconds * 60:,.0f} rows a minute" if seconds > 0 else ""
    more = f", {report.resumed_rows:,} of them before" if report.resumed_rows else ""
    say(f"{report.rows:,} rows{more}; {here:,} in {seconds:.1f} s ({pace})")
    if dry_run:
        say(f"  would be written: {report.rows - report.rejected:,} (a dry run: nothing was)")
    else:
        say(f"  written: {report.written:,}; left out, as the store holds the same or newer: {report.ignored_older:,}")
    say(f"  rejected: {report.rejected:,}")
    for (name, reason), count in report.faults.most_common():
        say(f"    {count:>12,}  {reason.name}  {name}")
    for number, fault in report.examples:
        place = f"{fault.field} " if fault.field else ""
        say(f"    row {number}: {place}{fault.message}")
    if report.repairs:
        say(f"  cleaned: {sum(report.repairs.values()):,} values")
        for (name, rule), count in report.repairs.most_common():
            say(f"    {count:>12,}  {rule.name}  {name}")
