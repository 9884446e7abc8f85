"""What frames hold: decisions, erasures, and what is declared beside them.

    decision, layout 1    ids, record
    decision, layout 2    ids, length of the sealed part, sealed part, open part of the record

The ids are what a decision is found by: digest of the payload, request key, decision id. A record is one protobuf
message; its open part and its personal part are such that the one after the other is the whole message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engine.errors import RecordError
from engine.record.segments import Frame, Position

_HEAD = struct.Struct("<BBHH")
_PLAIN, _SEALED = 1, 2
_LENGTH = struct.Struct("<I")
_ERASURE = struct.Struct("<Bq16sI")


class KeyNotHere(RecordError):
    """The key of a sealed part is not among the keys that were given: it is another host's, or it was lost."""


class Unsealer(Protocol):
    """What opens the personal part of records."""

    def unseal(self, decision_id: str, sealed: bytes) -> bytes | None:
        """The personal part; None when its key was erased. Raises KeyNotHere, RecordError when it does not open."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One decision as committed: `record` is the serialised DecisionRecord, as much of it as could be opened.

    erased: the personal part is gone with its subject's key. locked: it is sealed, and no key for it was given. sealed:
    the sealed part as it is stored; empty for a record that is stored plain. open_part: what was never sealed.
    """

    position: Position
    decision_id: str
    request_key: bytes
    payload_digest: bytes
    record: bytes
    erased: bool = False
    locked: bool = False
    sealed: bytes = b""
    opened_bytes: int = 0

    @property
    def open_part(self) -> bytes:
        """What was never sealed."""
        return self.record[: len(self.record) - self.opened_bytes]


class Erasure(NamedTuple):
    """That a subject was erased: its keyed hash (see `MasterKey.subject_mark`), when, and how many keys it had."""

    mark: bytes
    moment_us: int
    keys: int


def pack_ids(request_key: bytes, decision_id: str, payload_digest: bytes, sealed: bytes | None = None) -> bytes:
    """What goes before the record, or before its open part where the other part is sealed. Digests have at most 255
    bytes, ids 65,535."""
    raw_id = decision_id.encode()
    layout = _PLAIN if sealed is None else _SEALED
    head = _HEAD.pack(layout, len(payload_digest), len(request_key), len(raw_id))
    if sealed is None:
        return b"".join((head, payload_digest, request_key, raw_id))
    return b"".join((head, payload_digest, request_key, raw_id, _LENGTH.pack(len(sealed)), sealed))


def unpack_decision(frame: Frame, keys: Unsealer | None = None) -> StoredDecision:
    """The decision in a frame of kind DECISION or SHADOW; keys: opens its personal part.

    Raises RecordError for a layout of a newer version, and for a sealed part that does not open with its key.
    """
    payload, at = frame.payload, frame.position
    try:
        layout, digest_bytes, key_bytes, id_bytes = _HEAD.unpack_from(payload)
        key_at = _HEAD.size + digest_bytes
        id_at = key_at + key_bytes
        record_at = id_at + id_bytes
        decision_id = payload[id_at:record_at].decode()
        digest, request_key = payload[_HEAD.size : key_at], payload[key_at:id_at]
        if layout == _PLAIN and len(payload) >= record_at:
            return StoredDecision(at, decision_id, request_key, digest, payload[record_at:])
        if layout != _SEALED:
            raise ValueError(f"layout {layout}")
        (sealed_bytes,) = _LENGTH.unpack_from(payload, record_at)
        open_at = record_at + _LENGTH.size + sealed_bytes
        if len(payload) < open_at:
            raise ValueError("cut short")
    except (struct.error, ValueError) as e:
        raise RecordError(f"the decision at {at.segment}:{at.offset} is of a form not known here: {e}") from e
    sealed, open_part = payload[record_at + _LENGTH.size : open_at], payload[open_at:]
    return unseal(StoredDecision(at, decision_id, request_key, digest, open_part, sealed=sealed), keys)


def unseal(stored: StoredDecision, keys: Unsealer | None) -> StoredDecision:
    """A decision with its personal part, as far as it opens. Raises RecordError when that was altered."""
    personal, erased, locked = b"", False, False
    if stored.sealed:
        try:
            opened = None if keys is None else keys.unseal(stored.decision_id, stored.sealed)
            erased, locked = keys is not None and opened is None, keys is None
            personal = opened or b""
        except KeyNotHere:
            locked = True
    return StoredDecision(
        stored.position,
        stored.decision_id,
        stored.request_key,
        stored.payload_digest,
        stored.open_part + personal,
        erased,
        locked,
        stored.sealed,
        len(personal),
    )


def pack_erasure(erasure: Erasure) -> bytes:
    """The payload of an ERASED frame: nothing personal."""
    return _ERASURE.pack(1, erasure.moment_us, erasure.mark, erasure.keys)


def unpack_erasure(frame: Frame) -> Erasure:
    """The erasure in a frame of kind ERASED. Raises RecordError for one of a newer version."""
    try:
        layout, moment_us, mark, keys = _ERASURE.unpack(frame.payload)
    except struct.error as e:
        raise RecordError(f"the erasure at {frame.position} is of a form not known here") from e
    if layout != 1:
        raise RecordError(f"the erasure at {frame.position} is of a form not known here")
    return Erasure(mark, moment_us, keys)


def pack_declared(digest: str) -> bytes:
    """What goes before the payload of a catalogue or environment: its digest."""
    raw = digest.encode()
    return bytes((len(raw),)) + raw


def unpack_declared(payload: bytes) -> tuple[str, bytes]:
    """Digest and payload of a catalogue or environment."""
    end = 1 + payload[0]
    return payload[1:end].decode(), payload[end:]
