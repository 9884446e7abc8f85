"""As much of HPACK (RFC 7541) as a load generator for gRPC needs.

Requests are written the way gRPC's own clients write them: the first call on a connection puts every header into the
dynamic table, later calls name each by its index. Answers are read only for `:status` and `grpc-status`.
"""

from __future__ import annotations

from dataclasses import dataclass

_STATIC_ENTRIES = 61
# The only entries of the static table whose meaning matters here; the rest is skipped.
_STATIC_STATUS = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}
_ENTRY_OVERHEAD = 32
_TABLE_BYTES = 4096


class HpackError(ValueError):
    """A header block that this reader does not understand."""


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The header block of the first call on a connection, and that of every later one."""

    first: bytes
    later: bytes


def request_headers(headers: list[tuple[str, str]]) -> RequestHeaders:
    """Encodes fixed request headers for one connection.

    Raises HpackError when they do not all fit the dynamic table that every peer has to keep (4,096 bytes).
    """
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    if sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in pairs) > _TABLE_BYTES:
        raise HpackError("the request headers do not fit the peer's dynamic table")
    first = b"".join(b"\x40" + _string(name) + _string(value) for name, value in pairs)
    # The newest entry has the lowest index, so the first header stands deepest.
    newest = _STATIC_ENTRIES + len(pairs)
    later = b"".join(_integer(newest - place, 7, 0x80) for place in range(len(pairs)))
    return RequestHeaders(first, later)


class HeaderReader:
    """Reads the answers' header blocks of one connection, in order."""

    def __init__(self) -> None:
        self._table: list[tuple[bytes, bytes]] = []
        self._bytes = 0
        self._limit = _TABLE_BYTES
        self._known: dict[bytes, tuple[bytes | None, bytes | None]] = {}

    def read(self, block: bytes) -> tuple[bytes | None, bytes | None]:
        """Returns the values of `:status` and `grpc-status`, None for one that the block does not hold.

        A block seen before means the same until an entry joins the table: that makes the usual answer one look-up.
        """
        known = self._known.get(block)
        if known is None:
            known, changed = self._parse(block)
            if changed:
                self._known.clear()
            elif len(self._known) < 1024:
                self._known[block] = known
        return known

    def _parse(self, block: bytes) -> tuple[tuple[bytes | None, bytes | None], bool]:
        status = grpc_status = None
        changed = False
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _read_integer(block, at, 7)
                name, value = self._entry(index)
            elif first & 0xE0 == 0x20:
                self._limit, at = _read_integer(block, at, 5)
                self._evict()
                changed = True
                continue
            else:
                insert = bool(first & 0x40)
                index, at = _read_integer(block, at, 6 if insert else 4)
                if index:
                    name, plain_name = self._entry(index)[0], True
                else:
                    name, plain_name, at = _read_string(block, at)
                value, plain_value, at = _read_string(block, at)
                if insert:
                    if not (plain_name and plain_value):
                        raise HpackError("a Huffman-coded header for the dynamic table: not written by a gRPC server")
                    self._table.insert(0, (name, value))
                    self._bytes += len(name) + len(value) + _ENTRY_OVERHEAD
                    self._evict()
                    changed = True
            if name == b":status":
                status = value
            elif name == b"grpc-status":
                grpc_status = value
        return (status, grpc_status), changed

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if index <= _STATIC_ENTRIES:
            value = _STATIC_STATUS.get(index)
            return (b":status", value) if value is not None else (b"#static", b"")
        place = index - _STATIC_ENTRIES - 1
        if place >= len(self._table):
            raise HpackError(f"header index {index} is beyond the table")
        return self._table[place]

    def _evict(self) -> None:
        while self._bytes > self._limit:
            name, value = self._table.pop()
            self._bytes -= len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(value: int, bits: int, pattern: int) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([pattern | value])
    out = bytearray([pattern | limit])
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _read_string(block: bytes, at: int) -> tuple[bytes, bool, int]:
    """Returns the bytes, whether they are plain (not Huffman-coded, which is left as it is), and the next place."""
    plain = not block[at] & 0x80
    length, at = _read_integer(block, at, 7)
    return block[at : at + length], plain, at + length
