"""How many different ids a window saw, from a bounded sample of them: for entities with more events than are kept.

Ids are told by 63-bit hashes. While there are at most `SKETCH_MAX` in the window, all of them are kept with the time
they were last seen, and the count is exact. Beyond that only ids with a hash below a threshold are kept, which is an
even sample of all ids whatever their events, and their number is scaled up (bottom-k, or KMV: Bar-Yossef et al.,
"Counting distinct elements in a data stream", 2002; thresholds: Beyer et al., "On synopses for distinct-value
estimation", 2007). With k kept ids in the window the estimate has no bias and a relative standard error of about
1 / sqrt(k); k is 480 to 1,024 in a steady stream, which is 4.6 % at worst.

The sample is that of one window's length. When the window has grown quiet, ids are admitted more freely again; the
estimate makes use of them once a whole window has passed since. Until then it rests on fewer ids.

    8, 8    how many ids are kept (k); complete: of ids with hashes below it, all are there
    8, 8    admitted: of ids with hashes below it, all are there that were seen at `since` or later; since
    16 * k  when each was last seen, and its hash, by time
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct

import numpy as np
from numpy.typing import NDArray

SKETCH_MAX = 1_024
# What is kept when it would be more: a little less, so that cutting is rare.
_CUT_TO = 960
# Below this many, ids are admitted more freely again, until there should be so many.
_QUIET, _AIM = 480, 720
ALL = 2**63 - 1
HEAD = Struct("<4q")
ID = Struct("<2q")
_HASH = Struct("<q")
_HASH_AT = 8


@dataclass(slots=True)
class Sketch:
    """The sample of one pair of entity and window. rows: (last seen, hash) of each id, by time; a hash once."""

    window_us: int
    complete: int = ALL
    admitted: int = ALL
    since_us: int = 0
    rows: bytes = b""

    def __len__(self) -> int:
        return len(self.rows) // ID.size

    def add(self, seen: Iterable[tuple[int, int]], newest_us: int) -> None:
        """Take ids in. seen: (time, hash) of each, 0 for none. newest_us: the time of the newest event of all."""
        for time_us, hashed in seen:
            if 0 < hashed < self.admitted:
                self._see(time_us, hashed)
                if len(self) > SKETCH_MAX:
                    self._forget(newest_us)
        self._forget(newest_us)

    def _see(self, time_us: int, hashed: int) -> None:
        at = self._find(hashed)
        if at >= 0:
            if ID.unpack_from(self.rows, at)[0] >= time_us:
                return
            self.rows = self.rows[:at] + self.rows[at + ID.size :]
        place = len(self)
        if place and ID.unpack_from(self.rows, len(self.rows) - ID.size)[0] > time_us:
            place = int(self._times().searchsorted(time_us, "right"))
        at = place * ID.size
        self.rows = self.rows[:at] + ID.pack(time_us, hashed) + self.rows[at:]

    def _find(self, hashed: int) -> int:
        """Where the row of an id begins; -1 when it is not there."""
        sought, at = _HASH.pack(hashed), -1
        while (at := self.rows.find(sought, at + 1)) >= 0:
            if at % ID.size == _HASH_AT:
                return at - _HASH_AT
        return -1

    def _times(self) -> NDArray[np.int64]:
        return np.frombuffer(self.rows, "<i8").reshape(-1, 2)[:, 0]

    def _forget(self, newest_us: int) -> None:
        """Let go of ids that the window has left, and of the largest hashes when there are too many."""
        first_us = newest_us - self.window_us
        if self.rows and ID.unpack_from(self.rows)[0] < first_us:
            self.rows = self.rows[int(self._times().searchsorted(first_us, "left")) * ID.size :]
        if self.since_us <= first_us:
            self.complete = self.admitted
        if len(self) > SKETCH_MAX:
            ids = np.frombuffer(self.rows, "<i8").reshape(-1, 2)
            self.admitted = int(np.partition(ids[:, 1], _CUT_TO)[_CUT_TO])
            self.complete = min(self.complete, self.admitted)
            self.rows = ids[ids[:, 1] < self.admitted].tobytes()
        elif self.complete == self.admitted < ALL and len(self) < _QUIET:
            self.admitted = min(ALL, self.complete // max(1, len(self)) * _AIM)
            self.since_us = newest_us + 1

    def pack(self) -> bytes:
        """The sketch as it stands in a state."""
        return HEAD.pack(len(self), self.complete, self.admitted, self.since_us) + self.rows


def estimate(ids: NDArray[np.int64], complete: int, admitted: int, since_us: int, start_us: int) -> int:
    """How many different ids were seen at `start_us` or later.

    ids: (last seen, hash) of each that is kept, by time; the rest: as in `Sketch`. Ids that were seen at or after the
    moment of reading count as well: whether they were seen before it too is not known any more.
    """
    recent = ids[int(ids[:, 0].searchsorted(start_us, "left")) :, 1]
    if admitted > complete:
        if start_us >= since_us:
            complete = admitted
        else:
            return _scaled(int(np.count_nonzero(recent < complete)), complete)
    return _scaled(len(recent), complete)


def _scaled(kept: int, threshold: int) -> int:
    return kept if threshold == ALL else round(kept * (ALL / threshold))
