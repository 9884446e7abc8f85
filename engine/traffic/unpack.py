"""Unpacks a bundle that was sent as a ZIP file: bounded, and never outside its own directory."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from engine.errors import BundleError, Problem

_FILES_MAX = 10_000
_CHUNK = 1 << 20


def unpack_zip(content: BinaryIO, target: Path, bytes_max: int) -> None:
    """Unpacks into a new directory. bytes_max: of all files together. Raises BundleError."""
    try:
        with zipfile.ZipFile(content) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > _FILES_MAX:
                raise _unusable("", f"holds more than {_FILES_MAX} files", "Leave out what the bundle does not need.")
            target.mkdir(parents=True)
            left = bytes_max
            for entry in entries:
                place = _place(entry)
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                # What an entry says of its size is not believed: what comes out is counted.
                with archive.open(entry) as source, (target / place).open("xb") as sink:
                    while chunk := source.read(_CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise _unusable("", f"holds more than {bytes_max} bytes", "Send a smaller bundle.")
                        sink.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _unusable("", f"cannot be unpacked ({error})", "Send a ZIP file, stored or deflated.") from error
    except FileExistsError as error:
        raise _unusable("", "holds one file twice", "Name each file once.") from error


def _place(entry: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(entry.filename)
    outside = name.is_absolute() or ".." in name.parts or "\\" in entry.filename or not name.parts
    if outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise _unusable(entry.filename, "leads outside the bundle", "Send plain files, named from the bundle's top.")
    return name


def _unusable(place: str, message: str, fix: str) -> BundleError:
    return BundleError([Problem("upload", place[:200], message, fix)])
