"""Pieces of protobuf's wire format (protobuf.dev, "Encoding"), for messages that are put together by hand.

Making message objects costs several times what their bytes do. Tests hold every piece against the library.
"""

from __future__ import annotations

import struct

DOUBLE = struct.Struct("<d").pack

_SMALL = 1 << 14
_WORD = 1 << 64


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# Numbers of fourteen bits; and the same as the low end of larger ones, with more to follow.
VARINTS = tuple(_varint(value) for value in range(_SMALL))
LOW_ENDS = tuple(bytes((value & 0x7F | 0x80, value >> 7 | 0x80)) for value in range(_SMALL))


def varint(value: int) -> bytes:
    """A whole number; a negative one as its 64-bit two's complement. Raises OverflowError beyond 64 bits."""
    if 0 <= value < _SMALL:
        return VARINTS[value]
    if not -(_WORD >> 1) <= value < _WORD:
        raise OverflowError("a whole number beyond 64 bits")
    if value < 0:
        value += _WORD
    high = value >> 14
    return LOW_ENDS[value & 0x3FFF] + (VARINTS[high] if high < _SMALL else varint(high))


def field(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field: a text, bytes, a message or packed numbers."""
    size = len(content)
    return tag + (VARINTS[size] if size < _SMALL else varint(size)) + content
