"""The files that hold the keys of subjects: how they are laid out, read and erased.

    keys/<worker>-<number>.keys    header, slot, slot, ...
    slot                           state, country, created, subject's keyed hash, secret, CRC-32
    sealed part                    version, key file's id, slot number, nonce, AES-256-GCM(personal part)

A slot's secret gives the key together with the master key, and is worth nothing without it. An erased slot is
overwritten where it stands. The decision id is authenticated with the sealed part.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import time
import uuid
from collections.abc import Iterator
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
LIVE, ERASED = 1, 2
# All keys of the file are gone, and its slots with them.
EMPTIED = 1

_MAGIC = b"AsKeys\r\n"
_LAYOUT = 1
_HEADER = struct.Struct("<8sII8s8sq16s4x")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
SLOT = struct.Struct("<B3x8sq16s32s")
SLOT_BYTES = SLOT.size + _CHECK.size
_MARK_AT = 20
REFERENCE = struct.Struct("<B8sQ12s")
_VERSION = 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}-\d{8}")


class KeyFileHead(NamedTuple):
    """What a key file's header says. fingerprint: of the master key; boot: of the machine's run in which it was made.
    After another start slots may be lost, so the file is not gone on with: no slot is ever used for two keys."""

    flags: int
    file_id: bytes
    fingerprint: bytes
    boot: bytes


class KeySlot(NamedTuple):
    """One key that is there. mark: the subject's keyed hash."""

    country: str
    created_us: int
    mark: bytes
    secret: bytes


class SealedPart(NamedTuple):
    """A sealed part, taken apart: which key it was sealed with, and what."""

    file_id: bytes
    slot: int
    nonce: bytes
    content: bytes


def parse_sealed(sealed: bytes) -> SealedPart:
    """Take a sealed part apart. Raises RecordError for one that is cut short or of a newer version."""
    try:
        version, file_id, slot, nonce = REFERENCE.unpack_from(sealed)
    except struct.error as e:
        raise RecordError("a sealed part is cut short") from e
    if version != _VERSION:
        raise RecordError(f"a sealed part of version {version} is not known here")
    return SealedPart(file_id, slot, nonce, sealed[REFERENCE.size :])


def make_reference(file_id: bytes, slot: int, nonce: bytes) -> bytes:
    """What goes before the encrypted bytes of a sealed part."""
    return REFERENCE.pack(_VERSION, file_id, slot, nonce)


def open_sealed(master: MasterKey, secret: bytes, decision_id: str, part: SealedPart) -> bytes:
    """The personal part, by the secret of its slot. Raises RecordError when it does not open."""
    try:
        return AESGCM(master.wrap_key(secret)).decrypt(part.nonce, part.content, decision_id.encode())
    except InvalidTag as e:
        raise RecordError(f"the sealed part of {decision_id} does not open with its key: it was altered") from e


def key_files(directory: Path) -> list[Path]:
    """The key files in a directory, by worker and age; none where there is no directory."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.glob("*" + SUFFIX) if _NAME.fullmatch(path.stem))


def pack_slot(country: str, mark: bytes, secret: bytes, made_us: int = 0) -> bytes:
    """A slot that holds a key. made_us: when it was made, 0 for now."""
    body = SLOT.pack(LIVE, country.encode()[:8], made_us or time.time_ns() // 1000, mark, secret)
    return body + _CHECK.pack(crc32(body))


def parse_slot(raw: bytes) -> KeySlot | None:
    """What a slot holds; None when it was erased. Raises KeyNotHere when it is not whole."""
    if len(raw) < SLOT_BYTES or _CHECK.pack(crc32(raw[: SLOT.size])) != raw[SLOT.size :]:
        raise KeyNotHere("the key of a record is lost or damaged")
    state, country, created_us, mark, secret = SLOT.unpack_from(raw)
    return KeySlot(_country(country), created_us, mark, secret) if state == LIVE else None


def read_slot(fd: int, slot: int) -> KeySlot | None:
    """What a slot of an open key file holds; None when it was erased. Raises KeyNotHere, OSError."""
    raw = os.pread(fd, SLOT_BYTES, slot_offset(slot))
    if len(raw) < SLOT_BYTES:
        head = parse_header(os.pread(fd, HEADER_BYTES, 0))
        if head is not None and head.flags & EMPTIED:
            return None
    return parse_slot(raw)


def slot_offset(slot: int) -> int:
    """Where a slot starts."""
    return HEADER_BYTES + slot * SLOT_BYTES


def pack_header(flags: int, file_id: bytes, fingerprint: bytes) -> bytes:
    """What a key file starts with."""
    body = _HEADER.pack(_MAGIC, _LAYOUT, flags, file_id, fingerprint, time.time_ns() // 1000, boot_mark())
    return body + _CHECK.pack(crc32(body))


def parse_header(raw: bytes) -> KeyFileHead | None:
    """What a key file starts with; None when it does not check out."""
    if len(raw) < HEADER_BYTES or _CHECK.pack(crc32(raw[: _HEADER.size])) != raw[_HEADER.size : HEADER_BYTES]:
        return None
    magic, layout, flags, file_id, fingerprint, _, boot = _HEADER.unpack_from(raw)
    return KeyFileHead(flags, file_id, fingerprint, boot) if magic == _MAGIC and layout == _LAYOUT else None


def read_header(path: Path) -> KeyFileHead | None:
    """The header of a file; None when it does not check out. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return parse_header(file.read(HEADER_BYTES))


def slots_of(path: Path, mark: bytes) -> list[int]:
    """The live slots of a subject. Raises OSError."""
    slots = []
    with _mapped(path) as (content, _):
        at = -1 if content is None else content.find(mark, HEADER_BYTES)
        while content is not None and at >= 0:
            slot, rest = divmod(at - HEADER_BYTES, SLOT_BYTES)
            if rest == _MARK_AT and content[slot_offset(slot)] == LIVE:
                slots.append(slot)
            at = content.find(mark, at + 1)
    return slots


def live_slots(path: Path) -> Iterator[tuple[int, KeySlot]]:
    """Every key that is left. Raises OSError."""
    with _mapped(path) as (content, count):
        for slot in range(count):
            if content is not None and content[slot_offset(slot)] == LIVE:
                _, country, created_us, mark, secret = SLOT.unpack_from(content, slot_offset(slot))
                yield slot, KeySlot(_country(country), created_us, mark, secret)


def erase_slots(path: Path, slots: list[int]) -> int:
    """Overwrite slots, durably; how many. Raises OSError."""
    if not slots:
        return 0
    body = SLOT.pack(ERASED, b"", time.time_ns() // 1000, b"", b"")
    content = body + _CHECK.pack(crc32(body))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for slot in slots:
            os.pwrite(fd, content, slot_offset(slot))
        os.fsync(fd)
    finally:
        os.close(fd)
    return len(slots)


def give_back(path: Path, slots_per_file: int) -> None:
    """Cut a file down to its header when it holds no key any more and takes no further one. Raises OSError."""
    size, head = path.stat().st_size, read_header(path)
    if head is None or size <= HEADER_BYTES or any(True for _ in live_slots(path)):
        return
    if size < slot_offset(slots_per_file) and head.boot == boot_mark():
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(fd, pack_header(EMPTIED, head.file_id, head.fingerprint), 0)
        os.fsync(fd)
        os.ftruncate(fd, HEADER_BYTES)
        os.fsync(fd)
    finally:
        os.close(fd)


def boot_mark() -> bytes:
    """What changes when the machine starts anew; never the same twice where the system does not say."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except (OSError, ValueError):
        return os.urandom(16)


def _country(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[tuple[mmap.mmap | None, int]]:
    """A key file's bytes and how many whole slots they hold."""
    with path.open("rb") as file:
        count = max(0, os.fstat(file.fileno()).st_size - HEADER_BYTES) // SLOT_BYTES
        if not count:
            yield None, 0
            return
        with mmap.mmap(file.fileno(), slot_offset(count), access=mmap.ACCESS_READ) as content:
            yield content, count
