"""Fields of records and answers in protobuf's wire format, made from `engine.wire`'s pieces."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from engine.wire import DOUBLE, LOW_ENDS, VARINTS, field, varint

__all__ = ["DOUBLE", "doubles", "field", "moment", "span", "span_content", "text", "varint", "whole_numbers"]

_NANOS_PER_S = 1_000_000_000
_FEW = 64
_DOUBLES = tuple(struct.Struct(f"<{count}d").pack for count in range(_FEW))
_WHOLE = tuple(struct.Struct(f"<{count}q").pack for count in range(_FEW))


def text(tag: bytes, value: str) -> bytes:
    """A string field; nothing for an empty one."""
    return field(tag, value.encode()) if value else b""


def doubles(values: Sequence[float]) -> bytes:
    """The content of a field of packed doubles."""
    count = len(values)
    return _DOUBLES[count](*values) if count < _FEW else struct.pack(f"<{count}d", *values)


def whole_numbers(values: Sequence[int]) -> bytes:
    """The content of a field of packed sfixed64."""
    count = len(values)
    return _WHOLE[count](*values) if count < _FEW else struct.pack(f"<{count}q", *values)


def _long_span(nanos: int) -> bytes:
    seconds, rest = divmod(nanos, _NANOS_PER_S)
    content = b"\x08" + varint(seconds) if seconds else b""
    return field(b"", content + b"\x10" + varint(rest) if rest else content)


# Below 16 microseconds.
_SHORT_SPANS = tuple(_long_span(nanos) for nanos in range(len(VARINTS)))


def span_content(nanos: int) -> bytes:
    """A google.protobuf.Duration (or, with nanoseconds since 1970, a Timestamp) behind its tag: its length, and in it
    seconds = 1, nanos = 2."""
    high = nanos >> 14
    if high == 0:
        return _SHORT_SPANS[nanos]
    if 0 < high < 0x4000:
        # Up to a quarter of a second: no seconds, and 3 or 4 bytes of nanoseconds.
        return (b"\x04\x10" if high < 0x80 else b"\x05\x10") + LOW_ENDS[nanos & 0x3FFF] + VARINTS[high]
    return _long_span(nanos)


def span(tag: bytes, nanos: int) -> bytes:
    """The same as a field."""
    return tag + span_content(nanos)


@lru_cache(maxsize=64)
def moment(moment_us: int) -> bytes:
    """A Timestamp behind its tag. Decisions that are made together are of one moment."""
    return span_content(moment_us * 1000)
