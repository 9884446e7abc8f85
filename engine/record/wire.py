"""Fields of records and answers in protobuf's wire format, made from `engine.wire`'s pieces."""

from __future__ import annotations

import struct

from engine.wire import DOUBLE, field, varint

__all__ = ["DOUBLE", "doubles", "field", "span", "text", "varint"]

_NANOS_PER_S = 1_000_000_000


def text(tag: bytes, value: str) -> bytes:
    """A string field; nothing for an empty one."""
    return field(tag, value.encode()) if value else b""


def doubles(tag: bytes, values: list[float]) -> bytes:
    """Packed doubles; nothing for none."""
    return field(tag, struct.pack(f"<{len(values)}d", *values)) if values else b""


def span(tag: bytes, nanos: int) -> bytes:
    """A google.protobuf.Duration (or, with nanoseconds since 1970, a Timestamp): seconds = 1, nanos = 2."""
    seconds, rest = divmod(nanos, _NANOS_PER_S)
    content = b"\x08" + varint(seconds) if seconds else b""
    if rest:
        content += b"\x10" + varint(rest)
    return field(tag, content)
