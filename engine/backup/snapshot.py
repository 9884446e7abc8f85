"""A journal as it stands at one moment, taken while its workers write.

Heads are read first and segments opened after, so the chain is never shorter than its heads say. An open segment can be
read to the length that it had, also when it is let go meanwhile. The keys are copied after the segments: every record's
key is there, unless its person was erased in between.

Left out: locks and the table of claims, which begin anew with the next server; and the shipper's state, because a
restored journal goes on with segments of the same numbers as those that may have been shipped before it was lost. It is
shipped anew, under a new name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.backup.parts import is_beside
from engine.errors import RecordError
from engine.record.heads import SUFFIX as HEADS_SUFFIX
from engine.record.segments import Position, TornTail, list_segments, scan, segment_path, worker_of

_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 20


@dataclass(slots=True)
class Snapshot:
    """heads: the content of every file of heads. segments: for each an open descriptor and the length to copy."""

    heads: dict[str, bytes] = field(default_factory=dict)
    segments: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """To be copied of the segments."""
        return sum(size for _, size in self.segments.values())


@contextlib.contextmanager
def snapshot(directory: Path) -> Iterator[Snapshot]:
    """The journal of this moment. Raises RecordError."""
    _allow_descriptors()
    try:
        for _ in range(_ATTEMPTS):
            taken = Snapshot(heads={path.name: _whole_lines(path) for path in directory.glob("*" + HEADS_SUFFIX)})
            try:
                try:
                    for name in list_segments(directory):
                        fd = os.open(segment_path(directory, name), os.O_RDONLY | os.O_CLOEXEC)
                        taken.segments[name] = (fd, os.fstat(fd).st_size)
                except FileNotFoundError:
                    continue  # one was let go a moment ago: what its heads say of that is to be in it as well
                yield taken
                return
            finally:
                for fd, _ in taken.segments.values():
                    os.close(fd)
    except OSError as error:
        raise RecordError(f"the journal {directory} cannot be read: {error.strerror}") from error
    raise RecordError(f"the journal {directory} lets segments go all the time: try again")


def copy_segments(taken: Snapshot, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Puts heads and segments into a directory that is there. A record that was just being written is left out. Raises
    OSError, RecordError."""
    for name, content in taken.heads.items():
        write_file(target / name, content)
    newest = {worker_of(name): name for name in taken.segments}
    for name, (fd, size) in taken.segments.items():
        path = segment_path(target, name)
        _copy(fd, size, path, on_bytes)
        if newest[worker_of(name)] == name:
            _cut_unfinished(target, name)


def copy_beside(directory: Path, target: Path) -> None:
    """The small files beside the segments. Raises OSError."""
    for entry in sorted(os.scandir(directory), key=lambda one: one.name):
        if is_beside(entry.name):
            with contextlib.suppress(FileNotFoundError):
                path = Path(entry.path)
                content = path.read_bytes() if path.suffix == ".json" else _whole_lines(path)
                write_file(target / entry.name, content)


def copy_file(source: Path, target: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """A file as it is, for its owner alone and durable; gives the SHA-256 of what was copied. Raises OSError."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _copy(fd, os.fstat(fd).st_size, target, on_bytes)
    finally:
        os.close(fd)


def write_file(path: Path, content: bytes) -> None:
    """A new file for its owner alone, durable. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _copy(fd: int, size: int, target: Path, on_bytes: Callable[[int], None]) -> str:
    digest, at = hashlib.sha256(), 0
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(out, "wb") as file:
        while at < size:
            chunk = os.pread(fd, min(_CHUNK_BYTES, size - at), at)
            if not chunk:
                break  # a torn tail that was cut meanwhile
            file.write(chunk)
            digest.update(chunk)
            at += len(chunk)
            on_bytes(len(chunk))
        file.flush()
        os.fsync(out)
    return digest.hexdigest()


def _cut_unfinished(directory: Path, segment: str) -> None:
    last = None
    for last in scan(directory, segment):  # noqa: B007
        pass
    path = segment_path(directory, segment)
    if isinstance(last, TornTail):
        if last.position == Position(segment, 0):
            path.unlink()  # its header was just being written
        else:
            os.truncate(path, last.position.offset)


def _whole_lines(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _allow_descriptors() -> None:
    """A segment each is open for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
