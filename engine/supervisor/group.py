"""The supervisor: starts the workers, lets them serve when all are ready, and starts one that ended again.

    starting -> loaded -> (all loaded) -> serving -> leaving -> ended
                  ^                          |
                  +-------- back-off --------+

One thread does all of it. What other threads ask (a scrape) goes to the workers over their channels and comes back
here.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from engine.errors import AssayError
from engine.supervisor.control import ControlSocket, Question
from engine.supervisor.process import Phase, WorkerProcess, how_it_ended
from engine.supervisor.pulse import Pulse
from engine.supervisor.rolling import RollingRestart
from engine.supervisor.slots import GroupSettings, Slot

_log = logging.getLogger("assay.workers")
_TICK_S = 0.1
# So often in a row a worker may fail before it ever served until all is given up: at the start, or when none serves.
_FAILURES_MAX = 3
_FETCH_S = 1.0
_LEAD_AGAIN_S = 5.0
_ALIVE_S = 60.0


class Supervisor:
    """See the module. `run` is the whole life of it.

    ended: how often workers ended, by how.
    """

    def __init__(
        self,
        settings: GroupSettings,
        facts: Mapping[str, Any],
        control: ControlSocket,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """facts: what every worker is told at its start. control: where people ask. on_end: told when a worker has
        ended."""
        self._settings, self._control, self._on_end = settings, control, on_end
        self.slots = [Slot(number, settings, facts) for number in range(settings.workers)]
        self.ended: Counter[str] = Counter()
        self._workers: list[WorkerProcess] = []
        self._rolling = RollingRestart(self.slots, settings, self._add, self._listeners)
        self._selector = selectors.DefaultSelector()
        self._go = self._ready = self._ending = self._unclean = False
        self._fatal: AssayError | None = None
        self._lead_at_s = 0.0
        self._pulse = Pulse()
        self._ticked_s = time.monotonic()
        self._fetches, self._fetched = 0, threading.Condition()

    # --- what other threads ask -----------------------------------------------------------------------------------

    @property
    def serving(self) -> int:
        """How many of the places answer calls."""
        return sum(slot.serves for slot in self.slots)

    def ready(self) -> bool:
        """Whether calls are answered: all workers had the bundle, and one serves at least."""
        return self._ready and not self._ending and self.serving > 0

    def alive(self) -> bool:
        """Whether the supervisor does its work."""
        return time.monotonic() - self._ticked_s < _ALIVE_S

    def fetch(self) -> None:
        """Has all workers leave their metrics, and waits for them a moment. From any thread."""
        with self._fetched:
            self._fetches += 1
            number = self._fetches
        asked = [one for one in list(self._workers) if one.serving_s and one.phase is not Phase.ENDED]
        for one in asked:
            one.say("publish", number=number)
        end_s = time.monotonic() + _FETCH_S
        with self._fetched:
            while any(one.published < number and one.phase is not Phase.ENDED for one in asked):
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not self._fetched.wait(left_s):
                    return

    # --- the thread -----------------------------------------------------------------------------------------------

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serves until SIGTERM or SIGINT, then has all drain. on_ready: called once, when all workers serve. Raises
        AssayError when the workers cannot serve, or not all could drain."""
        waker, woken = socket.socketpair()
        for one in (waker, woken):
            one.setblocking(False)
        self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(4096))
        self._selector.register(self._control.listener, selectors.EVENT_READ, self._asked)
        before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._end())
        signal.signal(signal.SIGUSR2, lambda *_: self._rolling.begin())
        try:
            for slot in self.slots:
                self._start(slot)
            while self._workers or not self._ending:
                for key, _ in self._selector.select(_TICK_S):
                    with suppress(BlockingIOError):
                        key.data()
                self._tick()
                if self._all_ready():
                    self._ready = True
                    on_ready()
                    for slot in self.slots:
                        if slot.has_left():
                            self._rolling.again(slot.number)
        finally:
            for worker in self._workers:
                worker.kick(signal.SIGKILL)
            signal.set_wakeup_fd(before)
            waker.close()
            woken.close()
            self._selector.close()
        if self._fatal is not None:
            raise self._fatal
        if self._unclean:
            raise AssayError("not all workers could drain: what they had counted or sent last may be missing")

    def hang_up(self, signum: int) -> None:
        """Hands a signal on to all workers that know what to do with it."""
        for worker in list(self._workers):
            if worker.phase is not Phase.STARTING:
                worker.kick(signal.Signals(signum))

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._ticked_s = now_s
        for worker in list(self._workers):
            code = worker.ended()
            if code is not None:
                self._hear(worker)
                self._gone(worker, code)
            elif worker.kill_at_s and now_s >= worker.kill_at_s:
                _log.error("a worker does not end, and is killed", extra={"worker": worker.name, "pid": worker.pid})
                worker.hung = True
                worker.kick(signal.SIGKILL)
            elif worker.phase is Phase.STARTING and now_s - worker.began_s > self._settings.start_timeout_s:
                worker.error = AssayError(f"it was not ready after {self._settings.start_timeout_s:g} s")
                worker.kick(signal.SIGKILL)
        if self._ending:
            return
        for slot in self.slots:
            if slot.start_at_s is not None and now_s >= slot.start_at_s and slot.successor is None:
                self._start(slot)
        if not self._go and all(s.current is not None and s.current.phase is Phase.LOADED for s in self.slots):
            self._go = True
            for worker in self._workers:
                worker.say("serve")
        if self._go:
            self._choose_lead(now_s)
            if self._ready:
                self._rolling.step()
        self._pulse.feel(self._workers)

    def _all_ready(self) -> bool:
        leads = any(slot.current is not None and slot.current.leads for slot in self.slots)
        return not self._ready and not self._ending and leads and self.serving == len(self.slots)

    def _listeners(self) -> int:
        return sum(worker.listens for worker in self._workers)

    def _start(self, slot: Slot) -> None:
        try:
            self._add(slot.start())
        except OSError as error:
            slot.error = f"cannot be started: {error}"
            self._wait(slot, 0.0)

    def _add(self, worker: WorkerProcess) -> None:
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, lambda: self._hear_one(worker))
        _log.info("worker started", extra={"worker": worker.name, "pid": worker.pid})

    def _hear(self, worker: WorkerProcess) -> None:
        """What it said before it ended."""
        while self._hear_one(worker):
            pass

    def _hear_one(self, worker: WorkerProcess) -> bool:
        said = worker.channel.receive()
        if said is None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(worker.channel)
            return False
        what = said["say"]
        worker.pings = 0
        if what == "loaded":
            worker.phase = Phase.LOADED
            if self._go:
                worker.say("serve")
        elif what == "serving":
            worker.served()
        elif what == "published":
            with self._fetched:
                worker.published = int(said["number"])
                self._fetched.notify_all()
        elif what == "leads":
            self._leads(worker, said)
        elif what == "rests":
            worker.leads = worker.asked = False
        elif what == "left":
            worker.left = True
            other = next((one for one in self._workers if one.listens), None)
            if other is not None:
                other.say("even")
        elif what == "failed":
            worker.failed(said)
        return True

    def _gone(self, worker: WorkerProcess, code: int) -> None:
        """A worker has ended."""
        expected = worker.phase is Phase.LEAVING
        self._workers.remove(worker)
        worker.phase = Phase.ENDED
        worker.channel.close()
        with self._fetched:
            self._fetched.notify_all()
        self._on_end()
        how = "hung" if worker.hung else "replaced" if expected else "crashed" if worker.serving_s else "not_ready"
        if self._ending and worker.serving_s and (code != 0 or worker.hung):
            self._unclean = True
        if self._ending:
            return
        self.ended[how] += 1
        slot = self.slots[worker.number]
        if worker not in (slot.current, slot.successor):
            return  # its successor serves
        why = str(worker.error) if worker.error is not None else how_it_ended(code)
        slot.error = why
        if worker is slot.successor:
            slot.successor = None
            return  # the restart is stopped
        slot.current = None
        wait_s = self._wait(slot, worker.served_s if worker.serving_s else 0.0)
        _log.error(
            "a worker ended, and is started again",
            extra={"worker": worker.name, "pid": worker.pid, "why": why, "after_s": round(wait_s, 2)},
        )
        if not self._go and worker.error is not None:
            self._give_up(worker.error)  # what it said will not be otherwise in a moment
        elif slot.backoff.failures >= _FAILURES_MAX and (not self._go or self._hopeless()):
            self._give_up(AssayError(f"worker {worker.name} ended {slot.backoff.failures} times in a row: {why}"))

    def _hopeless(self) -> bool:
        return not self.serving and all(slot.backoff.failures >= _FAILURES_MAX for slot in self.slots)

    def _wait(self, slot: Slot, served_s: float) -> float:
        wait_s = slot.backoff.failed(served_s)
        slot.start_at_s = time.monotonic() + wait_s
        return wait_s

    def _choose_lead(self, now_s: float) -> None:
        """One does what one does for all: the one that serves longest, and is not about to leave."""
        if any(worker.leads or worker.asked for worker in self._workers) or now_s < self._lead_at_s:
            return
        fit = [slot.current for slot in self.slots if slot.serves and slot.successor is None]
        chosen = min((one for one in fit if one is not None), key=lambda one: one.serving_s, default=None)
        if chosen is not None:
            chosen.asked = True
            chosen.say("lead")

    def _leads(self, worker: WorkerProcess, said: Mapping[str, Any]) -> None:
        worker.asked = False
        if "error" not in said:
            worker.leads = True
            return
        worker.failed({**said, "kind": "settings"})
        error, worker.error = worker.error, None
        if not self._ready and error is not None:
            self._give_up(error)
            return
        self._lead_at_s = time.monotonic() + _LEAD_AGAIN_S
        _log.error("no worker takes changes or prunes: %s", error)

    def _asked(self) -> None:
        question = self._control.accept()
        if question is None:
            return
        if question.what == "restart":
            self._begin_restart(question)
        else:
            question.answer(
                ready=self.ready(), workers=[s.status() for s in self.slots], restarting=self._rolling.under_way
            )

    def _begin_restart(self, question: Question) -> None:
        if self._ready and not self._ending:
            self._rolling.begin(question)
        else:
            question.answer(error="the workers are not all ready, or are ending", replaced=0)

    def _give_up(self, error: AssayError) -> None:
        self._fatal = self._fatal or error
        self._end()

    def _end(self) -> None:
        """Has all drain. Harmless when repeated."""
        if self._ending:
            return
        self._ending = True
        _log.info("all workers drain", extra={"grace_s": self._settings.drain_grace_s})
        for worker in self._workers:
            worker.stop(self._settings.end_s)
