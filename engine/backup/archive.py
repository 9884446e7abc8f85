"""A backup as one file: a plain tar of the directory. What is sealed does not compress."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.errors import RecordError

SUFFIX = ".tar"


def pack(directory: Path, target: Path) -> None:
    """Turns a backup's directory into one file, and removes the directory. Raises RecordError."""
    draft = target.with_name(target.name + ".partial")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for path in sorted(directory.rglob("*")):
                    archive.add(path, path.relative_to(directory).as_posix(), recursive=False, filter=_nobodys)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, target)
        shutil.rmtree(directory)
    except (OSError, tarfile.TarError) as error:
        draft.unlink(missing_ok=True)
        raise RecordError(f"{target} cannot be written: {error}") from error


@contextlib.contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The directory of a backup; of one in a file, a directory beside it that goes again. Raises RecordError."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise RecordError(f"there is no backup at {source}")
    try:
        place = tempfile.mkdtemp(prefix=f".{source.name}.", dir=source.parent)
    except OSError as error:
        raise RecordError(f"{source} cannot be unpacked beside itself: {error.strerror}") from error
    try:
        try:
            with tarfile.open(source, "r:") as archive:
                archive.extractall(place, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise RecordError(f"{source} cannot be unpacked: {error}") from error
        yield Path(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info
