"""Rows with nothing but an event time and some bytes, and the sockets of this process, for tests of stores."""

from __future__ import annotations

import os
import struct
import time

from engine.features.store import EVENT_TIME_OFFSET, Row, row_key


def value(event_time_us: int, rest: bytes = b"") -> bytes:
    """A value whose header holds the event time."""
    return b"\0" * EVENT_TIME_OFFSET + struct.pack("<q", event_time_us) + rest


def row(entity_id: str, event_time_us: int, rest: bytes = b"", view: str = "bureau") -> Row:
    """A row of one view of a subject."""
    return Row(row_key("subject", entity_id, view), value(event_time_us, rest), event_time_us)


def sockets() -> int:
    """How many sockets this process has open."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except FileNotFoundError:  # that of the directory itself
            continue
    return found


def closed_down_to(count: int, timeout_s: float = 60.0) -> bool:
    """Whether no more than `count` sockets are open, soon: a connection that is being opened ends by itself."""
    deadline_s = time.monotonic() + timeout_s
    while sockets() > count:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True
