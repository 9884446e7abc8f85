"""The counters of one view at a moment, from a state: on the path of every decision."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable
from math import nan
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from engine.features.velocity.buckets import inside
from engine.features.velocity.by_name import translate
from engine.features.velocity.definition import AMOUNT_SCALE, SECOND_US, Counter, VelocityView
from engine.features.velocity.layout import CRC_BYTES, HEADER, SMALLEST_BYTES, Layout, refusal
from engine.features.velocity.sketch import estimate
from engine.features.velocity.state import State, parse

# Up to so many events, Python's own loops are faster than numpy's calls.
_SMALL = 48
# CRC-32 over (any bytes + their CRC-32, little-endian), as in `engine.features.encoding`.
_CRC_RESIDUE = 0x2144DF1C
_COUNT, _SUM, _DISTINCT, _SINCE = range(4)
_KINDS = {"count": _COUNT, "sum": _SUM, "distinct": _DISTINCT, "time_since": _SINCE}


class _Step(NamedTuple):
    """One counter of a window: its kind, its column of an event's numbers, its sample, its place in the answer."""

    kind: int
    column: int
    sketch: int
    place: int


class VelocityReader:
    """Reads the states of one view. Threads may call it at once."""

    def __init__(self, view: VelocityView) -> None:
        if sys.byteorder != "little":
            raise RuntimeError("states are read as they are, which needs a little-endian machine")
        self.view = view
        layout = view.layout
        self._layout, self._prefix = layout, layout.prefix
        self._unpack = HEADER.unpack_from
        # All of an event but its id.
        self._columns = layout.columns - 1
        self._small: list[Callable[[bytes, int], tuple[int, ...]]] = [
            Struct("<" + n * f"{self._columns}q8x").unpack_from for n in range(_SMALL + 1)
        ]
        self._lengths = [HEADER.size + n * layout.event.size + CRC_BYTES for n in range(_SMALL + 1)]
        self._nothing = [nan if c.what == "time_since" else 0.0 for c in view.counters]
        windows: dict[int, list[_Step]] = {}
        for place, counter in enumerate(view.counters):
            windows.setdefault(counter.window_us, []).append(_step(layout, counter, place))
        self._windows = tuple((window_us, tuple(steps)) for window_us, steps in windows.items())
        self._others: dict[bytes, Layout] = {}

    @property
    def nothing(self) -> list[float]:
        """The counters of an entity of which no event is known."""
        return self._nothing.copy()

    def learn(self, canonical: bytes) -> bool:
        """Take note of other columns that states of this view may have, from their canonical form: True when states
        with them can be read from now on, False when it is no layout of states of this view."""
        try:
            other = Layout.parse(canonical)
        except ValueError:
            return False
        if (other.view, other.entity) != (self._layout.view, self._layout.entity):
            return False
        self._others[other.prefix] = other
        return True

    def evaluate(self, value: bytes, now_us: int) -> list[float]:
        """The view's counters, in their order: counts, sums in whole units, seconds; NaN for the time since nothing.

        Exact wherever the events that are kept one by one reach back to the beginning of the window. Elsewhere counts
        and sums are as `buckets.py` says and distinct counts as `sketch.py` says. Raises RowCorrupt, and
        RowOtherSchema for columns that it has not learned.
        """
        if crc32(value) != _CRC_RESIDUE or len(value) < SMALLEST_BYTES:
            raise refusal(value, self._layout)
        prefix, length, stamp, events, buckets = self._unpack(value)
        if prefix != self._prefix or length != len(value):
            other = self._others.get(prefix)
            if other is None:
                raise refusal(value, self._layout)
            return self.evaluate(translate(value, other, self._layout), now_us)
        if buckets or events > _SMALL:
            return self._large(parse(value, self._layout, stamp, events, buckets), now_us)
        if length != self._lengths[events] or not events:
            raise refusal(value, self._layout)
        columns = self._columns
        numbers = self._small[events](value, HEADER.size)
        times = numbers[::columns]
        oldest_us = times[0]
        last = events if times[-1] < now_us else bisect_left(times, now_us)
        out = self._nothing.copy()
        for window_us, steps in self._windows:
            start_us = now_us - window_us
            first = 0 if oldest_us >= start_us else bisect_left(times, start_us)
            if first >= last:
                continue
            for kind, column, _, place in steps:
                if kind == _COUNT:
                    out[place] = float(last - first)
                elif kind == _DISTINCT:
                    found = set(numbers[first * columns + column : last * columns : columns])
                    found.discard(0)
                    out[place] = float(len(found))
                elif kind == _SUM:
                    out[place] = sum(numbers[first * columns + column : last * columns : columns]) / AMOUNT_SCALE
                else:
                    out[place] = (now_us - times[last - 1]) / SECOND_US
        return out

    def _large(self, state: State, now_us: int) -> list[float]:
        """The same with numpy, and with what is no longer kept one by one."""
        rows = np.frombuffer(state.rows, "<i8").reshape(-1, self._layout.columns)
        times = np.ascontiguousarray(rows[:, 0])
        last = int(times.searchsorted(now_us, "left"))
        horizon_us = state.horizon[0] if state.horizon is not None else -1
        old = np.frombuffer(state.buckets, "<i8").reshape(-1, self._layout.bucket.size // 8)
        out = self._nothing.copy()
        for window_us, steps in self._windows:
            start_us = now_us - window_us
            first = min(int(times.searchsorted(start_us, "left")), last)
            # Count and sums of what is not kept one by one; None when no window's worth of it is missing there.
            before = inside(old, start_us, now_us) if horizon_us >= max(start_us, 0) else None
            for kind, column, sketch, place in steps:
                if kind == _COUNT:
                    out[place] = float(last - first + (round(before[0]) if before else 0))
                elif kind == _SUM:
                    total = int(rows[first:last, column].sum()) + (round(before[column]) if before else 0)
                    out[place] = total / AMOUNT_SCALE
                elif kind == _DISTINCT and before:
                    out[place] = float(_estimated(state, sketch, start_us))
                elif kind == _DISTINCT:
                    out[place] = float(_different(rows[first:last, column]))
                elif last > first:
                    out[place] = (now_us - int(times[last - 1])) / SECOND_US
                elif start_us <= horizon_us < now_us:
                    out[place] = (now_us - horizon_us) / SECOND_US
        return out


def _step(layout: Layout, counter: Counter, place: int) -> _Step:
    column = sketch = 0
    if counter.what == "sum":
        column = 1 + layout.amounts.index(counter.of)
    elif counter.what == "distinct":
        column = 1 + len(layout.amounts) + layout.others.index(counter.of)
        sketch = layout.distinct.index((counter.of, counter.window_us))
    return _Step(_KINDS[counter.what], column, sketch, place)


def _different(hashes: NDArray[np.int64]) -> int:
    """How many different ones, without 0. Sorted by hand: `np.unique` takes several times as long."""
    if not hashes.size:
        return 0
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + int(ordered[0] != 0)


def _estimated(state: State, sketch: int, start_us: int) -> int:
    held = state.sketches[sketch]
    ids = np.frombuffer(held.rows, "<i8").reshape(-1, 2)
    return estimate(ids, held.complete, held.admitted, held.since_us, start_us)
