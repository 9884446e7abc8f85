"""`assay backup`: make, verify and restore backups, and list who was erased since."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_stores import settings_of
from engine.console import ConfigOption, err, fail, say, warn
from engine.errors import AssayError, ConfigError, Problem

if TYPE_CHECKING:
    from engine.backup.create import OnProgress
    from engine.backup.manifest import Manifest
    from engine.backup.parts import Places
    from engine.config import Config
    from engine.record.master import MasterKey

backup_app = typer.Typer(
    name="backup",
    help="Back up what this host keeps while it is served, verify and restore it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", help="Leave out keys, features or bundles. May be repeated.")
]
SourceArgument = Annotated[Path, typer.Argument(help="A backup: its directory, or its .tar file.", metavar="BACKUP")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--master-key", help="The file of the master key. Absent: the one that the settings name."),
]


@backup_app.command()
def create(
    target: Annotated[
        Path, typer.Argument(help="A directory that is not there yet, or a .tar file.", metavar="BACKUP")
    ],
    without: WithoutOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy the journal, keys of subjects, indexes, embedded feature store and bundles. Servers may run meanwhile.

    The master key is not in it. Ends with 1 when the journal that was copied is not as it was written.
    """
    from engine.backup.archive import SUFFIX, pack
    from engine.backup.create import create as run
    from engine.config_text import as_toml

    settings = settings_of(config)
    left_out = _left_out(without)
    place = target.with_name(target.name + ".unpacked") if target.suffix == SUFFIX else target
    if target.exists():
        fail(f"{target} is there already: name one that is not")
    try:
        with _progress("copying") as progress:
            manifest = run(
                place,
                _places(settings),
                as_toml(settings),
                settings.store.kind,
                _master(settings, None),
                without=left_out,
                on_progress=progress,
            )
            if place != target:
                pack(place, target)
    except AssayError as error:
        fail(f"No backup was made: {error}")
    _tell(manifest, target)
    if "keys" in manifest.parts:
        say(
            "It holds the keys of subjects: who restores it restores persons who are erased from now on. Let it expire,"
        )
        say("and keep `assay backup erasures` apart from it (docs/backup.md).")
    say("The master key is not in it. Without that key it is worth nothing.")
    if _features(settings) is None:
        say(f"Features are in a store of their own ({settings.store.kind}), and are backed up there.")
    if manifest.findings:
        fail("The journal is not as it was written: run `assay audit verify`")


@backup_app.command()
def verify(
    source: SourceArgument,
    master_key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Read all of a backup: digests, signature, and the journal's chains. Ends with 1 when it is not as it was made."""
    from engine.backup.archive import unpacked
    from engine.backup.check import check

    master = _master(settings_of(config), master_key)
    try:
        with unpacked(source) as directory, _progress("reading") as progress:
            checked = check(directory, master, progress)
    except AssayError as error:
        fail(f"The backup cannot be used: {error}")
    if as_json:
        manifest = checked.manifest
        content = {
            "is_whole": checked.is_whole,
            "signatures_checked": master is not None,
            "problems": checked.problems,
            "started_at": _moment(manifest.started_us),
            "parts": manifest.parts,
            "decisions": manifest.decisions,
            "bytes": manifest.total_bytes,
            "chains": {worker: list(chain) for worker, chain in manifest.chains.items()},
        }
        print(json.dumps(content, indent=2))
    else:
        _tell(checked.manifest, source)
        for problem in checked.problems:
            warn(f"  {problem}")
        if master is None:
            say("Signatures were not checked: no master key was given.")
        say("The backup is whole." if checked.is_whole else "The backup is not as it was made.")
    if not checked.is_whole:
        raise typer.Exit(1)


@backup_app.command()
def restore(
    source: SourceArgument,
    erasures: Annotated[
        Path | None, typer.Option("--erasures", help="Persons erased since, as `assay backup erasures` wrote them.")
    ] = None,
    without: WithoutOption = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Restore also a backup that does not verify.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put a backup where the settings say. Nothing that is there is overwritten; no server may run.

    The master key must be in its place. Persons erased since the backup are erased again as far as they are named.
    """
    from engine.backup.archive import unpacked
    from engine.backup.erasures import read_list
    from engine.backup.restore import restore as run

    settings = settings_of(config)
    master = _master(settings, None)
    if master is None:
        problem = Problem(
            str(settings.record.master_key),
            "",
            "is not there, and the journal cannot be opened without it",
            "Put the master key that the journal was made with back first.",
        )
        fail("Nothing was restored", [problem])
    try:
        known = [] if erasures is None else read_list(erasures)
        with unpacked(source) as directory, _progress("restoring") as progress:
            done = run(
                directory,
                _places(settings),
                master,
                erasures=known,
                without=_left_out(without),
                damaged=damaged,
                on_progress=progress,
            )
    except AssayError as error:
        fail(f"Nothing was restored: {error}")
    _tell(done.manifest, source)
    for part, place in done.places.items():
        say(f"  {part} -> {place}")
    if "features" in done.manifest.parts and "features" not in done.places and "features" not in (without or ()):
        warn(f"The features in it were not restored: store.kind is {settings.store.kind}.")
    since = _moment(done.manifest.started_us)
    say(
        f"erased again: {done.applied.keys:,} keys and {done.applied.rows:,} rows, "
        f"by {done.applied.erasures:,} erasures since {since}"
    )
    if erasures is None:
        warn(
            f"No list of erasures was given: persons erased after {since} are back, unless this backup says so itself."
        )
        warn("Send DeleteSubject again for each of them before anything is served (docs/backup.md).")
    if os.geteuid() == 0:
        warn("The files belong to root: give them to the user that serves (chown -R).")
    say(f"Decisions after {since} may be missing. Run `assay audit verify`, then start the server.")


@backup_app.command()
def erasures(
    since: Annotated[
        str, typer.Option("--since", help="From this moment on, as 2026-01-31 or 2026-01-31T12:00:00. Absent: all.")
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Print who was erased, one line each, as hashes: what a restore of an older backup needs. Keep it elsewhere."""
    from engine.backup.erasures import erasures_of

    try:
        moment = datetime.fromisoformat(since) if since else None
    except ValueError:
        fail("Nothing was listed", [Problem("command line", "--since", f"{since!r} is no moment", "Write 2026-01-31.")])
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    journal = settings_of(config).record.path
    if not journal.is_dir():
        fail(f"There is no journal at {journal}")
    try:
        for one in erasures_of(journal, 0 if moment is None else int(moment.timestamp() * 1e6)):
            print(one.line())
    except AssayError as error:
        fail(f"The erasures cannot be listed: {error}")


def _places(settings: Config) -> Places:
    from engine.backup.parts import Places
    from engine.bundle.load import default_bundle

    return Places(
        journal=settings.record.path,
        master_key=settings.record.master_key,
        features=_features(settings),
        traffic=settings.traffic.path,
        bundles=settings.traffic.bundles,
        bundle=settings.bundle.path or default_bundle(),
    )


def _features(settings: Config) -> Path | None:
    """The embedded store's directory; None where there is none, or it is only a copy of another's rows."""
    kind = settings.tiered.durable if settings.store.kind == "tiered" else settings.store.kind
    return settings.store.path if kind == "embedded" else None


def _master(settings: Config, path: Path | None) -> MasterKey | None:
    """The master key; None where there is none. Ends the command when it cannot be used."""
    from engine.record.master import MasterKey

    file = path or settings.record.master_key
    if path is None and not file.exists():
        return None
    try:
        return MasterKey.read(file)
    except ConfigError as error:
        fail("The master key cannot be used", error.problems)


def _left_out(without: list[str] | None) -> list[str]:
    from engine.backup.parts import OPTIONAL

    for name in without or ():
        if name not in OPTIONAL:
            fix = f"Name {', '.join(OPTIONAL)}."
            fail("Nothing was done", [Problem("command line", "--without", f"{name!r} cannot be left out", fix)])
    return list(without or ())


@contextlib.contextmanager
def _progress(what: str) -> Iterator[OnProgress]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def on_progress(part: str, done: int, total: int) -> None:
            progress.update(task, description=f"{what}: {part}", completed=done, total=total or None)

        yield on_progress


def _tell(manifest: Manifest, place: Path) -> None:
    say(f"{place}: {', '.join(manifest.parts)}; {manifest.total_bytes:,} bytes in {len(manifest.files):,} files")
    say(f"begun {_moment(manifest.started_us)}, done {_moment(manifest.finished_us)}, by {manifest.engine}")
    for worker, (sequence, link) in sorted(manifest.chains.items()):
        say(f"  {worker}: {sequence:,} records, the last linked {link[:16]}")
    say(f"  {manifest.decisions:,} decisions")
    for note in manifest.notes:
        say(f"  note: {note}")


def _moment(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds")
