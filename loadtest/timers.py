"""Sleeps of an event loop that end when they should.

An event loop's own timers are as coarse as a millisecond, which would be in every latency. Linux has timers that are a
file, and the loop watches files without rounding.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class Sleeper:
    """Sleeps for one coroutine. Where the system has no timerfd, as exactly as the loop can."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = -1
        if hasattr(self._libc, "timerfd_create"):
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._ring)

    async def until(self, moment: float) -> None:
        """Sleeps until a moment of time.perf_counter."""
        left_s = moment - time.perf_counter()
        if left_s <= 0:
            return
        if self._file < 0:
            await asyncio.sleep(left_s)
            return
        self._woken = self._loop.create_future()
        left_ns = max(int(left_s * 1e9), 1)
        value = _Timespec(left_ns // 1_000_000_000, left_ns % 1_000_000_000)
        self._libc.timerfd_settime(self._file, 0, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None)
        await self._woken

    def close(self) -> None:
        """Gives the timer back."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _ring(self) -> None:
        os.read(self._file, 8)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
