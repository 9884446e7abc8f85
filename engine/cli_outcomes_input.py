"""What the commands about outcomes are told, and where they read from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, cast

import typer

from engine.cli_stores import settings_of
from engine.console import fail
from engine.errors import AssayError, ConfigError, Problem

if TYPE_CHECKING:
    from engine.config import Config
    from engine.outcomes.labels import Definition
    from engine.outcomes.rows import Wanted
    from engine.outcomes.sources import Portfolio
    from engine.record.subject_keys import SubjectKeys

JournalOption = Annotated[
    list[Path] | None,
    typer.Option("--journal", metavar="DIR", help="A journal's directory, of each host. Absent: as the settings say."),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE.parquet", help="Decisions that `assay replay --export` wrote."),
]
CassandraOption = Annotated[bool, typer.Option("--cassandra", help="What was shipped to Cassandra; needs --since.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="The master key's file, for parts that are sealed.")]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="As known at this moment (RFC 3339, or a date). Absent: now.")
]
SinceOption = Annotated[str | None, typer.Option("--since", help="Decided then or later.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="Decided before then.")]
FlowOption = Annotated[list[str] | None, typer.Option("--flow", help="Decided by this flow.")]
DaysOption = Annotated[int, typer.Option("--days-past-due", min=1, max=3650, help="So many days past due are bad.")]
HorizonOption = Annotated[
    int, typer.Option("--horizon-months", min=1, max=600, help="The window after the decision, in months.")
]
CoverageOption = Annotated[
    int,
    typer.Option("--coverage-months", min=0, max=600, help="How old a good loan's last status may be at its end."),
]
SilenceOption = Annotated[
    str, typer.Option("--silence", help="A loan that nothing is heard of: unobserved, or good (sources of bad news).")
]
FraudHorizonOption = Annotated[
    int, typer.Option("--fraud-horizon-months", min=0, max=600, help="After so long a fraud would have been found.")
]


@contextmanager
def portfolio(
    config: Path | None,
    journals: list[Path] | None,
    file: Path | None,
    cassandra: bool,
    key: Path | None,
    which: Wanted,
) -> Iterator[Portfolio]:
    """The decisions and outcomes that the options name. Raises what reading them raises."""
    from engine.outcomes.sources import of_file, of_journals

    settings = settings_of(config)
    if file is not None and cassandra:
        _usage("--from, --cassandra", "are two sources of decisions", "Name one.")
    directories = list(journals or [settings.record.path])
    missing = [directory for directory in directories if not directory.is_dir()]
    if missing and not (journals is None and (file is not None or cassandra)):
        fail("There is no journal", [Problem(str(one), "", "is no directory", "Name a journal's.") for one in missing])
    directories = [directory for directory in directories if directory not in missing]
    with ExitStack() as closing:
        if cassandra:
            yield _shipped(settings, key, which, directories, closing)
        elif file is not None:
            yield of_file(file, directories)
        else:

            def keys(directory: Path) -> SubjectKeys | None:
                return None if key is None else _keys(key, directory, closing)

            yield of_journals(directories, keys)


def _keys(key: Path, directory: Path, closing: ExitStack) -> SubjectKeys:
    from engine.record.master import MasterKey
    from engine.record.subject_keys import SubjectKeys

    keys = SubjectKeys(directory, MasterKey.read(key))
    closing.callback(keys.close)
    return keys


def _shipped(
    settings: Config, key: Path | None, which: Wanted, directories: list[Path], closing: ExitStack
) -> Portfolio:
    """What was shipped to Cassandra, day by day."""
    from engine.bootstrap_stores import cassandra_settings
    from engine.outcomes.sources import of_shipped
    from engine.record.master import MasterKey
    from engine.shipping.records import CassandraRecords
    from engine.shipping.subjects import KeyOpener

    if which.since_us is None:
        _usage("--cassandra", "the days to read are not known", "Say --since.")
    opener = None if key is None else KeyOpener(MasterKey.read(key))
    records = CassandraRecords(cassandra_settings(settings.cassandra), opener)
    closing.callback(records.close)
    first = datetime.fromtimestamp(which.since_us / 1e6, UTC).date()
    last = datetime.now(UTC).date()
    if which.until_us is not None:
        last = min(last, datetime.fromtimestamp(which.until_us / 1e6, UTC).date())
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    name = f"Cassandra, keyspace {settings.cassandra.keyspace}"
    return of_shipped(name, records, lambda: (one for day in days for one in records.by_day(day)), directories)


@contextmanager
def failing(title: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    except AssayError as error:
        fail(f"{title}: {error}")
    except OSError as error:
        fail(title, [Problem(str(error.filename or ""), "", str(error.strerror), "Name one that works.")])


def definition(days: int, horizon: int, coverage: int, silence: str, fraud_horizon: int) -> Definition:
    from engine.outcomes.labels import Definition

    one_of("--silence", silence, ("unobserved", "good"))
    if coverage > horizon:
        _usage("--coverage-months", "is longer than the window", "Write a number up to --horizon-months.")
    return Definition(days, horizon, coverage, cast(Literal["unobserved", "good"], silence), fraud_horizon)


def wanted(since: str | None, until: str | None, flows: list[str] | None) -> Wanted:
    from engine.outcomes.rows import Wanted

    return Wanted(_moment("--since", since), _moment("--until", until), frozenset(flows or ()))


def as_of_moment(text: str | None) -> tuple[int, str]:
    from engine.clock import SystemClock
    from engine.outcomes.labels import moment_of

    given = _moment("--as-of", text)
    moment_us = SystemClock.now_us() if given is None else given
    return moment_us, moment_of(moment_us).isoformat(timespec="seconds").replace("+00:00", "Z")


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
        _usage(option, f"{text!r} is no moment", "Write 2026-01-31 or 2026-01-31T00:00:00Z.")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def month(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(f"{text}-01")
    except ValueError:
        _usage("--psi-base", f"{text!r} is no month", "Write 2026-01.")
    return day.year * 12 + day.month - 1


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        _usage(option, f"{value!r} is not known", f"Write one of {', '.join(known)}.")


def _usage(option: str, message: str, fix: str) -> NoReturn:
    fail("The command cannot be run", [Problem("command line", option, message, fix)])
