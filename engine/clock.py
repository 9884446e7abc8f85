"""Time and ids: the two things that a shell hands to the pure middle."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """Where moments come from."""

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        ...

    def tick_ns(self) -> int:
        """A monotonic count of nanoseconds, for measuring spans of time."""
        ...


class SystemClock:
    """The machine's own clock."""

    @staticmethod
    def now_us() -> int:
        """See `Clock.now_us`."""
        return time.time_ns() // 1000

    tick_ns = staticmethod(time.perf_counter_ns)


def new_decision_id(now_us: int) -> str:
    """A UUID of version 7 (RFC 9562): sortable by time, unguessable by the rest. 36 characters."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (now_us // 1000 & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random & 0x3FFFFFFFFFFFFFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
