"""Who a record is about, without naming anybody: keyed hashes, and the keys that personal parts are sealed with.

What is shipped of a key gives it together with the master key alone, which is never shipped. A subject's keyed hash is
the same on every host with that master key, so that a person's records are found, and erased, wherever they were made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.errors import RecordError
from engine.record.entries import KeyNotHere, StoredDecision
from engine.record.master import MasterKey
from engine.record.subject_keys import _LIVE, _REF, _SLOT, DIRECTORY, HEADER_BYTES, SLOT_BYTES, SUFFIX, SubjectKeys
from engine.record.subject_keys import _read_header as read_key_file_header

_KEY_ID = struct.Struct(">8sQ")


class SubjectKey(NamedTuple):
    """One key of a subject. key_id: what sealed parts name it by; subject: the keyed hash; wrapped: what gives the key
    together with the master key, and nothing without it; country: whose retention holds."""

    key_id: bytes
    subject: bytes
    created_us: int
    wrapped: bytes
    country: str = ""


class Subject(NamedTuple):
    """What may be known of a decision's subject. mark: its keyed hash, b"" when it is not known (no longer, after an
    erasure); country: whose retention holds; key: None where nothing is sealed, or the key is gone."""

    mark: bytes = b""
    country: str = ""
    key: SubjectKey | None = None


NOBODY = Subject()


class Subjects(Protocol):
    """What the shipper needs to know of subjects."""

    def of(self, stored: StoredDecision, record: record_pb.DecisionRecord | None) -> Subject:
        """The subject of a decision. record: what is not sealed; None when it cannot be read. Raises RecordError."""


class NoSubjects:
    """Nothing is known of subjects: decisions are not found by them, and sealed parts do not open in Cassandra."""

    def of(self, stored: StoredDecision, record: record_pb.DecisionRecord | None) -> Subject:
        """Nobody."""
        return NOBODY


class JournalSubjects:
    """The subjects of a journal's decisions, from the keys beside it. For one thread."""

    def __init__(self, journal: Path, master: MasterKey) -> None:
        self._directory, self._master = Path(journal) / DIRECTORY, master
        self._files: dict[bytes, Path] = {}

    def of(self, stored: StoredDecision, record: record_pb.DecisionRecord | None) -> Subject:
        """By the key that the personal part is sealed with; of a record that is not sealed, by the subject's id."""
        if stored.sealed:
            return self._by_key(key_id_of(stored.sealed))
        subject = "" if record is None else record.application.subject.id
        return Subject(self._master.subject_mark(subject)) if subject else NOBODY

    def _by_key(self, key_id: bytes) -> Subject:
        file_id, slot = _KEY_ID.unpack(key_id)
        path = self._files.get(file_id) or self._find(file_id)
        if path is None:
            return NOBODY  # lost, or let go when its last key was old enough
        try:
            with path.open("rb", buffering=0) as file:
                raw = os.pread(file.fileno(), SLOT_BYTES, HEADER_BYTES + slot * SLOT_BYTES)
        except OSError as e:
            raise RecordError(f"the keys of subjects in {path} cannot be read: {e.strerror}") from e
        if len(raw) < SLOT_BYTES or struct.pack("<I", crc32(raw[: _SLOT.size])) != raw[_SLOT.size :]:
            return NOBODY
        state, country, created_us, mark, secret = _SLOT.unpack_from(raw)
        if state != _LIVE:
            return NOBODY
        name = country.rstrip(b"\0").decode("utf-8", "replace")
        return Subject(mark, name, SubjectKey(key_id, mark, created_us, secret, name))

    def _find(self, file_id: bytes) -> Path | None:
        try:
            for path in self._directory.glob("*" + SUFFIX):
                head = read_key_file_header(path)
                if head is not None:
                    self._files[head.file_id] = path
        except OSError as e:
            raise RecordError(f"the keys of subjects in {self._directory} cannot be read: {e.strerror}") from e
        return self._files.get(file_id)


class KeyOpener:
    """Opens sealed parts of any host with what lies in Cassandra. master: the key of all these hosts. local: the keys
    of this one, which are asked first."""

    def __init__(self, master: MasterKey, local: SubjectKeys | None = None) -> None:
        self._master, self.local = master, local

    def open(self, decision_id: str, sealed: bytes, wrapped: bytes) -> bytes:
        """The personal part. Raises RecordError when it does not open."""
        nonce = _REF.unpack_from(sealed)[3]
        try:
            cipher = AESGCM(self._master.wrap_key(wrapped))
            return cipher.decrypt(nonce, sealed[_REF.size :], decision_id.encode())
        except InvalidTag as e:
            raise RecordError(
                f"the sealed part of {decision_id} does not open with its key: it was altered, or the master key is not"
                " the one that it was sealed with"
            ) from e


class ShippedKeys:
    """Opens what is sealed about one subject, with the keys in Cassandra."""

    def __init__(self, opener: KeyOpener, subject: bytes, find: Callable[[bytes, bytes], SubjectKey | None]) -> None:
        """find: a subject's key by its id, None when it was erased."""
        self._opener, self._subject, self._find = opener, subject, find

    def unseal(self, decision_id: str, sealed: bytes) -> bytes | None:
        """The personal part; None when its key was erased. Raises RecordError."""
        if self._opener.local is not None:
            try:
                return self._opener.local.unseal(decision_id, sealed)
            except KeyNotHere:
                pass  # another host's
        key = self._find(self._subject, key_id_of(sealed)) if self._subject else None
        return None if key is None else self._opener.open(decision_id, sealed, key.wrapped)


def key_id_of(sealed: bytes) -> bytes:
    """What a sealed part names its key by. Raises RecordError."""
    try:
        _, file_id, slot, _ = _REF.unpack_from(sealed)
    except struct.error as e:
        raise RecordError("a sealed part is cut short") from e
    return _KEY_ID.pack(file_id, slot)
