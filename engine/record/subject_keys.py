"""The keys of subjects: what personal parts of records are sealed with, and how a person is erased.

    keys/<worker>-<number>.keys    header, slot, slot, ...
    slot                           state, country, created, subject's keyed hash, secret, CRC-32
    sealed part                    version, key file's id, slot number, nonce, AES-256-GCM(personal part)

A key is made at random for a subject when a worker first seals a record about it, and is used for at most a day. What
a slot holds is a secret that gives the key together with the master key. Erasing overwrites the slot where it stands,
so nothing is left of it in a free page of a database; records then name a slot that holds nothing. All workers see that
at once, for each looks at the slot before it seals with a key that it made earlier. Which slots are a subject's is
found by reading the key files through. The decision id is authenticated with the sealed part.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import RecordError
from engine.record.entries import KeyNotHere
from engine.record.master import MasterKey

DIRECTORY = "keys"
SUFFIX = ".keys"
SLOTS_PER_FILE = 1 << 20
REUSE_S = 86_400

_MAGIC = b"AsKeys\r\n"
_LAYOUT = 1
_HEADER = struct.Struct("<8sII8s8sq20s")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
_SLOT = struct.Struct("<B3x8sq16s32s")
SLOT_BYTES = _SLOT.size + _CHECK.size
_MARK_AT = 20
_LIVE, _ERASED = 1, 2
# All keys of the file are gone, and its slots with them.
_EMPTIED = 1
_REF = struct.Struct("<B8sQ12s")
_VERSION = 1
_CACHED = 4096
_US_PER_DAY = 86_400_000_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}-\d{8}")


class _Cached(NamedTuple):
    """A key that this process made."""

    cipher: AESGCM
    fd: int
    file_id: bytes
    slot: int
    until_s: float


class _Head(NamedTuple):
    flags: int
    file_id: bytes
    fingerprint: bytes


class SubjectKeys:
    """The keys of all subjects of one journal. Safe to use from several threads.

    worker: makes keys under this name, which must be the process's own; without it nothing can be sealed.
    """

    def __init__(
        self,
        journal: Path,
        master: MasterKey,
        worker: str = "",
        *,
        durable: bool = False,
        slots_per_file: int = SLOTS_PER_FILE,
    ) -> None:
        """durable: keys are to survive the loss of power (see `sync`). Raises RecordError: also when the keys that are
        there belong to another master key."""
        self._directory, self._master, self._worker = Path(journal) / DIRECTORY, master, worker
        self._durable, self._slots_per_file = durable, slots_per_file
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._cache: dict[str, _Cached] = {}
        self._readers: dict[bytes, int] = {}
        self._fd, self._file_id, self._next, self._number = -1, b"", 0, 0
        self._left: list[int] = []
        self._dirty = False
        try:
            if worker:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._files():
                head = _read_header(path)
                if head is not None and head.fingerprint != master.fingerprint:
                    raise RecordError(f"{path} belongs to another master key: restore the one that it was made with")
            if worker:
                self._go_on()
        except OSError as e:
            raise RecordError(f"the keys of subjects in {self._directory} cannot be used: {e.strerror}") from e

    # --- sealing ----------------------------------------------------------------------------------------------------

    def seal(self, decision_id: str, subject: str, personal: bytes, country: str = "") -> bytes:
        """The personal part of a record, sealed. Its key is as durable as `sync` made it last. Raises RecordError."""
        held = self._cache.get(subject)
        try:
            if held is None or held.until_s < time.monotonic() or os.pread(held.fd, 1, _offset(held.slot)) != b"\x01":
                held = self._make(subject, country)
        except OSError as e:
            raise RecordError(f"a key cannot be kept: {e.strerror}") from e
        nonce = os.urandom(12)
        reference = _REF.pack(_VERSION, held.file_id, held.slot, nonce)
        return reference + held.cipher.encrypt(nonce, personal, decision_id.encode())

    def unseal(self, decision_id: str, sealed: bytes) -> bytes | None:
        """The personal part; None when its key was erased. Raises KeyNotHere when the key is not among these,
        RecordError when the part does not open."""
        try:
            version, file_id, slot, nonce = _REF.unpack_from(sealed)
        except struct.error as e:
            raise RecordError("a sealed part is cut short") from e
        if version != _VERSION:
            raise RecordError(f"a sealed part of version {version} is not known here")
        try:
            secret = self._secret(file_id, slot)
        except OSError as e:
            raise RecordError(f"a key cannot be read: {e.strerror}") from e
        if secret is None:
            return None
        try:
            cipher = AESGCM(self._master.wrap_key(secret))
            return cipher.decrypt(nonce, sealed[_REF.size :], decision_id.encode())
        except InvalidTag as e:
            raise RecordError(f"the sealed part of {decision_id} does not open with its key: it was altered") from e

    def sync(self) -> None:
        """Make the keys made so far durable. Raises OSError."""
        with self._sync_lock:
            if not self._dirty:
                return
            self._dirty = False
            try:
                os.fdatasync(self._fd)
            except BaseException:
                self._dirty = True
                raise

    # --- erasing ----------------------------------------------------------------------------------------------------

    def erase(self, subject: str) -> int:
        """Delete all keys of a subject, whichever worker made them; how many there were. They are gone for good when
        this returns. Raises RecordError: some may be left, repeat the call."""
        mark = self._master.subject_mark(subject)
        self._cache.pop(subject, None)
        try:
            with self._alone():
                return sum(self._erase_slots(path, _slots_of(path, mark)) for path in self._files())
        except OSError as e:
            raise RecordError(f"the keys of the subject cannot be deleted: {e.strerror}") from e

    def expire(self, now_us: int, retain_days: Mapping[str, int]) -> int:
        """Delete the keys whose records are all older than their country's days; "" stands for countries that are not
        named. A country without days keeps its keys. A file without any key left gives its space back. How many keys
        were deleted. Raises RecordError."""
        gone = 0
        try:
            with self._alone():
                for path in self._files():
                    old = []
                    for slot, country, created_us in _live_slots(path):
                        days = retain_days.get(country, retain_days.get("", 0))
                        # A key is used for a day.
                        if days and created_us + (days + 1) * _US_PER_DAY < now_us:
                            old.append(slot)
                    gone += self._erase_slots(path, old)
                    self._empty(path)
        except OSError as e:
            raise RecordError(f"old keys cannot be deleted: {e.strerror}") from e
        return gone

    def close(self) -> None:
        """Let go. Harmless when repeated. Raises OSError."""
        try:
            if self._durable and self._fd >= 0:
                self.sync()
        finally:
            fds = [*self._left, *self._readers.values(), *([self._fd] if self._fd >= 0 else [])]
            self._left, self._fd = [], -1
            self._readers.clear()
            self._cache.clear()
            for fd in fds:
                os.close(fd)

    # --- files ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others who erase out: none cuts a file down that another reads through."""
        if not self._directory.is_dir():
            yield
            return
        fd = os.open(self._directory / "erase.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _files(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return sorted(path for path in self._directory.glob("*" + SUFFIX) if _NAME.fullmatch(path.stem))

    def _go_on(self) -> None:
        """Go on in the worker's last file, over what a crash left half-written."""
        own = [path for path in self._files() if path.stem.rpartition("-")[0] == self._worker]
        if not own:
            return
        self._number = int(own[-1].stem.rpartition("-")[2])
        head = _read_header(own[-1])
        count = max(0, own[-1].stat().st_size - HEADER_BYTES) // SLOT_BYTES
        if head is None or head.flags & _EMPTIED or count >= self._slots_per_file:
            return
        self._fd, self._file_id = os.open(own[-1], os.O_RDWR | os.O_CLOEXEC), head.file_id
        os.ftruncate(self._fd, _offset(count))
        self._next, self._dirty = count, True

    def _make(self, subject: str, country: str) -> _Cached:
        """A new key for a subject. Two threads may make two: both are the subject's."""
        secret = os.urandom(32)
        cipher = AESGCM(self._master.wrap_key(secret))
        mark = self._master.subject_mark(subject)
        body = _SLOT.pack(_LIVE, country.encode()[:8], time.time_ns() // 1000, mark, secret)
        content = body + _CHECK.pack(crc32(body))
        with self._lock:
            if self._fd < 0 or self._next >= self._slots_per_file:
                self._next_file()
            fd, file_id, slot = self._fd, self._file_id, self._next
            if os.pwrite(fd, content, _offset(slot)) != len(content):
                raise OSError(28, "only a part could be written")
            self._next, self._dirty = slot + 1, True
            while len(self._cache) >= _CACHED:
                self._cache.pop(next(iter(self._cache)), None)
            made = self._cache[subject] = _Cached(cipher, fd, file_id, slot, time.monotonic() + REUSE_S)
        return made

    def _next_file(self) -> None:
        if not self._worker:
            raise RecordError("these keys are for reading: nothing can be sealed")
        with self._sync_lock:
            if self._fd >= 0:
                if self._durable:
                    os.fdatasync(self._fd)
                self._left.append(self._fd)
                self._fd = -1
            number, file_id = self._number + 1, os.urandom(8)
            path = self._directory / f"{self._worker}-{number:08d}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                head = _pack_header(0, file_id, self._master.fingerprint)
                if os.pwrite(fd, head, 0) != len(head):
                    raise OSError(28, "only a part could be written")
                if self._durable:
                    os.fdatasync(fd)
                    _sync_directory(self._directory)
            except BaseException:
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
            self._fd, self._file_id, self._next, self._number = fd, file_id, 0, number

    def _secret(self, file_id: bytes, slot: int) -> bytes | None:
        fd = self._readers.get(file_id)
        if fd is None:
            fd = self._open_reader(file_id)
        raw = os.pread(fd, SLOT_BYTES, _offset(slot))
        if len(raw) < SLOT_BYTES:
            head = _parse_header(os.pread(fd, HEADER_BYTES, 0))
            if head is not None and head.flags & _EMPTIED:
                return None
            raise KeyNotHere("the key of a record is not in its file: it was lost")
        state, _, _, _, secret = _SLOT.unpack_from(raw)
        if _CHECK.pack(crc32(raw[: _SLOT.size])) != raw[_SLOT.size :]:
            raise KeyNotHere("the key of a record is damaged")
        return secret if state == _LIVE else None

    def _open_reader(self, file_id: bytes) -> int:
        for path in self._files():
            head = _read_header(path)
            if head is not None and head.file_id == file_id:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                held = self._readers.setdefault(file_id, fd)
                if held != fd:
                    os.close(fd)
                return held
        raise KeyNotHere("the key of a record is not among the keys here")

    def _erase_slots(self, path: Path, slots: list[int]) -> int:
        if not slots:
            return 0
        body = _SLOT.pack(_ERASED, b"", time.time_ns() // 1000, b"", b"")
        content = body + _CHECK.pack(crc32(body))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for slot in slots:
                os.pwrite(fd, content, _offset(slot))
            os.fsync(fd)
        finally:
            os.close(fd)
        return len(slots)

    def _empty(self, path: Path) -> None:
        """Give the space of a full file back that holds no key any more."""
        size = path.stat().st_size
        if size < _offset(self._slots_per_file) or any(True for _ in _live_slots(path)):
            return
        head = _read_header(path)
        if head is None:
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(fd, _pack_header(_EMPTIED, head.file_id, head.fingerprint), 0)
            os.fsync(fd)
            os.ftruncate(fd, HEADER_BYTES)
            os.fsync(fd)
        finally:
            os.close(fd)


def _offset(slot: int) -> int:
    return HEADER_BYTES + slot * SLOT_BYTES


def _pack_header(flags: int, file_id: bytes, fingerprint: bytes) -> bytes:
    body = _HEADER.pack(_MAGIC, _LAYOUT, flags, file_id, fingerprint, time.time_ns() // 1000, b"")
    return body + _CHECK.pack(crc32(body))


def _parse_header(raw: bytes) -> _Head | None:
    if len(raw) < HEADER_BYTES or _CHECK.pack(crc32(raw[: _HEADER.size])) != raw[_HEADER.size : HEADER_BYTES]:
        return None
    magic, layout, flags, file_id, fingerprint, _, _ = _HEADER.unpack_from(raw)
    return _Head(flags, file_id, fingerprint) if magic == _MAGIC and layout == _LAYOUT else None


def _read_header(path: Path) -> _Head | None:
    with path.open("rb", buffering=0) as file:
        return _parse_header(file.read(HEADER_BYTES))


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[tuple[mmap.mmap | None, int]]:
    """A key file's bytes and how many whole slots they hold."""
    with path.open("rb") as file:
        count = max(0, os.fstat(file.fileno()).st_size - HEADER_BYTES) // SLOT_BYTES
        if not count:
            yield None, 0
            return
        with mmap.mmap(file.fileno(), _offset(count), access=mmap.ACCESS_READ) as content:
            yield content, count


def _slots_of(path: Path, mark: bytes) -> list[int]:
    """The live slots of a subject."""
    slots = []
    with _mapped(path) as (content, _):
        at = -1 if content is None else content.find(mark, HEADER_BYTES)
        while content is not None and at >= 0:
            slot, rest = divmod(at - HEADER_BYTES, SLOT_BYTES)
            if rest == _MARK_AT and content[_offset(slot)] == _LIVE:
                slots.append(slot)
            at = content.find(mark, at + 1)
    return slots


def _live_slots(path: Path) -> Iterator[tuple[int, str, int]]:
    """Slot, country and moment of every key that is left."""
    with _mapped(path) as (content, count):
        for slot in range(count):
            if content is not None and content[_offset(slot)] == _LIVE:
                _, country, created_us, _, _ = _SLOT.unpack_from(content, _offset(slot))
                yield slot, country.rstrip(b"\0").decode("utf-8", "replace"), created_us


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
