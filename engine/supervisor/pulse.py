"""Whether workers are still there: one that says nothing for a minute is hung, and is killed to be started again."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable

from engine.supervisor.process import Phase, WorkerProcess

_log = logging.getLogger("assay.workers")
_EVERY_S, _MOST = 5.0, 12


class Pulse:
    """Belongs to the supervisor's one thread. Whatever a worker says sets its `pings` to 0."""

    def __init__(
        self, every_s: float = _EVERY_S, most: int = _MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """every_s: between two pings; most: how many in a row may stay without an answer."""
        self._every_s, self._most, self._clock = every_s, most, clock
        self._next_s = self._felt_s = clock()

    def feel(self, workers: Iterable[WorkerProcess]) -> None:
        """Called all the time."""
        now_s = self._clock()
        # After a standstill of the whole machine all begin anew.
        late, self._felt_s = now_s - self._felt_s > self._every_s, now_s
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        for worker in workers:
            worker.pings = 0 if late else worker.pings + 1
            if worker.phase is Phase.SERVING and worker.pings > self._most:
                _log.error("a worker says nothing, and is killed", extra={"worker": worker.name, "pid": worker.pid})
                worker.hung = True
                worker.kick(signal.SIGKILL)
            worker.say("ping")
