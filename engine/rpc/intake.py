"""Events of one stream on their way in: read ahead by a thread, a bounded number of them, and handed out in batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Intake(Generic[T]):
    """Reads messages in a thread of its own, so that what has come can be taken without waiting for what has not: a
    lone event is never delayed, and events that come together are settled together.

    parse: the items of one message; what it raises ends the intake, after all before it were taken. most: how many
    items may be unsettled; the thread reads no further beyond them, and flow control holds the sender back.
    """

    def __init__(self, contents: Iterable[bytes], parse: Callable[[bytes], Sequence[T]], most: int) -> None:
        self._contents, self._parse, self._most = contents, parse, most
        self._items: deque[T] = deque()
        self._unsettled = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def take(self, most: int) -> list[T]:
        """What has come, up to so many; waits for the first. Nothing at the end of the stream. Raises what `parse`
        raised."""
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            if not self._items and self._error is not None:
                raise self._error
            return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def settled(self, count: int) -> None:
        """So many items that were taken are settled, and as many may come in."""
        with self._changed:
            self._unsettled -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Lets the thread end. The stream itself must end too, or the thread waits for it."""
        with self._changed:
            self._ended = True
            self._items.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            for content in self._contents:
                items = self._parse(content)
                if not self._put(items):
                    break
        except Exception as raised:
            # The caller went away, or what came cannot be used: whoever takes is told after all that came before.
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _put(self, items: Sequence[T]) -> bool:
        with self._changed:
            while self._unsettled and self._unsettled + len(items) > self._most and not self._ended:
                self._changed.wait()
            if self._ended:
                return False
            self._items.extend(items)
            self._unsettled += len(items)
            self._changed.notify_all()
            return True
