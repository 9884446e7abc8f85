"""Puts a backup where the settings say, and erases again who was erased since.

Nothing that is there is touched. Every part is written beside its place, made durable, cleared of erased persons, and
then put in place by one rename each; the journal comes last, and without it no server finds what was restored.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.backup import parts
from engine.backup.check import check
from engine.backup.create import OnProgress
from engine.backup.erasures import Applied, Erasure, apply_to_features, apply_to_keys, erasures_of, note
from engine.backup.manifest import Manifest
from engine.backup.parts import Places
from engine.backup.snapshot import copy_file
from engine.errors import RecordError
from engine.record.master import MasterKey

_ORDER = (parts.BUNDLES, parts.TRAFFIC, parts.FEATURES, parts.DECISIONS)


@dataclass(slots=True)
class Restored:
    """What was put where. applied: erasures done again."""

    manifest: Manifest
    places: dict[str, Path]
    applied: Applied


def restore(
    source: Path,
    places: Places,
    master: MasterKey,
    *,
    erasures: Sequence[Erasure] = (),
    without: Collection[str] = (),
    damaged: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> Restored:
    """Restores a backup's directory.

    erasures: those known elsewhere; of these and of the ones in the backup itself, those since the backup was begun are
    done again. without: of `parts.OPTIONAL`. damaged: also a backup that is not as it was made.

    Raises RecordError, StoreError: nothing was put in place.
    """
    checked = check(source, master, on_progress)
    manifest = checked.manifest
    if checked.problems and not damaged:
        raise RecordError("the backup is not as it was made: " + "; ".join(checked.problems[:10]))
    leave = set(without) | ({parts.TRAFFIC} if parts.BUNDLES in without else set())
    wanted = [part for part in _ORDER if part in manifest.parts and part not in leave and places.of(part) is not None]
    todo = {part: place for part in wanted if (place := places.of(part)) is not None}
    _refuse_what_is_there(todo)
    drafts: dict[str, Path] = {}
    try:
        for part, place in todo.items():
            draft = place.with_name(f".{place.name}.restoring")
            shutil.rmtree(draft, ignore_errors=True)
            drafts[part] = draft
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            on_progress(part, 0, 0)
            _copy_tree(source / part, draft)
        with_keys = parts.KEYS in manifest.parts and parts.KEYS not in leave
        if with_keys:
            _copy_tree(source / parts.KEYS, drafts[parts.DECISIONS] / parts.KEYS)
        known = [*erasures, *erasures_of(drafts[parts.DECISIONS])]
        applied = _erase_again(
            drafts, manifest, master, [one for one in set(known) if one.at_us >= manifest.started_us]
        )
        for part, draft in drafts.items():
            if todo[part].is_dir():
                todo[part].rmdir()  # it is empty
            os.rename(draft, todo[part])
            _sync(todo[part].parent)
    except OSError as error:
        raise RecordError(f"the backup cannot be restored: {error}") from error
    finally:
        for draft in drafts.values():
            shutil.rmtree(draft, ignore_errors=True)
    return Restored(manifest, todo, applied)


def _refuse_what_is_there(todo: dict[str, Path]) -> None:
    for part, place in todo.items():
        if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
            raise RecordError(
                f"{place} is there already ({part}): nothing is overwritten. Move it away, or name another place in "
                "the settings"
            )


def _erase_again(drafts: dict[str, Path], manifest: Manifest, master: MasterKey, since: list[Erasure]) -> Applied:
    """Before anything is in place."""
    decisions = drafts[parts.DECISIONS]
    keys = apply_to_keys(decisions / parts.KEYS, since)
    rows = 0
    if parts.FEATURES in drafts:
        rows = apply_to_features(drafts[parts.FEATURES], since, manifest.subjects, master)
    note(decisions, since)
    return Applied(keys, rows, len(since))


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in sorted(source.rglob("*")):
        inside = target / path.relative_to(source)
        if path.is_dir():
            inside.mkdir(mode=0o700)
        else:
            copy_file(path, inside)
    _sync(target)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
