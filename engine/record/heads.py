"""Where a worker's chain stood, noted beside the journal: what shows that the newest records were cut off.

    <worker>.heads    one line a head: "head" or "anchor", sequence, link, segment, offset, moment, signature

A chain alone cannot tell that it once was longer. A head says that it was at least so long at a moment. An anchor says
that all up to a frame was let go on purpose. With a key, every line is signed, so that who changes the journal cannot
change the heads to match. Lines are only added; when the file has grown, the last head of every segment stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import time
from collections.abc import Iterator
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from engine.errors import RecordError
from engine.record.layouts import Chain

SUFFIX = ".heads"
_UNSIGNED = "-"
_GROWN_BYTES = 1 << 20
_LINE_BYTES_MAX = 300
_ANCHORS_KEPT = 1000


class Signed(Enum):
    """What a line's signature says. UNKNOWN: it has one, and there is no key to check it with."""

    NOT = "not signed"
    RIGHT = "rightly signed"
    WRONG = "wrongly signed"
    UNKNOWN = "signed, not checked"


class Head(NamedTuple):
    """Where a chain stood at a moment. is_anchor: all up to here was let go. segment, offset: where the next frame
    starts."""

    is_anchor: bool
    chain: Chain
    segment: str
    offset: int
    moment_us: int
    signature: str = ""


class HeadFile:
    """The heads of one worker. Several processes may add to it."""

    def __init__(self, directory: Path, worker: str, key: bytes | None) -> None:
        """key: signs the lines; without it they are not signed, and signatures are not looked at."""
        self._path, self._worker, self._key = directory / (worker + SUFFIX), worker, key
        self.unreadable = 0

    @property
    def has_key(self) -> bool:
        """Whether lines are signed, and signatures looked at."""
        return self._key is not None

    def read(self) -> list[Head]:
        """All heads, oldest first; a last line that a crash cut short is left out, and `unreadable` counts the others
        that make no sense. Raises RecordError when the file cannot be read."""
        try:
            text = self._path.read_text("ascii", "replace")
        except FileNotFoundError:
            return []
        except OSError as e:
            raise RecordError(f"the heads {self._path.name} cannot be read: {e.strerror}") from e
        self.unreadable = 0
        heads = []
        for line in text.split("\n")[:-1]:
            head = _parse(line)
            if head is None:
                self.unreadable += 1
            else:
                heads.append(head)
        return heads

    def add(self, heads: list[Head], durable: bool) -> None:
        """Note heads. durable: they survive the loss of power when this returns. Raises OSError."""
        lines = "".join(f"{_body(head)} {self._sign(_body(head))}\n" for head in heads).encode("ascii")
        with self._held() as fd:
            size = os.fstat(fd).st_size
            tail = os.pread(fd, _LINE_BYTES_MAX, max(0, size - _LINE_BYTES_MAX))
            if tail and not tail.endswith(b"\n"):
                # A crash cut the last line short.
                size -= len(tail) - 1 - tail.rfind(b"\n")
                os.ftruncate(fd, size)
            grown = size + len(lines) > _GROWN_BYTES
            os.write(fd, lines)
            if durable:
                os.fdatasync(fd)
            if grown:
                self._compact()

    @contextlib.contextmanager
    def _held(self) -> Iterator[int]:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # Another process may have put a shorter file in its place meanwhile.
                if os.fstat(fd).st_ino == os.stat(self._path).st_ino:
                    yield fd
                    return
            except FileNotFoundError:
                continue
            finally:
                os.close(fd)

    def _compact(self) -> None:
        """Keeps the last head of every segment, the newest anchors, and what is wrongly signed, as it is: for people to
        look at. Holds the lock."""
        heads = self.read()
        wrong = [head for head in heads if self.signed(head) is Signed.WRONG]
        right = [head for head in heads if self.signed(head) is not Signed.WRONG]
        anchors = [head for head in right if head.is_anchor][-_ANCHORS_KEPT:]
        oldest = anchors[-1].chain.sequence if anchors else 0
        last = {head.segment: head for head in right if not head.is_anchor and head.chain.sequence >= oldest}
        kept = sorted([*anchors, *last.values(), *wrong[-_ANCHORS_KEPT:]], key=lambda head: head.moment_us)
        draft = self._path.with_suffix(SUFFIX + ".tmp")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, "".join(f"{_body(head)} {head.signature}\n" for head in kept).encode("ascii"))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(draft, self._path)

    def signed(self, head: Head) -> Signed:
        """What the signature of a head that was read says."""
        if head.signature == _UNSIGNED:
            return Signed.NOT
        if self._key is None:
            return Signed.UNKNOWN
        return Signed.RIGHT if hmac.compare_digest(head.signature, self._sign(_body(head))) else Signed.WRONG

    def _sign(self, body: str) -> str:
        if self._key is None:
            return _UNSIGNED
        return blake2b(f"{self._worker} {body}".encode(), key=self._key, digest_size=16).hexdigest()


def _body(head: Head) -> str:
    what = "anchor" if head.is_anchor else "head"
    return f"{what} {head.chain.sequence} {head.chain.link.hex()} {head.segment or '-'} {head.offset} {head.moment_us}"


def _parse(line: str) -> Head | None:
    try:
        what, sequence, link, segment, offset, moment_us, signature = line.split(" ")
        chain = Chain(int(sequence), bytes.fromhex(link))
        if what not in ("head", "anchor") or len(chain.link) != 32:
            return None
        return Head(what == "anchor", chain, "" if segment == "-" else segment, int(offset), int(moment_us), signature)
    except ValueError:
        return None


def head_now(chain: Chain, segment: str, offset: int, *, is_anchor: bool = False) -> Head:
    """A head of this moment."""
    return Head(is_anchor, chain, segment, offset, time.time_ns() // 1000)
