"""`assay replay`: recorded decisions decided again, with the recorded bundle or with another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from engine.console import ConfigOption, err, out, say, warn
from engine.errors import AssayError, BundleError, ConfigError, Problem, RecordError, StoreError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.domain.enums import FeatureStatus
    from engine.record.master import MasterKey
    from engine.replay.items import Selection, Source
    from engine.replay.outcomes import Outcome
    from engine.replay.tally import Tally
    from engine.replay.work import Job

_DIFFERENT, _USAGE, _INTERRUPTED = 1, 2, 130
_REGISTRY = Path("var/bundles")


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
    key: Annotated[
        Path | None, typer.Option("--key", help="The master key's file, for records whose personal part is sealed.")
    ] = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundles", metavar="DIR", help="Where bundles are. Absent: the shipped one, and var/bundles."),
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

    settings = _settings(config)
    selection = _selection(since, until, flow, limit)
    if sum(one is not None and one is not False for one in (journal, from_, cassandra)) > 1:
        _usage("command line", "--journal, --from, --cassandra", "are three sources of records", "Name one.")
    status = _status(absent)
    if engine not in ("local", "spark"):
        _usage("command line", "--engine", f"{engine!r} is neither local nor spark", "Write one of these.")
    if engine == "spark" and (from_ is None or export is not None):
        _usage(
            "command line", "--engine", "Spark reads an exported file", "Write one with --export, and name it --from."
        )
    with _failing(), _source(settings, journal, from_, cassandra, key, selection) as source:
        if export is not None:
            _export(source, selection, export, personal)
            return
        job = Job(bundles={}, absent=status, segments=tuple(segment or ()))
        other = None
        if bundle is None:
            found = find_bundles(_directories(settings, bundles))
            job = replace(job, bundles={digest: str(root.resolve()) for digest, root in found.items()})
        else:
            opened = open_bundle(bundle)
            other = (opened.loaded.plan.name, opened.loaded.plan.version, opened.loaded.plan.digest)
            job = replace(job, other=str(bundle.resolve()))
            _check_segments(source, job.segments)
        known = _outcomes(outcomes)
        begin_s = time.monotonic()
        if engine == "spark":
            from engine.replay.spark import run_spark

            assert from_ is not None
            tally, ran_on = run_spark(job, from_, selection, known, master), f"spark {master or ''}".strip()
        else:
            count = workers or _cores()
            tally, ran_on = _run(job, source, selection, known, count), f"{count} processes"
        seconds = time.monotonic() - begin_s
        report = make_report(tally, About(source.name, other, ran_on, absent.upper(), source.damaged))
        _write(report, html, json_)
        show(report, out)
        warn(f"{tally.records / seconds:,.0f} records a second, {ran_on}", "dim")
        if not tally.records:
            _usage(source.name, "", "no recorded decision was met", "Check --journal, --since, --until and --flow.")
        if tally.of("locked") == tally.records:
            _usage(source.name, "", "every record is sealed, so none was replayed", "Name the master key with --key.")
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


@contextmanager
def _source(
    settings: Config, journal: Path | None, file: Path | None, cassandra: bool, key: Path | None, selection: Selection
) -> Iterator[Source]:
    from engine.replay.sources import JournalSource, ParquetSource

    if file is not None:
        yield ParquetSource(file)
        return
    directory = journal or settings.record.path
    if cassandra:
        yield from _shipped(settings, key, selection)
        return
    if key is None:
        yield JournalSource(directory)
        return
    from engine.record.reader import JournalReader
    from engine.record.subject_keys import SubjectKeys

    keys = SubjectKeys(directory, _master(key, directory))
    try:
        yield JournalSource(directory, JournalReader(directory, keys))
    finally:
        keys.close()


def _shipped(settings: Config, key: Path | None, selection: Selection) -> Iterator[Source]:
    """What was shipped to Cassandra, day by day."""
    from engine.bootstrap_stores import cassandra_settings
    from engine.replay.sources import StoredSource
    from engine.shipping.records import CassandraRecords
    from engine.shipping.subjects import KeyOpener

    if selection.since_us is None:
        _usage("command line", "--cassandra", "the days to read are not known", "Say --since.")
    opener = None if key is None else KeyOpener(_master(key, settings.record.path))
    records = CassandraRecords(cassandra_settings(settings.cassandra), opener)
    first = datetime.fromtimestamp(selection.since_us / 1e6, UTC).date()
    until_us = selection.until_us
    last = datetime.now(UTC).date() if until_us is None else datetime.fromtimestamp(until_us / 1e6, UTC).date()
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    try:
        yield StoredSource(
            f"Cassandra, keyspace {settings.cassandra.keyspace}",
            lambda: (stored for day in days for stored in records.by_day(day)),
            records.catalogue,
            records.environment,
        )
    finally:
        records.close()


def _master(key: Path, journal: Path) -> MasterKey:
    from engine.record.master import MasterKey

    if not key.exists():
        _usage(str(key), "", "there is no such file", "Name the file of the master key.")
    return MasterKey.load(key, journal)


def _settings(config: Path | None) -> Config:
    from engine.config import load_config

    try:
        return load_config(config)
    except ConfigError as error:
        _refuse("The settings cannot be used", error.problems)


def _selection(since: str | None, until: str | None, flows: list[str] | None, limit: int | None) -> Selection:
    from engine.replay.items import Selection

    return Selection(_moment("--since", since), _moment("--until", until), frozenset(flows or ()), limit)


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError("no time zone")
    except ValueError:
        _usage("command line", option, f"{text!r} is no moment", "Write 2026-01-31 or 2026-01-31T00:00:00Z.")
    return round(moment.timestamp()) * 1_000_000 + moment.microsecond


def _status(absent: str) -> FeatureStatus:
    from engine.domain.enums import FeatureStatus

    if absent not in ("not_found", "unavailable"):
        _usage("command line", "--absent", f"{absent!r} is no status for it", "Write not_found or unavailable.")
    return FeatureStatus[absent.upper()]


def _directories(settings: Config, given: list[Path] | None) -> tuple[Path, ...]:
    from engine.bundle.load import default_bundle
    from engine.replay.shelf import directories_of

    return directories_of(given or (), settings.bundle.path or default_bundle(), _REGISTRY)


def _check_segments(source: Source, segments: tuple[str, ...]) -> None:
    """Every name must be a category or a flag of the first record's slot list."""
    if not segments:
        return
    first = next(source.items(), None)
    if first is None:
        return
    try:
        kinds = {entry["name"]: entry["type"] for entry in json.loads(first.catalogue)["features"]}
    except (ValueError, KeyError, TypeError):
        return
    for name in segments:
        if kinds.get(name, "category") not in ("category", "boolean"):
            _usage("command line", "--segment", f"{name!r} is a number", "Name a category or a flag.")


def _outcomes(path: Path | None) -> Mapping[str, Outcome]:
    from engine.replay.outcomes import read_outcomes

    return {} if path is None else read_outcomes(path)


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
        _usage(str(error.filename), "", f"cannot be written ({error.strerror})", "Name another file.")


@contextmanager
def _failing() -> Iterator[None]:
    """What ends a replay that could not be run."""
    try:
        yield
    except BundleError as error:
        _refuse("The bundle cannot be used", error.problems)
    except ConfigError as error:
        _refuse("The settings cannot be used", error.problems)
    except (RecordError, StoreError) as error:
        _refuse(f"The records cannot be read: {error}")
    except AssayError as error:
        _refuse(f"The replay cannot be run: {error}")


def _usage(file: str, place: str, message: str, fix: str) -> NoReturn:
    _refuse("The replay cannot be run", [Problem(file, place, message, fix)])


def _refuse(title: str, problems: Sequence[Problem] = ()) -> NoReturn:
    """Tells what is wrong and ends with 2: 1 says that decisions differ."""
    warn(title, "bold red")
    for problem in problems:
        warn(f"  {problem}")
    raise typer.Exit(_USAGE)
