"""Makes a backup, while servers run.

The order makes the parts fit: the feature store and the indexes first, then the journal, then the keys. What the
journal has and the stores do not yet is brought up to date from the journal when a server starts; nothing has to be
taken back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path

from engine import __version__
from engine.backup import parts
from engine.backup.manifest import FileEntry, Manifest, digest_file
from engine.backup.parts import Places
from engine.backup.snapshot import copy_beside, copy_file, copy_segments, snapshot, write_file
from engine.bundle.write_plan import read_catalogue
from engine.errors import BundleError, RecordError, StoreError
from engine.features.stores.embedded import copy_environment
from engine.record.key_files import key_files
from engine.record.master import MasterKey
from engine.record.segments import Frame, own_segments, scan
from engine.record.verify import WorkerReport, verify

_CLEAN = "clean"

# Told what is done, how many bytes of it and of how many; the last is 0 where that is not known.
OnProgress = Callable[[str, int, int], None]


def create(
    target: Path,
    places: Places,
    settings_text: str,
    store_kind: str,
    master: MasterKey | None,
    *,
    without: Collection[str] = (),
    on_progress: OnProgress = lambda *_: None,
) -> Manifest:
    """Writes a backup to a directory that is not there yet; until it is whole it has `.partial` behind its name.

    settings_text: put in for people, without secrets. without: of `parts.OPTIONAL`. Raises RecordError, StoreError, and
    then nothing is left of it.
    """
    if target.exists():
        raise RecordError(f"{target} is there already: name a directory that is not")
    if not places.journal.is_dir():
        raise RecordError(f"there is no journal at {places.journal}")
    draft = target.with_name(target.name + ".partial")
    try:
        draft.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise RecordError(
            f"{draft} is there: another backup is being made, or one was broken off; remove it"
        ) from error
    except OSError as error:
        raise RecordError(f"{draft} cannot be made: {error.strerror}") from error
    try:
        manifest = _fill(draft, places, settings_text, store_kind, master, set(without), on_progress)
        _sync(draft)
        os.rename(draft, target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise RecordError(f"the backup cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _fill(
    draft: Path,
    places: Places,
    settings_text: str,
    store_kind: str,
    master: MasterKey | None,
    without: set[str],
    on_progress: OnProgress,
) -> Manifest:
    manifest = Manifest(time.time_ns() // 1000, __version__, store_kind)
    manifest.master_key = "" if master is None else master.fingerprint.hex()
    if parts.FEATURES not in without and places.features is not None:
        _features(draft, places, manifest, on_progress)
    decisions = draft / parts.DECISIONS
    decisions.mkdir(mode=0o700)
    on_progress("indexes", 0, 0)
    _index(decisions, places, manifest)
    _outcomes(decisions, places)
    _decisions(decisions, places, on_progress)
    manifest.parts.append(parts.DECISIONS)
    if parts.KEYS not in without:
        _keys(draft, places)
        manifest.parts.append(parts.KEYS)
    if parts.BUNDLES not in without:
        _bundles(draft, places, manifest)
    write_file(draft / parts.SETTINGS_FILE, settings_text.encode())
    _verify(decisions, manifest, master, on_progress)
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            manifest.files.append(FileEntry(path.relative_to(draft).as_posix(), *digest_file(path)))
    manifest.finished_us = time.time_ns() // 1000
    manifest.write(draft, None if master is None else master.heads)
    return manifest


def _features(draft: Path, places: Places, manifest: Manifest, on_progress: OnProgress) -> None:
    assert places.features is not None
    if not (places.features / "data.mdb").exists():
        manifest.notes.append(f"there was no feature store at {places.features}")
        return
    on_progress("features", 0, 0)
    target = draft / parts.FEATURES
    target.mkdir(mode=0o700)
    copy_environment(places.features, target)
    manifest.parts.append(parts.FEATURES)


def _index(decisions: Path, places: Places, manifest: Manifest) -> None:
    """The index also knows the request ids of decisions whose segments were let go: it does not all follow from the
    journal. One that a crash of the machine may have spoilt is left out, as the server would throw it away."""
    source = places.journal / parts.INDEX_DIRECTORY
    if not (source / "data.mdb").exists():
        return
    boot = Path("/proc/sys/kernel/random/boot_id")
    marks = {_CLEAN, boot.read_text().strip() if boot.exists() else _CLEAN}
    with contextlib.suppress(OSError):
        if (source / "boot").read_text() in marks:
            target = decisions / parts.INDEX_DIRECTORY
            target.mkdir(mode=0o700)
            try:
                copy_environment(source, target)
            except StoreError as error:
                shutil.rmtree(target)
                manifest.notes.append(f"the index was left out, and is built again: {error}")
                return
            write_file(target / "boot", _CLEAN.encode())
            return
    manifest.notes.append("the index was left out: the machine went down while it was open; it is built again")


def _outcomes(decisions: Path, places: Places) -> None:
    source = places.journal / parts.OUTCOMES_FILE
    if not source.exists():
        return
    target = decisions / parts.OUTCOMES_FILE
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=10.0)) as held,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        held.backup(copy, pages=4096, sleep=0.01)
        copy.execute("PRAGMA journal_mode = DELETE")


def _decisions(decisions: Path, places: Places, on_progress: OnProgress) -> None:
    done = 0
    with snapshot(places.journal) as taken:
        total = taken.bytes

        def copied(count: int) -> None:
            nonlocal done
            done += count
            on_progress("journal", done, total)

        copy_segments(taken, decisions, copied)
    copy_beside(places.journal, decisions)


def _keys(draft: Path, places: Places) -> None:
    target = draft / parts.KEYS
    target.mkdir(mode=0o700)
    for path in key_files(places.journal / parts.KEYS):
        copy_file(path, target / path.name)


def _bundles(draft: Path, places: Places, manifest: Manifest) -> None:
    for part, source in (
        (parts.TRAFFIC, places.traffic),
        (parts.BUNDLES, places.bundles),
        (parts.BUNDLE, places.bundle),
    ):
        if source.is_dir():
            _copy_tree(source, draft / part)
            manifest.parts.append(part)
    try:
        entities = read_catalogue(places.bundle).file.entities
        manifest.subjects = sorted(name for name, entity in entities.items() if entity.key == "subject")
    except BundleError as error:
        manifest.notes.append(f"the catalogue of {places.bundle} cannot be read: {error}")


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in sorted(source.rglob("*")):
        inside = target / path.relative_to(source)
        if any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(source).parts):
            continue  # drafts of a change that is under way
        if path.is_dir():
            inside.mkdir(mode=0o700, exist_ok=True)
        elif path.is_file() and path.suffix != ".lock":
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                copy_file(path, inside)


def _verify(decisions: Path, manifest: Manifest, master: MasterKey | None, on_progress: OnProgress) -> None:
    reports = verify(
        decisions,
        None if master is None else master.heads,
        on_progress=lambda done, total: on_progress("verify", done, total),
    )
    manifest.findings = findings_of(reports)
    manifest.decisions = sum(report.decisions for report in reports)
    manifest.chains = chains_of(decisions, reports)


def findings_of(reports: list[WorkerReport]) -> int:
    """How many things are not as they were written."""
    return sum(report.dropped + sum(1 for one in report.findings if not one.is_note) for report in reports)


def chains_of(decisions: Path, reports: list[WorkerReport]) -> dict[str, tuple[int, str]]:
    """Where every worker's chain stands: the number of its last record and that record's link."""
    found = {}
    for report in reports:
        for name in reversed(own_segments(decisions, report.worker)):
            last: Frame | None = None
            for item in scan(decisions, name):
                if isinstance(item, Frame) and item.sequence:
                    last = item
            if last is not None:
                found[report.worker] = (last.sequence, last.link.hex())
                break
    return found


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
