"""`assay replay`: recorded decisions decided again, with the recorded bundle or with another."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_replay_input import (
    check_segments,
    directories_for,
    failing,
    opened_source,
    outcomes_of,
    refuse_use,
    selection_of,
    settings_of,
    shipped_opener,
    status_of,
)
from engine.console import ConfigOption, err, out, say, warn

if TYPE_CHECKING:
    from engine.config import Config
    from engine.replay.items import Selection, Source
    from engine.replay.outcomes import Outcome
    from engine.replay.tally import Tally
    from engine.replay.work import Job

_DIFFERENT, _INTERRUPTED = 1, 130


def replay(
    journal: Annotated[
        Path | None, typer.Option("--journal", help="A journal's directory. Absent: the one that the settings name.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.parquet", help="A file that --export wrote.")
    ] = None,
    cassandra: Annotated[
        bool, typer.Option("--cassandra", help="What was shipped to Cassandra; needs --since.")
    ] = False,
    master_key: Annotated[
        Path | None,
        typer.Option(
            "--master-key", help="The file of the master key. Absent: the one that the settings name, if any."
        ),
    ] = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundles", metavar="DIR", help="Where bundles are. Absent: the served one, and the registry."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="Back-test this bundle on the recorded facts.")
    ] = None,
    absent: Annotated[
        str, typer.Option("--absent", help="Back-test: the status of what is not recorded: not_found or unavailable.")
    ] = "not_found",
    outcomes: Annotated[
        Path | None, typer.Option("--outcomes", help="Back-test: what became of decisions (.json, .jsonl, .parquet).")
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option("--segment", metavar="FEATURE", help="Back-test: a category or flag to cut by.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Decided then or later (RFC 3339, or a date).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Decided before then.")] = None,
    flow: Annotated[list[str] | None, typer.Option("--flow", help="Decided by this flow.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many decisions.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="Where to run: local or spark.")] = "local",
    master: Annotated[str | None, typer.Option("--master", help="Spark's master, for example local[4].")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=1024, help="Processes. Absent: one for each core.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as a page.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE.parquet", help="Write the records out; replay nothing.")
    ] = None,
    personal: Annotated[
        bool, typer.Option("--personal", help="With --export: leave the ids of subject, entities and request in.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Decide recorded decisions again. Ends with 0 when all came out identical (or the back-test was made), 1 when some
    did not, 2 when it could not be run."""
    from engine.replay.report import About, make_report
    from engine.replay.shelf import find_bundles, open_bundle
    from engine.replay.table import show
    from engine.replay.work import Job

    settings = settings_of(config)
    selection = selection_of(since, until, flow, limit)
    if sum(one is not None and one is not False for one in (journal, from_, cassandra)) > 1:
        refuse_use("command line", "--journal, --from, --cassandra", "are three sources of records", "Name one.")
    status = status_of(absent)
    if engine not in ("local", "spark"):
        refuse_use("command line", "--engine", f"{engine!r} is neither local nor spark", "Write one of these.")
    if engine == "spark" and (export is not None or (from_ is None and not cassandra)):
        fix = "Write a file with --export, and name it --from; or name --cassandra."
        refuse_use("command line", "--engine", "Spark reads an exported file, or Cassandra", fix)
    with failing(), opened_source(settings, journal, from_, cassandra, master_key, selection) as source:
        if export is not None:
            _export(source, selection, export, personal)
            return
        job = Job(bundles={}, absent=status, segments=tuple(segment or ()))
        other = None
        if bundle is None:
            found = find_bundles(directories_for(settings, bundles))
            job = replace(job, bundles={digest: str(root.resolve()) for digest, root in found.items()})
        else:
            opened = open_bundle(bundle)
            other = (opened.loaded.plan.name, opened.loaded.plan.version, opened.loaded.plan.digest)
            job = replace(job, other=str(bundle.resolve()))
            check_segments(source, job.segments)
        known = outcomes_of(outcomes)
        begin_s = time.monotonic()
        if engine == "spark":
            tally = _run_spark(settings, job, from_, master_key, selection, known, master)
            ran_on = f"spark {master or ''}".strip()
        else:
            count = workers or _cores()
            tally, ran_on = _run(job, source, selection, known, count), f"{count} processes"
        seconds = time.monotonic() - begin_s
        report = make_report(tally, About(source.name, other, ran_on, absent.upper(), source.damaged))
        _write(report, html, json_)
        show(report, out)
        warn(f"{tally.records / seconds:,.0f} records a second, {ran_on}", "dim")
        if not tally.records:
            refuse_use(source.name, "", "no recorded decision was met", "Check --journal, --since, --until and --flow.")
        if tally.of("locked") == tally.records:
            refuse_use(source.name, "", "every record is sealed: none was replayed", "Name the key with --master-key.")
        if other is None and not (tally.is_identical and not tally.of("unreadable") and not source.damaged):
            raise typer.Exit(_DIFFERENT)


def _run(job: Job, source: Source, selection: Selection, known: Mapping[str, Outcome], workers: int) -> Tally:
    from engine.replay.errors import Interrupted
    from engine.replay.items import chunks
    from engine.replay.progress import ReplayProgress
    from engine.replay.run import run_local

    with ReplayProgress(err, source.total if selection.limit is None else selection.limit) as progress:
        try:
            return run_local(job, chunks(selection.of(source.items()), known), workers, progress.update)
        except Interrupted as stopped:
            found = stopped.tally
            warn(
                f"interrupted after {found.records:,} records: {found.of('identical'):,} identical, "
                f"{found.of('different'):,} different",
                "bold red",
            )
            raise typer.Exit(_INTERRUPTED) from None


def _run_spark(
    settings: Config,
    job: Job,
    file: Path | None,
    key: Path | None,
    selection: Selection,
    known: Mapping[str, Outcome],
    master: str | None,
) -> Tally:
    from engine.replay.spark import run_spark, run_spark_shipped

    if file is not None:
        return run_spark(job, file, selection, known, master)
    return run_spark_shipped(job, shipped_opener(settings, key), selection, known, master)


def _export(source: Source, selection: Selection, path: Path, personal: bool) -> None:
    from engine.replay.export import export
    from engine.replay.progress import ReplayProgress

    with ReplayProgress(err, source.total) as progress:
        count, size = export(selection.of(source.items()), path, personal=personal, told=progress.count)
    ids = "with" if personal else "without"
    say(f"{path}: {count:,} records, {size:,} bytes, {ids} the ids of persons")
    if source.damaged:
        warn(f"{source.damaged:,} damaged stretches were left out", "bold red")
        raise typer.Exit(_DIFFERENT)


def _cores() -> int:
    from engine.replay.run import cores

    return cores()


def _write(report: dict[str, object], html: Path | None, json_: Path | None) -> None:
    from engine.replay.page import make_page

    try:
        if html is not None:
            html.write_text(make_page(report), encoding="utf-8")
        if json_ is not None:
            json_.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        refuse_use(str(error.filename), "", f"cannot be written ({error.strerror})", "Name another file.")
