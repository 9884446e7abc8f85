"""A request id's row in a feature store, and the changes that it goes through. Pure.

    nothing -> HELD by a token -> ANSWERED, for good
                               -> FREE (given back), or HELD by another token once the claim lapsed

    offset  bytes  what
    0       4      "AsC" and the version of this layout (1)
    4       1      state
    5       1      length of the payload's digest
    6       1      length of the decision's id
    7       1      0
    8       4      how long the claim stands, milliseconds
    12      4      length of the whole value
    16      8      event time, microseconds since 1970 UTC: rises with every change
    24      16     token of the holder
    40      8      when the claim lapses by the holder's clock, microseconds since 1970 UTC
    48      ...    digest, decision id, answer
    end-4   4      CRC-32 of all before it

All little-endian. Length, event time and checksum stand where those of every row do.

An ANSWERED row is never changed but to leave its answer out. That alone makes one decision stand: whoever settles
second is told of the first, whatever has become of claims, leases and clocks in between.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

from engine.features.encoding import is_whole
from engine.features.store import Change, StoreCorrupt, event_time_of, key_maker

# The entity of these rows, and their view.
CLAIM_ENTITY, _VIEW = "assay_request", "claim"
MAGIC = b"AsC\x01"
TOKEN_BYTES = 16
NO_TOKEN = bytes(TOKEN_BYTES)
_HEAD = struct.Struct("<4sBBBBIIq16sq")
_CRC_BYTES = 4
_key = key_maker(CLAIM_ENTITY, _VIEW)


class State(IntEnum):
    """What a row says."""

    HELD = 1
    ANSWERED = 2
    FREE = 3


_STATES = frozenset(State)


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One row. until_us: when a claim lapses, by its holder's clock; lease_ms: how long it stands. answer: b"" unless
    it is kept here."""

    state: State
    event_time_us: int
    token: bytes = NO_TOKEN
    lease_ms: int = 0
    until_us: int = 0
    payload_digest: bytes = b""
    decision_id: str = ""
    answer: bytes = b""

    def pack(self) -> bytes:
        """The value as it is stored."""
        raw_id = self.decision_id.encode()
        length = _HEAD.size + len(self.payload_digest) + len(raw_id) + len(self.answer) + _CRC_BYTES
        head = _HEAD.pack(
            MAGIC,
            self.state,
            len(self.payload_digest),
            len(raw_id),
            0,
            self.lease_ms,
            length,
            self.event_time_us,
            self.token,
            self.until_us,
        )
        body = b"".join((head, self.payload_digest, raw_id, self.answer))
        return body + crc32(body).to_bytes(_CRC_BYTES, "little")


def key_for(request_key: bytes) -> bytes:
    """The key of a request's row. It goes by a hash, so that ids of any form and length fit every store."""
    return _key(hashlib.blake2b(request_key, digest_size=20).hexdigest())


def parse(value: bytes | None) -> ClaimRow | None:
    """The row in a value; None for none. Raises StoreCorrupt."""
    if value is None:
        return None
    if len(value) < _HEAD.size + _CRC_BYTES or not is_whole(value) or value[: len(MAGIC)] != MAGIC:
        raise StoreCorrupt("a claim's row cannot be read")
    _, state, digest_bytes, id_bytes, _, lease_ms, length, event_time_us, token, until_us = _HEAD.unpack_from(value)
    id_at = _HEAD.size + digest_bytes
    answer_at = id_at + id_bytes
    if length != len(value) or answer_at > length - _CRC_BYTES:
        raise StoreCorrupt("a claim's row is not as long as it says")
    if state not in _STATES:
        raise StoreCorrupt("a claim's row is of a newer version")
    return ClaimRow(
        State(state),
        event_time_us,
        token,
        lease_ms,
        until_us,
        value[_HEAD.size : id_at],
        value[id_at:answer_at].decode(),
        value[answer_at:-_CRC_BYTES],
    )


@dataclass(frozen=True, slots=True)
class Take:
    """The change that claims a request. lapsed: a token whose claim has lapsed, as its asker saw (NO_TOKEN: none)."""

    token: bytes
    payload_digest: bytes
    lease_ms: int
    now_us: int
    lapsed: bytes = NO_TOKEN

    def __call__(self, value: bytes | None) -> bytes | None:
        """See `engine.features.store.Change`."""
        held = parse(value)
        if held is not None:
            if held.state is State.ANSWERED or held.token == self.token:
                return None
            if held.state is State.HELD and held.token != self.lapsed:
                return None
        until_us = self.now_us + 1000 * self.lease_ms
        row = ClaimRow(State.HELD, _after(value, self.now_us), self.token, self.lease_ms, until_us, self.payload_digest)
        return row.pack()


@dataclass(frozen=True, slots=True)
class Settle:
    """The change that makes a decision stand, unless one does."""

    payload_digest: bytes
    decision_id: str
    answer: bytes
    now_us: int

    def __call__(self, value: bytes | None) -> bytes | None:
        """See `engine.features.store.Change`."""
        held = parse(value)
        if held is not None and held.state is State.ANSWERED:
            return None
        row = ClaimRow(
            State.ANSWERED,
            _after(value, self.now_us),
            payload_digest=self.payload_digest,
            decision_id=self.decision_id,
            answer=self.answer,
        )
        return row.pack()


@dataclass(frozen=True, slots=True)
class Release:
    """The change that gives a claim back, if it is the holder's still."""

    token: bytes
    now_us: int

    def __call__(self, value: bytes | None) -> bytes | None:
        """See `engine.features.store.Change`."""
        held = parse(value)
        if held is None or held.state is not State.HELD or held.token != self.token:
            return None
        return ClaimRow(State.FREE, _after(value, self.now_us)).pack()


def forget_answer(now_us: int) -> Change:
    """The change that takes the answer out of a row, and leaves which decision stands."""

    def change(value: bytes | None) -> bytes | None:
        held = parse(value)
        if held is None or held.state is not State.ANSWERED or not held.answer:
            return None
        row = ClaimRow(
            State.ANSWERED,
            _after(value, now_us),
            payload_digest=held.payload_digest,
            decision_id=held.decision_id,
        )
        return row.pack()

    return change


def _after(value: bytes | None, now_us: int) -> int:
    """Now, or just after the held row, whatever the clock says: tiers tell the newer of two rows by it."""
    return now_us if value is None else max(now_us, event_time_of(value) + 1)
