"""Calls that meet are decided together: with one read, shared runs of the models and one write.

A call that finds nobody at work goes on at once, by itself. One that finds another at work waits in a queue; when that
one is done, the first of the queue takes all that have come by then, decides them with itself, and wakes them with
their answers. So a lone call waits for nobody, nothing is ever held back to make a batch larger, and the more calls
there are, the less each costs. Under a store that answers slowly the wait would grow with it: who has waited for
`patience_s` goes on beside the one at work, up to `leaders_max` of them.

What is shared changes no answer: a read gives a row or does not, whoever asks with it, and runs are shared for models
alone that were shown at load to give every row the same bits in any company.

The idea is flat combining: D. Hendler, I. Incze, N. Shavit, M. Tzafrir, "Flat combining and the synchronization-
parallelism tradeoff", SPAA 2010.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class _Waiting(Generic[T]):
    """One that waits. gate: held until it is decided, or is to lead."""

    __slots__ = ("done", "gate", "item")

    def __init__(self, item: T) -> None:
        self.item, self.done = item, False
        self.gate = threading.Lock()
        self.gate.acquire()


class Together(Generic[T]):
    """Lets threads work together. Each thread's item is worked on when `run` returns.

    alone: works on one item; many: on several, one at fault harming no other; never raises. most: how many are worked
    on at once. leaders_max: how many groups are under way at once; patience_s: see above.
    """

    def __init__(
        self,
        alone: Callable[[T], None],
        many: Callable[[Sequence[T]], None],
        most: int = 32,
        leaders_max: int = 4,
        patience_s: float = 0.002,
    ) -> None:
        self._alone, self._many = alone, many
        self._most, self._leaders_max, self._patience_s = most, leaders_max, patience_s
        self._lock = threading.Lock()
        self._queue: deque[_Waiting[T]] = deque()
        self._leaders = 0

    def run(self, item: T) -> None:
        """Works on an item, by itself or with others. Raises what `alone` raises."""
        with self._lock:
            alone = self._leaders == 0
            if alone:
                self._leaders = 1
            else:
                mine = _Waiting(item)
                self._queue.append(mine)
        if alone:
            try:
                self._alone(item)
            finally:
                self._hand_over()
            return
        group = self._wait(mine)
        if group is None:
            return
        try:
            if len(group) == 1:
                self._alone(item)
            else:
                self._many([one.item for one in group])
        finally:
            for one in group:
                one.done = True
                if one is not mine:
                    one.gate.release()
            self._hand_over()

    def _wait(self, mine: _Waiting[T]) -> list[_Waiting[T]] | None:
        """Waits until another has worked on it (None), or until it is to lead: whom, itself first."""
        while not mine.gate.acquire(timeout=self._patience_s):
            with self._lock:
                if self._leaders < self._leaders_max and mine in self._queue:
                    self._leaders += 1
                    self._queue.remove(mine)
                    return self._group(mine)
        if mine.done:
            return None
        with self._lock:
            return self._group(mine)

    def _group(self, mine: _Waiting[T]) -> list[_Waiting[T]]:
        """Who goes with it. Under the lock."""
        queue = self._queue
        return [mine, *(queue.popleft() for _ in range(min(len(queue), self._most - 1)))]

    def _hand_over(self) -> None:
        """The next of the queue leads, if there is one."""
        with self._lock:
            if self._queue:
                self._queue.popleft().gate.release()
            else:
                self._leaders -= 1
