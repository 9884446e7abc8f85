"""Latencies: HdrHistogram for whole runs, sparse buckets for the points of a plot."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

# One microsecond to one hour, three significant digits.
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
PERCENTILES: dict[str, float] = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9, "p9999": 99.99}
# Of the percentile plot: the closer to 100, the more of them, as HdrHistogram's own plots have them.
_CURVE_HALVES, _CURVE_STEPS = 17, 5


class Latencies:
    """A whole run's latencies in microseconds, 1 us to an hour with three digits; what is longer counts as an hour."""

    __slots__ = ("_hdr",)

    def __init__(self) -> None:
        self._hdr: Any = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._hdr.get_total_count())

    def note(self, took_us: float) -> None:
        """Takes in one latency."""
        self._hdr.record_value(min(max(int(took_us), _LOWEST_US), _HIGHEST_US))

    def add(self, other: Latencies) -> None:
        """Takes in all of another's."""
        self._hdr.add(other._hdr)

    def encoded(self) -> str:
        """The histogram in HdrHistogram's own compressed form (V2, base64), which its tools read."""
        return str(self._hdr.encode().decode("ascii"))

    @staticmethod
    def decoded(text: str) -> Latencies:
        """The histogram that `encoded` gave. Raises ValueError when it is none."""
        made = Latencies()
        try:
            made._hdr.decode_and_add(text)
        except Exception as error:
            # The library raises errors of its own, of zlib and of base64.
            raise ValueError(f"no HdrHistogram: {error}") from None
        return made

    def percentile_ms(self, percentile: float) -> float:
        """So many of a hundred are at most this long, in milliseconds. 0 without any."""
        return _at(*self._slots(), percentile)

    def summary(self) -> dict[str, float]:
        """mean, percentiles and maximum in milliseconds, and their count."""
        if not self.count:
            return {"count": 0}
        values, sums = self._slots()
        counts = [after - before for before, after in itertools.pairwise([0, *sums])]
        mean_us = sum(value * count for value, count in zip(values, counts, strict=True)) / self.count
        found: dict[str, float] = {"count": self.count, "mean_ms": round(mean_us / 1000, 3)}
        found |= {f"{name}_ms": _at(values, sums, percentile) for name, percentile in PERCENTILES.items()}
        return found | {"max_ms": round(values[-1] / 1000, 3)}

    def curve(self) -> list[tuple[float, float]]:
        """(percentile, milliseconds) for the percentile plot, as far as the count bears: five points for each halving
        of what is left of 100."""
        if not self.count:
            return []
        wanted = [0.0]
        left = 100.0
        for _ in range(_CURVE_HALVES):
            wanted += [100.0 - left + left / 2 * (step + 1) / _CURVE_STEPS for step in range(_CURVE_STEPS)]
            left /= 2
            if left / 100 * self.count < 1:
                break
        values, sums = self._slots()
        return [(round(percentile, 6), _at(values, sums, percentile)) for percentile in wanted]

    def _slots(self) -> tuple[list[int], list[int]]:
        """The values that there are, rising, and how many are at most each. The library walks all its 23,000 slots in
        Python for every percentile; this does it once."""
        hdr = self._hdr
        values, sums, total = [], [], 0
        for at, count in enumerate(hdr.counts):
            if count:
                total += count
                values.append(int(hdr.get_highest_equivalent_value(hdr.get_value_from_index(at))))
                sums.append(total)
        return values, sums


def _at(values: Sequence[int], sums: Sequence[int], percentile: float) -> float:
    """The value of the nearest rank, in milliseconds."""
    if not sums:
        return 0.0
    rank = max(1, math.ceil(round(percentile / 100 * sums[-1], 6)))
    return round(values[bisect.bisect_left(sums, rank)] / 1000, 3)


class Buckets:
    """Few latencies of one stretch of time, sparse: bucket -> count, each bucket at most 1.6 % wide."""

    __slots__ = ("counts",)
    _SUB_BITS = 6

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def note(self, took_us: float) -> None:
        """Takes in one latency."""
        value = max(int(took_us), 1)
        shift = max(value.bit_length() - self._SUB_BITS - 1, 0)
        key = (shift << (self._SUB_BITS + 1)) | (value >> shift)
        self.counts[key] = self.counts.get(key, 0) + 1

    def add(self, other: Mapping[int, int]) -> None:
        """Takes in all of another's counts."""
        for key, count in other.items():
            self.counts[key] = self.counts.get(key, 0) + count

    def values_ms(self, percentiles: Sequence[float]) -> list[float]:
        """The percentiles in milliseconds: the upper ends of their buckets. Zeros without any."""
        keys = sorted(self.counts)
        sums, total = [], 0
        for key in keys:
            total += self.counts[key]
            sums.append(total)
        if not total:
            return [0.0] * len(percentiles)
        found = []
        for percentile in percentiles:
            rank = max(1, -(-int(percentile * total * 1000) // 100_000))
            found.append(round(self._upper_us(keys[bisect.bisect_left(sums, rank)]) / 1000, 3))
        return found

    def _upper_us(self, key: int) -> int:
        shift, part = key >> (self._SUB_BITS + 1), key & ((1 << (self._SUB_BITS + 1)) - 1)
        return ((part + 1) << shift) - 1
