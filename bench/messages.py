"""The requests that the generator sends: prepared messages with a marker where each call's own id goes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from bench.hpack import RequestHeaders

ID_MARKER = b"bench-" + b"0" * 24
DECIDE_PATH = "/assay.decision.v1.DecisionService/Decide"

_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 0x1, 0x4
_FRAME_BYTES_MAX = 16_384


class GeneratorError(RuntimeError):
    """The run cannot go on or its figures would mean nothing."""


class RequestWriter:
    """Turns a stream id into the bytes of one call: HEADERS, and DATA with the next message and a fresh id."""

    def __init__(self, requests: tuple[bytes, ...], headers: RequestHeaders) -> None:
        self._headers = headers
        self._messages: list[tuple[bytes, bytes, bytes]] = []
        for message in requests:
            before, marker, after = message.partition(ID_MARKER)
            if not marker or ID_MARKER in after:
                raise GeneratorError(f"a request must hold the marker {ID_MARKER.decode()} exactly once")
            if len(message) + 5 > _FRAME_BYTES_MAX:
                raise GeneratorError("a request must fit one frame of 16,384 bytes")
            data_head = struct.pack(">I", len(message) + 5)[1:] + bytes([_DATA, _END_STREAM])
            prefix = b"\x00" + struct.pack(">I", len(message)) + before + b"bench-"
            self._messages.append((data_head, prefix, after))
        # Ids never repeat within a run, nor, for all practical purposes, across runs against one server.
        self._run = os.urandom(8).hex().encode()
        self.sent = 0
        self.largest = max(map(len, requests)) + 5

    def write(self, stream: int, *, first: bool) -> bytes:
        block = self._headers.first if first else self._headers.later
        data_head, prefix, after = self._messages[self.sent % len(self._messages)]
        number = b"%08x" % self.sent
        self.sent += 1
        identifier = stream.to_bytes(4, "big")
        head = len(block).to_bytes(3, "big") + bytes([_HEADERS, _END_HEADERS])
        return b"".join((head, identifier, block, data_head, identifier, prefix, self._run, number, after))


def write_requests(path: Path, requests: list[bytes]) -> None:
    """Writes requests the way `--requests` reads them."""
    path.write_bytes(b"".join(struct.pack(">I", len(message)) + message for message in requests))


def read_requests(path: Path) -> tuple[bytes, ...]:
    """Reads a file of `write_requests`. Raises GeneratorError when it is cut off or empty."""
    data, at, requests = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        requests.append(data[at + 4 : at + 4 + length])
        if len(requests[-1]) != length:
            raise GeneratorError(f"{path} is cut off")
        at += 4 + length
    if not requests:
        raise GeneratorError(f"{path} holds no request")
    return tuple(requests)
