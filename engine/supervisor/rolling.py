"""A rolling restart: one worker after another is followed by a new process, which serves before the old one leaves."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from engine.supervisor.control import Question
from engine.supervisor.names import is_left
from engine.supervisor.process import Phase, WorkerProcess
from engine.supervisor.slots import GroupSettings, Slot

_log = logging.getLogger("assay.workers")


class RollingRestart:
    """Belongs to the supervisor's one thread, which calls `step` all the time."""

    def __init__(
        self,
        slots: Sequence[Slot],
        settings: GroupSettings,
        add: Callable[[WorkerProcess], None],
        listeners: Callable[[], int],
    ) -> None:
        """add: told of every process that is started. listeners: how many processes listen on the port now."""
        self._slots, self._settings, self._add, self._listeners = slots, settings, add, listeners
        self._todo: deque[int] = deque()
        self._slot: Slot | None = None
        self._leaves: WorkerProcess | None = None
        self._asked: list[Question] = []
        self._done = 0

    @property
    def under_way(self) -> bool:
        """Whether there is something left to do."""
        return bool(self._todo) or self._slot is not None

    def begin(self, question: Question | None = None) -> None:
        """All workers are to be replaced. One that is under way begins again when it is done."""
        if question is not None:
            self._asked.append(question)
        self._todo.extend(slot.number for slot in self._slots if slot.number not in self._todo)
        _log.info("all workers are replaced, one after another")

    def again(self, number: int) -> None:
        """One worker is to be replaced once more: its last process left something under its name."""
        if number not in self._todo:
            self._todo.append(number)

    def step(self) -> None:
        """Does what can be done now."""
        slot = self._slot
        if slot is None:
            self._next()
        elif self._leaves is not None:
            if self._leaves.phase is Phase.ENDED:
                self._replaced(slot, self._leaves)
        elif slot.successor is None:
            self._stop(f"worker {slot.number} has no successor: {slot.error or 'it ended'}")
        elif slot.successor.phase is Phase.SERVING:
            old = slot.current
            if old is not None and old.leads:
                if not old.asked:
                    old.asked = True
                    old.say("rest")
            else:
                self._hand_over(slot)

    def _next(self) -> None:
        while self._todo:
            slot = self._slots[self._todo.popleft()]
            if not slot.serves:  # it is being started anew in any case
                continue
            try:
                self._add(slot.start_successor())
            except OSError as error:
                self._stop(f"worker {slot.number} cannot be started: {error}")
                return
            self._slot = slot
            return
        if self._asked:
            self._answer("")

    def _hand_over(self, slot: Slot) -> None:
        listeners = self._listeners()
        before = slot.follow()
        slot.error = ""
        if before is None or before.phase is Phase.ENDED:
            self._replaced(slot, before)
            return
        self._leaves = before
        before.leave(self._settings.leave_s, listeners)

    def _replaced(self, slot: Slot, before: WorkerProcess | None) -> None:
        self._slot, self._leaves = None, None
        self._done += 1
        assert slot.current is not None
        _log.info("worker replaced", extra={"worker": slot.name, "pid": slot.current.pid})
        if before is not None and self._settings.counted and is_left(self._settings.journal, before.name):
            _log.warning(
                "a worker ended before all was counted: it is replaced once more", extra={"worker": before.name}
            )
            self.again(slot.number)

    def _stop(self, why: str) -> None:
        """What serves goes on serving."""
        _log.error("the rolling restart is stopped: %s", why)
        self._todo.clear()
        self._slot = None
        self._answer(why)

    def _answer(self, error: str) -> None:
        for question in self._asked:
            question.answer(error=error, replaced=self._done)
        self._asked.clear()
        self._done = 0
