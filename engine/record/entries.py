"""What a decision's frame holds: the ids that it is found by, then the record's own bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from engine.errors import RecordError
from engine.record.segments import Frame, Position

_HEAD = struct.Struct("<BBHH")
_LAYOUT = 1


class Unsealer(Protocol):
    """What opens the personal part of records."""

    def unseal(self, decision_id: str, sealed: bytes) -> bytes | None:
        """The personal part; None when its key was erased. Raises RecordError when it does not open."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One decision as committed: `record` is the serialised DecisionRecord.

    erased: the personal part is gone with its subject's key; `record` is what was never sealed.
    """

    position: Position
    decision_id: str
    request_key: bytes
    payload_digest: bytes
    record: bytes
    erased: bool = False


def pack_ids(request_key: bytes, decision_id: str, payload_digest: bytes) -> bytes:
    """What goes before the record. Digests have at most 255 bytes, ids 65,535."""
    raw_id = decision_id.encode()
    head = _HEAD.pack(_LAYOUT, len(payload_digest), len(request_key), len(raw_id))
    return b"".join((head, payload_digest, request_key, raw_id))


def unpack_decision(frame: Frame) -> StoredDecision:
    """The decision in a frame. Raises RecordError for a layout of a newer version."""
    payload = frame.payload
    try:
        layout, digest_bytes, key_bytes, id_bytes = _HEAD.unpack_from(payload)
        key_at = _HEAD.size + digest_bytes
        id_at = key_at + key_bytes
        record_at = id_at + id_bytes
        if layout != _LAYOUT or len(payload) < record_at:
            raise ValueError(f"layout {layout}")
        decision_id = payload[id_at:record_at].decode()
    except (struct.error, ValueError) as e:
        at = frame.position
        raise RecordError(f"the decision at {at.segment}:{at.offset} is of a form not known here: {e}") from e
    return StoredDecision(
        frame.position, decision_id, payload[key_at:id_at], payload[_HEAD.size : key_at], payload[record_at:]
    )
