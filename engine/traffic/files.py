"""Small files that several processes share: replaced whole, checked by digest, guarded by locks that die with their
holder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = "assay-1"
_FILE_BYTES_MAX = 16 << 20


class DamagedFile(Exception):
    """A file that is there and is not what was written."""


class Signature(NamedTuple):
    """Tells one version of a file from another. A replaced file has another inode or another time."""

    inode: int
    modified_ns: int
    size: int


def signature_of(path: Path) -> Signature | None:
    """The version of a file that is there now; None without one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Signature(found.st_ino, found.st_mtime_ns, found.st_size)


def seal(body: str) -> bytes:
    """A file's content: a line with the digest of the body, then the body."""
    content = body.encode()
    return f"{_HEAD} sha256:{hashlib.sha256(content).hexdigest()}\n".encode() + content


def read_sealed(path: Path) -> str | None:
    """The body of a sealed file; None without a file. Raises DamagedFile."""
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise DamagedFile(f"{path.name} has more than {_FILE_BYTES_MAX} bytes")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFile(f"{path.name} cannot be read: {error.strerror}") from error
    head, _, body = content.partition(b"\n")
    if head != f"{_HEAD} sha256:{hashlib.sha256(body).hexdigest()}".encode():
        raise DamagedFile(f"{path.name} is torn or was changed by hand: its digest does not match")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path.name} is no text") from error


class Replacement:
    """A new version of a file, written and durable but not in place: what can fail has been done by then."""

    def __init__(self, path: Path, content: bytes, *, durable: bool = True) -> None:
        """Raises OSError."""
        self._path, self._durable = path, durable
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with self._temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
        except BaseException:
            self.discard()
            raise

    def put(self) -> None:
        """Puts it in place at once for all readers. Raises OSError."""
        os.replace(self._temporary, self._path)
        if self._durable:
            sync_directory(self._path.parent)

    def discard(self) -> None:
        """Removes it, if it was not put in place."""
        self._temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Puts a new version of a file in place at once for all readers. Raises OSError."""
    replacement = Replacement(path, content, durable=durable)
    try:
        replacement.put()
    finally:
        replacement.discard()


def sync_directory(directory: Path) -> None:
    """Makes renames inside a directory survive a power loss."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FileLock:
    """An exclusive lock on a file, between threads and processes alike. It goes with its holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1

    def acquire(self, wait_s: float) -> bool:
        """Takes the lock, waiting at most so long. False: another holds it still. Raises OSError."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if not isinstance(error, BlockingIOError) or time.monotonic() >= end_s:
                    os.close(handle)
                    if isinstance(error, BlockingIOError):
                        return False
                    raise
                time.sleep(0.01)
            else:
                self._handle = handle
                return True

    def release(self) -> None:
        """Lets go. Harmless when repeated."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@contextlib.contextmanager
def held(path: Path, wait_s: float) -> Iterator[bool]:
    """Holds a lock meanwhile. Gives whether it was had."""
    lock = FileLock(path)
    had = lock.acquire(wait_s)
    try:
        yield had
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on a file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
