"""Pieces of protobuf's wire format, for messages that are put together from parts that never change.

Making a message object for each reason, score and rule of an answer costs several times what the answer's bytes do.
The format is public and fixed (protobuf.dev, "Encoding"); tests hold every piece against the library.
"""

from __future__ import annotations

import struct

DOUBLE = struct.Struct("<d").pack
_NANOS_PER_S = 1_000_000_000
_SMALL = 1 << 14


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = tuple(_varint(value) for value in range(_SMALL))


def varint(value: int) -> bytes:
    """A whole number; a negative one as its 64-bit two's complement."""
    if 0 <= value < _SMALL:
        return _VARINTS[value]
    return _varint(value if value >= 0 else value + (1 << 64))


def field(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field: a string, bytes, a message or packed numbers."""
    size = len(content)
    return tag + (_VARINTS[size] if size < _SMALL else _varint(size)) + content


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
