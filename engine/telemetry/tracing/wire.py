"""Pieces of protobuf's wire format (protobuf.dev, "Encoding"), as far as OTLP's trace messages need them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from engine.wire import DOUBLE, field, varint

FIXED64 = struct.Struct("<Q").pack

_WORD = 1 << 64


def varint64(value: int) -> bytes:
    """A signed whole number. Raises OverflowError beyond 64 bits."""
    if not -(_WORD >> 1) <= value < _WORD >> 1:
        raise OverflowError("a signed whole number beyond 64 bits")
    return varint(value)


def text_field(tag: bytes, text: str) -> bytes:
    """A text outside of a `oneof`: nothing at all when it is empty. Halves of surrogate pairs, which no UTF-8 can
    hold, become question marks."""
    return field(tag, text.encode("utf-8", "replace")) if text else b""


def count_field(tag: bytes, count: int) -> bytes:
    """A whole number outside of a `oneof`: nothing at all when it is 0."""
    return tag + varint(count) if count else b""


def any_value(value: Any) -> bytes:
    """The content of an AnyValue. Raises TypeError for what is no attribute's value, OverflowError beyond 64 bits."""
    kind = type(value)
    if kind is str:
        return field(b"\x0a", value.encode("utf-8", "replace"))
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int:
        return b"\x18" + varint64(value)
    if kind is float:
        return b"\x21" + DOUBLE(value)
    if value is None:
        return b""
    if kind is bytes:
        return field(b"\x3a", value)
    return _other_value(value)


def _other_value(value: Any) -> bytes:
    """Collections, and subclasses of the plain types (enumerations for one)."""
    if isinstance(value, str):
        return any_value(str(value))
    if isinstance(value, int):
        return any_value(int(value))
    if isinstance(value, float):
        return any_value(float(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return any_value(bytes(value))
    if isinstance(value, Mapping):
        return field(b"\x32", b"".join(key_value(b"\x0a", str(k), v) for k, v in value.items()))
    if isinstance(value, Sequence):
        return field(b"\x2a", b"".join(field(b"\x0a", any_value(one)) for one in value))
    raise TypeError(f"a {type(value).__name__} is no attribute's value")


def key_value(tag: bytes, key: str, value: Any) -> bytes:
    """A KeyValue as the field `tag` of its owner. Raises what `any_value` raises."""
    return field(tag, text_field(b"\x0a", key) + field(b"\x12", any_value(value)))


def read_varint(content: bytes, at: int) -> tuple[int, int]:
    """The whole number at a place, and the place after it. Raises ValueError where there is none."""
    value = shift = 0
    while at < len(content) and shift < 64:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no whole number here")


def read_fields(content: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a small message: number, and a whole number or bytes. Raises ValueError for what is no message."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(content):
        tag, at = read_varint(content, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = read_varint(content, at)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if tag & 7 == 2:
                size, at = read_varint(content, at)
            if size is None or at + size > len(content):
                raise ValueError("no message of protobuf")
            value, at = content[at : at + size], at + size
        found.append((tag >> 3, value))
    return found
