"""What `assay replay` is told, made into what a replay takes. What is no good ends the command with 2."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from engine.console import warn
from engine.errors import AssayError, BundleError, ConfigError, Problem, RecordError, StoreError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.domain.enums import FeatureStatus
    from engine.record.master import MasterKey
    from engine.replay.items import Selection, Source
    from engine.replay.outcomes import Outcome
    from engine.shipping.records import CassandraRecords

_USAGE = 2


@contextmanager
def opened_source(
    settings: Config, journal: Path | None, file: Path | None, cassandra: bool, key: Path | None, selection: Selection
) -> Iterator[Source]:
    """Where the records come from, for as long as it is needed."""
    from engine.replay.sources import JournalSource, ParquetSource

    if file is not None:
        yield ParquetSource(file)
        return
    if cassandra:
        yield from _shipped(settings, key, selection)
        return
    master = master_of(settings, key)
    directory = journal or settings.record.path
    if master is None:
        yield JournalSource(directory)
        return
    from engine.record.reader import JournalReader
    from engine.record.subject_keys import SubjectKeys

    keys = SubjectKeys(directory, master)
    try:
        yield JournalSource(directory, JournalReader(directory, keys))
    finally:
        keys.close()


def _shipped(settings: Config, key: Path | None, selection: Selection) -> Iterator[Source]:
    """What was shipped to Cassandra, day by day."""
    from engine.replay.sources import days_of, shipped_source

    if selection.since_us is None:
        refuse_use("command line", "--cassandra", "the days to read are not known", "Say --since.")
    records = shipped_opener(settings, key)()
    try:
        yield shipped_source(f"Cassandra, keyspace {settings.cassandra.keyspace}", records, days_of(selection))
    finally:
        records.close()


def shipped_opener(settings: Config, key: Path | None) -> Callable[[], CassandraRecords]:
    """What opens the records in Cassandra, here or on another machine. Raises ConfigError."""
    from engine.bootstrap_stores import cassandra_settings
    from engine.shipping.records import CassandraRecords
    from engine.shipping.subjects import KeyOpener

    master = master_of(settings, key)
    opener = None if master is None else KeyOpener(master)
    return partial(CassandraRecords, cassandra_settings(settings.cassandra), opener)


def master_of(settings: Config, key: Path | None) -> MasterKey | None:
    """The key that was named, or else the one of the settings where there is one. Raises ConfigError."""
    from engine.record.master import MasterKey

    if key is not None:
        return MasterKey.read(key)
    named = settings.record.master_key
    return MasterKey.read(named) if named.exists() else None


def settings_of(config: Path | None) -> Config:
    """The settings."""
    from engine.config import load_config

    try:
        return load_config(config)
    except ConfigError as error:
        _refuse("The settings cannot be used", error.problems)


def selection_of(since: str | None, until: str | None, flows: list[str] | None, limit: int | None) -> Selection:
    """Which decisions were asked for."""
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
        refuse_use("command line", option, f"{text!r} is no moment", "Write 2026-01-31 or 2026-01-31T00:00:00Z.")
    return round(moment.timestamp()) * 1_000_000 + moment.microsecond


def status_of(absent: str) -> FeatureStatus:
    """The status of what is not recorded."""
    from engine.domain.enums import FeatureStatus

    if absent not in ("not_found", "unavailable"):
        refuse_use("command line", "--absent", f"{absent!r} is no status for it", "Write not_found or unavailable.")
    return FeatureStatus[absent.upper()]


def directories_for(settings: Config, given: list[Path] | None) -> tuple[Path, ...]:
    """Where to look for bundles."""
    from engine.bundle.load import default_bundle
    from engine.replay.shelf import directories_of

    return directories_of(given or (), settings.bundle.path or default_bundle(), settings.traffic.bundles)


def check_segments(source: Source, segments: tuple[str, ...]) -> None:
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
            refuse_use("command line", "--segment", f"{name!r} is a number", "Name a category or a flag.")


def outcomes_of(path: Path | None) -> Mapping[str, Outcome]:
    """What became of decisions, by id. Raises OutcomeFileError."""
    from engine.replay.outcomes import read_outcomes

    return {} if path is None else read_outcomes(path)


@contextmanager
def failing() -> Iterator[None]:
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


def refuse_use(file: str, place: str, message: str, fix: str) -> NoReturn:
    """Tells one mistake and ends the command."""
    _refuse("The replay cannot be run", [Problem(file, place, message, fix)])


def _refuse(title: str, problems: Sequence[Problem] = ()) -> NoReturn:
    """Tells what is wrong and ends with 2: 1 says that decisions differ."""
    warn(title, "bold red")
    for problem in problems:
        warn(f"  {problem}")
    raise typer.Exit(_USAGE)
