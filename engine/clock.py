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


# Random digits, drawn for many ids at once: every draw is a system call that lets go of the interpreter. What is taken
# is never given again, also not by a child of this process.
_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)
_RANDOM_BYTES, _RANDOM_DIGITS = 10, 20
# Two random bits, after the variant's own.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _draw() -> str:
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(64 * _RANDOM_BYTES).hex()
        _drawn.extend([digits[at : at + _RANDOM_DIGITS] for at in range(_RANDOM_DIGITS, len(digits), _RANDOM_DIGITS)])
        return digits[:_RANDOM_DIGITS]


def new_decision_id(now_us: int) -> str:
    """A UUID of version 7 (RFC 9562): sortable by time, unguessable by the rest. 36 characters."""
    time_ms, random = f"{now_us // 1000 & 0xFFFFFFFFFFFF:012x}", _draw()
    return f"{time_ms[:8]}-{time_ms[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"
