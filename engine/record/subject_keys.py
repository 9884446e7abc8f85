"""The keys of subjects: what personal parts of records are sealed with, and how a person is erased.

A key is made at random for a subject when a worker first seals a record about it, and is used for at most a day.
Erasing overwrites it where it stands, so nothing is left of it in a free page of a database; records then name a slot
that holds nothing. All workers see that at once: a number that they share in memory says that somebody was erased, and
each looks at the slot again before it seals with a key that it made earlier. Which keys are a subject's is found by
reading the key files through. `key_files` says how these are laid out.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import RecordError
from engine.record.entries import KeyNotHere
from engine.record.key_files import (
    DIRECTORY,
    EMPTIED,
    HEADER_BYTES,
    LIVE,
    REFERENCE,
    SLOT,
    SLOT_BYTES,
    SUFFIX,
    KeySlot,
    boot_mark,
    erase_slots,
    give_back,
    key_files,
    live_slots,
    make_reference,
    open_sealed,
    pack_header,
    pack_slot,
    parse_sealed,
    read_header,
    read_slot,
    slot_offset,
    slots_of,
)
from engine.record.master import MasterKey

__all__ = ["DIRECTORY", "HEADER_BYTES", "SLOT_BYTES", "SUFFIX", "SubjectKeys"]
# The layout's names from before it had a file of its own.
_LIVE, _REF, _SLOT, _read_header = LIVE, REFERENCE, SLOT, read_header

SLOTS_PER_FILE = 1 << 20
REUSE_S = 86_400
_CACHED = 4096
_US_PER_DAY = 86_400_000_000
_LIVE_BYTE = b"\x01"
_NONCE_BYTES = 12
_GENERATION, _GENERATION_BYTES = "erasures", 8


class _Cached(NamedTuple):
    """A key that this process made. generation: of erasures, when its slot was last seen to hold it."""

    cipher: AESGCM
    fd: int
    file_id: bytes
    slot: int
    until_s: float
    generation: bytes


# Random bytes, drawn many at once: every draw is a system call that lets go of the interpreter. What is taken is never
# given again, also not by a child of this process.
_random: list[bytes] = []
os.register_at_fork(after_in_child=_random.clear)


def _draw() -> bytes:
    """44 random bytes: a secret, a nonce."""
    try:
        return _random.pop()
    except IndexError:
        drawn = os.urandom(64 * 44)
        _random.extend(drawn[at : at + 44] for at in range(0, len(drawn), 44))
        return os.urandom(44)


class SubjectKeys:
    """The keys of all subjects of one journal. Safe to use from several threads."""

    def __init__(
        self,
        journal: Path,
        master: MasterKey,
        worker: str = "",
        *,
        durable: bool = False,
        slots_per_file: int = SLOTS_PER_FILE,
    ) -> None:
        """worker: keys are made under this name, which must be the process's own; without it nothing can be sealed.
        durable: keys are to survive the loss of power (see `sync`). Raises RecordError: also when the keys that are
        there belong to another master key."""
        self._directory, self._master, self._worker = Path(journal) / DIRECTORY, master, worker
        self._durable, self._slots_per_file = durable, slots_per_file
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        # The oldest is found at once, which a plain dict has to search for.
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._readers: dict[bytes, int] = {}
        self._fd, self._file_id, self._next, self._number = -1, b"", 0, 0
        self._left: list[int] = []
        self._dirty: set[int] = set()
        self._generation: mmap.mmap | None = None
        try:
            if worker:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in key_files(self._directory):
                head = read_header(path)
                if head is not None and head.fingerprint != master.fingerprint:
                    raise RecordError(f"{path} belongs to another master key: restore the one that it was made with")
            if worker:
                with self._alone():
                    self._generation = _map_generation(self._directory)
                self._go_on()
        except OSError as e:
            raise RecordError(f"the keys of subjects in {self._directory} cannot be used: {e.strerror}") from e

    def seal(self, decision_id: str, subject: str, personal: bytes, country: str = "") -> bytes:
        """The personal part of a record, sealed. country: at most 8 bytes; for how long the key is kept (`expire`).

        In durable mode the key is so only after `sync`. Raises RecordError.
        """
        held, drawn, generation = self._cache.get(subject), _draw(), self._generation
        if generation is None:
            raise RecordError("these keys are for reading: nothing can be sealed")
        now = generation[:_GENERATION_BYTES]
        try:
            if held is None or held.until_s < time.monotonic():
                held = self._make(subject, country, drawn[_NONCE_BYTES:], now)
            elif held.generation != now:
                if os.pread(held.fd, 1, slot_offset(held.slot)) == _LIVE_BYTE:
                    held = self._keep(subject, held._replace(generation=now))
                else:
                    held = self._make(subject, country, drawn[_NONCE_BYTES:], now)
        except OSError as e:
            raise RecordError(f"the key of a subject cannot be written: {e.strerror}") from e
        return _encrypt(held, drawn[:_NONCE_BYTES], decision_id, personal)

    def seal_many(self, items: Sequence[tuple[str, str, bytes, str]]) -> list[bytes | RecordError]:
        """`seal` for (decision id, subject, personal, country): new keys are written together. In order, with what
        `seal` would raise in its place."""
        generation, cache = self._generation, self._cache
        now_s = time.monotonic()
        now = b"" if generation is None else generation[:_GENERATION_BYTES]
        fresh: dict[str, str] = {}
        for _, subject, _, country in items:
            held = cache.get(subject)
            if held is None or held.until_s < now_s:
                fresh.setdefault(subject, country)
        made: dict[str, _Cached] = {}
        if len(fresh) > 1 and generation is not None:
            # Where they cannot be written together, each is tried alone below.
            with contextlib.suppress(OSError):
                made = self._make_many(fresh, now)
        sealed: list[bytes | RecordError] = []
        for decision_id, subject, personal, country in items:
            new = made.get(subject)
            try:
                if new is None:
                    sealed.append(self.seal(decision_id, subject, personal, country))
                else:
                    sealed.append(_encrypt(new, _draw()[:_NONCE_BYTES], decision_id, personal))
            except RecordError as error:
                sealed.append(error)
        return sealed

    def unseal(self, decision_id: str, sealed: bytes) -> bytes | None:
        """The personal part; None when its key was erased. Raises KeyNotHere when the key is not among these,
        RecordError when the part does not open."""
        key = self.key_of(sealed)
        return None if key is None else open_sealed(self._master, key.secret, decision_id, parse_sealed(sealed))

    def key_of(self, sealed: bytes) -> KeySlot | None:
        """What is kept of the key of a sealed part; None when it was erased. Raises KeyNotHere, RecordError."""
        part = parse_sealed(sealed)
        try:
            fd = self._readers.get(part.file_id)
            return read_slot(self._open_reader(part.file_id) if fd is None else fd, part.slot)
        except OSError as e:
            raise RecordError(f"the key of a record cannot be read: {e.strerror}") from e

    def sync(self) -> None:
        """Make the keys made so far durable. Raises OSError."""
        with self._sync_lock:
            for fd in tuple(self._dirty):
                self._dirty.discard(fd)
                try:
                    os.fdatasync(fd)
                except BaseException:
                    self._dirty.add(fd)
                    raise

    def erase(self, subject: str) -> int:
        """Delete all keys of a subject, whichever worker made them; how many there were. They are gone for good when
        this returns. Raises RecordError: some may be left, repeat the call."""
        mark = self._master.subject_mark(subject)
        with self._lock:
            self._cache.pop(subject, None)
        try:
            with self._alone():
                gone = sum(erase_slots(path, slots_of(path, mark)) for path in key_files(self._directory))
                _next_generation(self._directory)
                return gone
        except OSError as e:
            raise RecordError(f"the keys of the subject cannot be deleted: {e.strerror}") from e

    def expire(self, now_us: int, retain_days: Mapping[str, int]) -> int:
        """Delete the keys whose records are all older than their country's days; "" stands for countries that are not
        named, 0 days keep for ever. A file without any key left gives its space back. How many keys were deleted.
        Raises RecordError."""
        gone = 0
        try:
            with self._alone():
                for path in key_files(self._directory):
                    old = []
                    for slot, key in live_slots(path):
                        days = retain_days.get(key.country, retain_days.get("", 0))
                        # A key is used for a day.
                        if days > 0 and key.created_us + (days + 1) * _US_PER_DAY < now_us:
                            old.append(slot)
                    gone += erase_slots(path, old)
                    give_back(path, self._slots_per_file)
                _next_generation(self._directory)
        except OSError as e:
            raise RecordError(f"old keys cannot be deleted: {e.strerror}") from e
        return gone

    def close(self) -> None:
        """Let go. Harmless when repeated. Raises OSError."""
        try:
            if self._durable and self._fd >= 0:
                self.sync()
        finally:
            generation, self._generation = self._generation, None
            if generation is not None:
                generation.close()
            fds = [*self._left, *self._readers.values(), *([self._fd] if self._fd >= 0 else [])]
            self._left, self._fd = [], -1
            self._readers.clear()
            self._cache.clear()
            for fd in fds:
                os.close(fd)

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

    def _go_on(self) -> None:
        """Go on in the worker's last file, over what a crash left half-written."""
        own = [path for path in key_files(self._directory) if path.stem.rpartition("-")[0] == self._worker]
        if not own:
            return
        self._number = int(own[-1].stem.rpartition("-")[2])
        head = read_header(own[-1])
        count = max(0, own[-1].stat().st_size - HEADER_BYTES) // SLOT_BYTES
        if head is None or head.flags & EMPTIED or head.boot != boot_mark() or count >= self._slots_per_file:
            return
        self._fd, self._file_id = os.open(own[-1], os.O_RDWR | os.O_CLOEXEC), head.file_id
        os.ftruncate(self._fd, slot_offset(count))
        self._next = count
        self._dirty.add(self._fd)

    def _make(self, subject: str, country: str, secret: bytes, generation: bytes) -> _Cached:
        """A new key for a subject. Two threads may make two: both are the subject's."""
        cipher = AESGCM(self._master.wrap_key(secret))
        content = pack_slot(country, self._master.subject_mark(subject), secret)
        with self._lock:
            if self._fd < 0 or self._next >= self._slots_per_file:
                self._next_file()
            fd, file_id, slot = self._fd, self._file_id, self._next
            self._next = slot + 1
        # Not under the lock: the call lets go of the interpreter. Should it fail, the slot stays empty.
        if os.pwrite(fd, content, slot_offset(slot)) != len(content):
            raise OSError(28, "only a part could be written")
        if self._durable:
            self._dirty.add(fd)
        return self._keep(subject, _Cached(cipher, fd, file_id, slot, time.monotonic() + REUSE_S, generation))

    def _make_many(self, subjects: Mapping[str, str], generation: bytes) -> dict[str, _Cached]:
        """New keys for subjects, written in one go, by subject: for as many as the file has room for. subjects: with
        their countries. Raises OSError."""
        master = self._master
        with self._lock:
            if self._fd < 0 or self._next >= self._slots_per_file:
                self._next_file()
            fd, file_id, first = self._fd, self._file_id, self._next
            chosen = list(subjects.items())[: self._slots_per_file - first]
            self._next = first + len(chosen)
        secrets = [_draw()[_NONCE_BYTES:] for _ in chosen]
        made_us = time.time_ns() // 1000
        content = b"".join(
            [
                pack_slot(country, master.subject_mark(subject), secret, made_us)
                for (subject, country), secret in zip(chosen, secrets, strict=True)
            ]
        )
        if os.pwrite(fd, content, slot_offset(first)) != len(content):
            raise OSError(28, "only a part could be written")
        if self._durable:
            self._dirty.add(fd)
        until_s = time.monotonic() + REUSE_S
        made = {
            subject: _Cached(AESGCM(master.wrap_key(secret)), fd, file_id, slot, until_s, generation)
            for slot, ((subject, _), secret) in enumerate(zip(chosen, secrets, strict=True), first)
        }
        with self._lock:
            self._cache.update(made)
            self._trim()
        return made

    def _keep(self, subject: str, made: _Cached) -> _Cached:
        with self._lock:
            self._cache[subject] = made
            self._trim()
        return made

    def _trim(self) -> None:
        """Holds the lock."""
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    def _next_file(self) -> None:
        """Holds the lock."""
        if self._fd >= 0:
            # Other threads may be about to write to it.
            self._left.append(self._fd)
            self._fd = -1
        number, file_id = self._number + 1, os.urandom(8)
        path = self._directory / f"{self._worker}-{number:08d}{SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            head = pack_header(0, file_id, self._master.fingerprint)
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

    def _open_reader(self, file_id: bytes) -> int:
        for path in key_files(self._directory):
            head = read_header(path)
            if head is not None and head.file_id == file_id:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                held = self._readers.setdefault(file_id, fd)
                if held != fd:
                    os.close(fd)
                return held
        raise KeyNotHere("the key of a record is not among the keys here")


def _encrypt(key: _Cached, nonce: bytes, decision_id: str, personal: bytes) -> bytes:
    """A sealed part."""
    return make_reference(key.file_id, key.slot, nonce) + key.cipher.encrypt(nonce, personal, decision_id.encode())


def _map_generation(directory: Path) -> mmap.mmap:
    """The number of erasures so far, as all processes see it. Raises OSError."""
    fd = os.open(directory / _GENERATION, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < _GENERATION_BYTES:
            # Written and not left a hole: on a full tmpfs, to read a hole through a map is the end of the process.
            os.pwrite(fd, bytes(_GENERATION_BYTES), 0)
        return mmap.mmap(fd, _GENERATION_BYTES, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)


def _next_generation(directory: Path) -> None:
    """Somebody was erased. Only for who keeps others out. Raises OSError."""
    if not directory.is_dir():
        return
    fd = os.open(directory / _GENERATION, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held = int.from_bytes(os.pread(fd, _GENERATION_BYTES, 0), "little")
        os.pwrite(fd, ((held + 1) % (1 << 64)).to_bytes(_GENERATION_BYTES, "little"), 0)
    finally:
        os.close(fd)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
