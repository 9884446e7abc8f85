"""The bundles that a host holds, each under its digest: what was served can be found for a rollback or a replay.

    DIRECTORY/<64 hexadecimal digits>/        the bundle's files, as they were loaded
    DIRECTORY/<64 hexadecimal digits>.json    its name, version and flows, and when it was loaded and served

A bundle is copied beside its place, checked there, and gets its name by one rename: whatever bears a digest is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from engine.bundle.source import digest_of
from engine.errors import BundleError, Problem
from engine.traffic.errors import not_found
from engine.traffic.files import replace_file, sync_directory

_FILES_MAX = 10_000
_PREFIX_MIN = 8
_INCOMING = ".incoming-"
_INCOMING_MAX_AGE_S = 3600.0
_is_digest = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class Stored:
    """One bundle of the registry. loaded_us, served_us: microseconds since 1970 UTC; served_us is 0 for never."""

    digest: str
    name: str
    version: str
    flows: tuple[str, ...]
    bytes: int
    loaded_us: int
    served_us: int = 0


@dataclass(frozen=True, slots=True)
class Incoming:
    """A copy of a bundle that has no place yet."""

    path: Path
    digest: str
    bytes: int


class BundleRegistry:
    """Holds bundles. Processes may share it; who changes what is served holds a lock, and only it prunes.

    keep_max: how many are kept beyond those that are needed; bundle_bytes_max: the most that one may have.
    """

    def __init__(self, directory: Path, keep_max: int = 16, bundle_bytes_max: int = 1 << 30) -> None:
        """Raises OSError."""
        self._directory, self._keep_max, self._bytes_max = directory, keep_max, bundle_bytes_max
        directory.mkdir(parents=True, exist_ok=True)
        old_s = time.time() - _INCOMING_MAX_AGE_S
        for left in directory.glob(f"{_INCOMING}*"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < old_s:
                    shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def incoming(self, root: Path) -> Iterator[Incoming]:
        """A copy of the bundle in a directory, removed unless `keep` gave it a place. Raises BundleError."""
        target = self._directory / f"{_INCOMING}{uuid.uuid4().hex}"
        try:
            try:
                copied = _copy(root, target, self._bytes_max)
                digest = digest_of(target)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                raise _unusable(root, f"cannot be copied ({why})", "Make every file readable.") from error
            yield Incoming(target, digest, copied)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def keep(self, incoming: Incoming, name: str, version: str, flows: Collection[str]) -> tuple[Stored, bool]:
        """Gives a copy its place. Gives the bundle, and whether it was there already. Raises OSError."""
        place = self.path_of(incoming.digest)
        known = self.get(incoming.digest)
        if known is not None and _digest_or_none(place) == incoming.digest:
            return known, True
        if place.exists():
            # Not what its name says: somebody changed it, or a disk did.
            os.replace(place, self._directory / f"{_INCOMING}{uuid.uuid4().hex}")
        now_us = time.time_ns() // 1000
        stored = Stored(incoming.digest, name, version, tuple(sorted(flows)), incoming.bytes, now_us)
        self._write(stored)
        try:
            os.replace(incoming.path, place)
        except OSError:
            # Another process was quicker with the same bundle.
            if _digest_or_none(place) != incoming.digest:
                raise
            return stored, True
        sync_directory(self._directory)
        return stored, False

    def path_of(self, digest: str) -> Path:
        """Where a bundle stands, or would."""
        if _is_digest(digest) is None:
            raise not_found(digest, "A digest is sha256: and 64 hexadecimal digits.")
        return self._directory / digest.removeprefix("sha256:")

    def get(self, digest: str) -> Stored | None:
        """A bundle by its whole digest."""
        if _is_digest(digest) is None or not self.path_of(digest).is_dir():
            return None
        try:
            content = json.loads(self._facts_of(digest).read_text(encoding="utf-8"))
            return Stored(digest=digest, **{**content, "flows": tuple(content["flows"])})
        except (OSError, ValueError, TypeError, KeyError):
            # The files are what counts: whatever is said about them can be said anew.
            return Stored(digest, "", "", (), 0, 0)

    def find(self, digest: str) -> str:
        """The whole digest of the only bundle that begins so. Raises Refusal."""
        wanted = digest.removeprefix("sha256:")
        if re.fullmatch(rf"[0-9a-f]{{{_PREFIX_MIN},64}}", wanted) is None:
            raise not_found(digest, f"A digest is written with at least {_PREFIX_MIN} of its hexadecimal digits.")
        found = [one for one in self._digests() if one.removeprefix("sha256:").startswith(wanted)]
        if len(found) != 1:
            what = "No bundle here has" if not found else f"{len(found)} bundles here have digests that begin with"
            raise not_found(digest, f"{what} {digest!r}; ListBundles tells what there is, LoadBundle adds to it.")
        return found[0]

    def all(self) -> list[Stored]:
        """All bundles, the one loaded last first."""
        found = [stored for digest in self._digests() if (stored := self.get(digest)) is not None]
        return sorted(found, key=lambda stored: (-stored.loaded_us, stored.digest))

    def note_served(self, digests: Collection[str], now_us: int) -> None:
        """Notes that bundles were put in service. Raises OSError."""
        for digest in digests:
            stored = self.get(digest)
            if stored is not None:
                self._write(replace(stored, served_us=now_us))

    def prune(self, needed: Collection[str]) -> list[str]:
        """Removes what is too many: first what was never served, then what was served longest ago. Gives the digests.

        needed: never removed, and not counted."""
        spare = [stored for stored in self.all() if stored.digest not in needed]
        spare.sort(key=lambda stored: (stored.served_us > 0, stored.served_us, stored.loaded_us))
        removed = []
        for stored in spare[: max(0, len(spare) - self._keep_max)]:
            doomed = self._directory / f"{_INCOMING}{uuid.uuid4().hex}"
            with contextlib.suppress(OSError):
                os.replace(self.path_of(stored.digest), doomed)
                self._facts_of(stored.digest).unlink(missing_ok=True)
                removed.append(stored.digest)
            shutil.rmtree(doomed, ignore_errors=True)
        return removed

    def _digests(self) -> list[str]:
        found = (f"sha256:{entry.name}" for entry in os.scandir(self._directory) if entry.is_dir())
        return [digest for digest in found if _is_digest(digest)]

    def _facts_of(self, digest: str) -> Path:
        return self.path_of(digest).with_suffix(".json")

    def _write(self, stored: Stored) -> None:
        names = ("name", "version", "flows", "bytes", "loaded_us", "served_us")
        content = {name: getattr(stored, name) for name in names}
        replace_file(self._facts_of(stored.digest), (json.dumps(content, indent=2) + "\n").encode())


def _copy(root: Path, target: Path, bytes_max: int) -> int:
    """Copies a bundle's files but for hidden ones, made durable. Gives their bytes. Raises OSError, BundleError."""
    if not root.is_dir():
        raise _unusable(root, "is not a directory", "Name the directory that holds bundle.yaml.")
    target.mkdir()
    files = total = 0
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if _belongs(name)]
        place = target / Path(folder).relative_to(root)
        place.mkdir(exist_ok=True)
        for name in filter(_belongs, names):
            source = Path(folder, name)
            files, total = files + 1, total + source.stat().st_size
            if files > _FILES_MAX or total > bytes_max:
                message = f"has more than {_FILES_MAX} files or {bytes_max} bytes"
                raise _unusable(root, message, "Leave out what the bundle does not need.")
            if source.is_file():
                shutil.copyfile(source, place / name)
                with (place / name).open("rb") as stream:
                    os.fsync(stream.fileno())
    return total


def _belongs(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _digest_or_none(place: Path) -> str | None:
    try:
        return digest_of(place)
    except (OSError, ValueError):
        return None


def _unusable(root: Path, message: str, fix: str) -> BundleError:
    return BundleError([Problem(str(root), "", message, fix)])
