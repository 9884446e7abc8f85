"""Holds a backup against its manifest, and its journal against its chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.backup.create import chains_of, findings_of
from engine.backup.manifest import Manifest, digest_file, read_manifest
from engine.backup.parts import DECISIONS, MANIFEST_FILE
from engine.errors import RecordError
from engine.record.master import MasterKey
from engine.record.verify import WorkerReport, verify


@dataclass(slots=True)
class Checked:
    """What was found. problems: the backup is not as it was made; reports: of its journal."""

    manifest: Manifest
    problems: list[str] = field(default_factory=list)
    reports: list[WorkerReport] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all is as it was when the backup was made."""
        return not self.problems


def check(
    directory: Path, master: MasterKey | None, on_progress: Callable[[str, int, int], None] = lambda *_: None
) -> Checked:
    """Reads all of a backup. master: checks signatures; without it they are not looked at. Raises RecordError for one
    that holds no manifest to go by."""
    checked = Checked(read_manifest(directory, None if master is None else master.heads))
    manifest, problems = checked.manifest, checked.problems
    if master is not None and manifest.master_key and master.fingerprint.hex() != manifest.master_key:
        problems.append("it belongs to another master key")
    named = {entry.path for entry in manifest.files}
    try:
        there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
        problems += [f"{path} is not in the manifest" for path in sorted(there - named - {MANIFEST_FILE})]
        done = 0
        for entry in manifest.files:
            path = directory / entry.path
            if not path.resolve().is_relative_to(directory.resolve()):
                problems.append(f"{entry.path} leads out of the backup")
            elif path.is_symlink() or not path.is_file():
                problems.append(f"{entry.path} is missing")
            elif digest_file(path) != (entry.bytes, entry.sha256):
                problems.append(f"{entry.path} is not as it was: its digest differs")
            done += entry.bytes
            on_progress("digests", done, manifest.total_bytes)
    except OSError as error:
        raise RecordError(f"{directory} cannot be read: {error}") from error
    decisions = directory / DECISIONS
    if not decisions.is_dir():
        problems.append("the journal is missing")
        return checked
    checked.reports = verify(
        decisions,
        None if master is None else master.heads,
        on_progress=lambda done, total: on_progress("journal", done, total),
    )
    if findings_of(checked.reports) > manifest.findings:
        problems.append("the journal's chains do not hold")
    if chains_of(decisions, checked.reports) != manifest.chains:
        problems.append("the journal's chains end elsewhere than they did")
    return checked
