"""Time buckets: what is left of events that are no longer kept one by one. Exact counts and sums, coarser times.

A bucket is as wide as its age allows: never wider than 2 % of a window whose edge may fall into it. Buckets stand at
whole multiples of their width, each width is a multiple of the one before, and buckets never overlap.

    age         up to 1 m   1 h   24 h    7 d   beyond
    width       1 s         60 s  20 min  3 h   12 h
    of window   1.7 %       1.7 % 1.4 %   1.8 % 1.7 %

Of a bucket in which a window begins, the part counts that lies inside, as if its events stood evenly. So a count or a
sum is wrong by less than what happened within 2 % of the window around its beginning, and by nothing on average.

A bucket's mark is its start in microseconds, which is a whole number of seconds, plus the number of its width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from engine.features.velocity.definition import SECOND_US, WINDOWS_S

WIDTHS_US = tuple(s * SECOND_US for s in (1, 60, 1_200, 10_800, 43_200))
# A bucket may grow to a width once all of it is older than this: the window before, and a little more, so that a
# reader whose clock is behind still finds narrow ones where that window begins.
_SLACK_US = 10 * SECOND_US
_GROWN_US = tuple(s * SECOND_US + _SLACK_US for s in (0, *tuple(WINDOWS_S.values())[:-1]))
# Nothing older than this before the newest event is kept: the longest window, and a day for readers that are behind.
KEEP_US = (max(WINDOWS_S.values()) + 86_400) * SECOND_US
# By width: 132 at most (70 s, and what completes a minute), 81, 80, 54 and 51.
BUCKETS_MAX = 400
# Where a sum stays: no two of them leave 64 bits.
_SUM_MAX = 2**62 - 1


def _end_us(mark: int) -> int:
    return mark - mark % SECOND_US + WIDTHS_US[mark % SECOND_US]


def _mark_at(time_us: int, newest_us: int, least: int) -> int:
    """The mark of the widest bucket for a moment that is old enough as a whole, not narrower than number `least`."""
    for width in range(len(WIDTHS_US) - 1, least, -1):
        start_us = time_us - time_us % WIDTHS_US[width]
        if start_us + WIDTHS_US[width] <= newest_us - _GROWN_US[width]:
            return start_us + width
    return time_us - time_us % WIDTHS_US[least] + least


def fold(buckets: bytes, shape: Struct, evicted: Iterable[Sequence[int]], newest_us: int) -> bytes:
    """The buckets with more events in them.

    shape: one bucket: mark, count, sums. evicted: (time, amount, ...) of each event, in order of time, none older than
    those in the buckets. newest_us: the time of the newest event of all, from which ages are reckoned.
    """
    # Only the last bucket can take more.
    tail = [list(shape.unpack_from(buckets, len(buckets) - shape.size))] if buckets else []
    held = len(tail)
    for time_us, *amounts in evicted:
        if not tail or time_us >= _end_us(tail[-1][0]):
            tail.append([_mark_at(time_us, newest_us, 0), 0, *(0 for _ in amounts)])
        bucket = tail[-1]
        bucket[1] += 1
        for place, amount in enumerate(amounts, start=2):
            bucket[place] += amount
    folded = buckets[: len(buckets) - held * shape.size] + b"".join(
        shape.pack(*(max(-_SUM_MAX, min(number, _SUM_MAX)) for number in bucket)) for bucket in tail
    )
    # Finer than need be does no harm, so this waits until there are more of them.
    return _tidied(folded, shape, newest_us) if len(tail) > held else folded


def _tidied(buckets: bytes, shape: Struct, newest_us: int) -> bytes:
    """The buckets as wide as they may be by now, without those that no window can reach any more."""
    rows = np.frombuffer(buckets, "<i8").reshape(-1, shape.size // 8)
    marks = rows[:, 0]
    width = marks % SECOND_US
    starts_us = marks - width
    wide = marks.copy()
    for number, width_us in enumerate(WIDTHS_US):
        begin_us = starts_us - starts_us % width_us
        may = (begin_us + width_us <= newest_us - _GROWN_US[number]) & (number > width)
        wide[may] = begin_us[may] + number
    alive = starts_us + np.array(WIDTHS_US)[width] > newest_us - KEEP_US
    wide, rows = wide[alive], rows[alive]
    first = np.flatnonzero(np.diff(wide, prepend=-1))
    if len(first) == len(marks):
        return buckets
    totals = np.add.reduceat(rows, first, axis=0) if len(first) else rows
    rough = np.add.reduceat(rows, first, axis=0, dtype=np.float64) if len(first) else rows
    totals = np.where(np.abs(rough) > _SUM_MAX, np.copysign(_SUM_MAX, rough).astype(np.int64), totals)
    totals[:, 0] = wide[first]
    return totals.astype("<i8").tobytes()


def inside(buckets: NDArray[np.int64], start_us: int, end_us: int) -> list[float]:
    """Count and sums of the events with start <= t < end, in the order of the columns.

    buckets: one row each: mark, count, sums. Exact where no bucket reaches over either end.
    """
    marks = buckets[:, 0]
    first = int(marks.searchsorted(start_us, "right")) - 1
    last = int(marks.searchsorted(end_us, "left")) - 1
    total: NDArray[np.float64] = buckets[first + 1 : max(last, first + 1), 1:].sum(axis=0, dtype=np.float64)
    for place in {first, last}:
        if place < 0:
            continue
        mark = int(marks[place])
        begin_us, close_us = mark - mark % SECOND_US, _end_us(mark)
        overlap_us = min(close_us, end_us) - max(begin_us, start_us)
        if overlap_us > 0:
            total = total + buckets[place, 1:] * (overlap_us / (close_us - begin_us))
    found: list[float] = total.tolist()
    return found
