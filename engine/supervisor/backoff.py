"""How long to wait before a worker that ended is started again."""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST_S, _LONGEST_S = 0.25, 30.0
# One that was well for this long ended for a reason of its own: what was before is forgotten.
_WELL_S = 60.0


class Backoff:
    """Of one worker. The wait doubles with every failure that follows another, with a part left to chance, so that
    workers that failed together do not start together.

    failures: in a row so far.
    """

    def __init__(
        self,
        first_s: float = _FIRST_S,
        longest_s: float = _LONGEST_S,
        well_s: float = _WELL_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """chance: gives numbers from 0 to 1."""
        self._first_s, self._longest_s, self._well_s, self._chance = first_s, longest_s, well_s, chance
        self.failures = 0

    def failed(self, served_s: float) -> float:
        """A worker ended after it had served for so long, 0 when it never did. Gives the seconds to wait."""
        self.failures = 1 if served_s >= self._well_s else self.failures + 1
        whole_s = min(self._longest_s, self._first_s * 2.0 ** min(self.failures - 1, 20))
        return whole_s * (0.5 + 0.5 * self._chance())
