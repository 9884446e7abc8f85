"""A worker's side of its group: what it tells the supervisor, and what it does when it is told to."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import AssayError
from engine.supervisor.channel import Channel
from engine.supervisor.leaving import connections, leave, share_evenly

_log = logging.getLogger("assay.workers")
_LOOK_EVERY_S = 0.2
# Beyond the grace of a drain: to count, index, send and close.
_END_S = 30.0
# How much longer than its age a connection may live: gRPC spreads the ages.
_AGE_SPREAD = 1.1


class Member:
    """See `engine.bootstrap_group.Group`. One for each worker process."""

    def __init__(self, channel: Channel, facts: Mapping[str, Any]) -> None:
        """facts: what the supervisor said with `start`."""
        self._channel = channel
        self.trace_address: str | None = facts["trace_address"]
        self.snapshots = Path(facts["snapshots"])
        self._age_s, self._grace_s = float(facts["connection_age_s"]), float(facts["drain_grace_s"])
        self._stop = threading.Event()
        self._serve = threading.Event()
        self._turn = threading.Lock()
        self._port = 0
        self._publish: Callable[[], None] = lambda: None
        self._lead: Callable[[], None] = lambda: None
        self._rest: Callable[[], None] = lambda: None

    def follow(self, stop: threading.Event) -> None:
        """See `Group.follow`."""
        self._stop = stop
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def loaded(self, stop: threading.Event) -> None:
        """See `Group.loaded`."""
        self._channel.send("loaded")
        while not self._serve.wait(_LOOK_EVERY_S) and not stop.is_set():
            pass

    def serving(
        self, port: int, publish: Callable[[], None], lead: Callable[[], None], rest: Callable[[], None]
    ) -> None:
        """See `Group.serving`."""
        self._port, self._publish, self._lead, self._rest = port, publish, lead, rest
        self._channel.send("serving", port=port)

    def _listen(self) -> None:
        while (said := self._channel.receive()) is not None:
            what = said["say"]
            if what == "ping":
                self._channel.send("pong")
            elif what == "serve":
                self._serve.set()
            elif what == "publish":
                self._publish()
                self._channel.send("published", number=said["number"])
            elif what == "even":
                share_evenly(self._port)
            elif what == "stop":
                self._stop.set()
            elif what in ("lead", "rest", "retire"):
                # They take their time, in which the supervisor must be heard.
                threading.Thread(target=self._do, args=(said,), name=what, daemon=True).start()
        if not self._stop.is_set():
            _log.error("the supervisor is gone: this worker ends")
        self._stop.set()
        # Nobody is there any more to end what hangs.
        time.sleep(self._grace_s + _END_S)
        os._exit(1)

    def _do(self, said: Mapping[str, Any]) -> None:
        what = said["say"]
        with self._turn:
            try:
                if what == "lead":
                    self._lead()
                    self._channel.send("leads", problems=[])
                elif what == "rest":
                    self._rest()
                    self._channel.send("rests")
                else:
                    self._retire(int(said["listeners"]))
            except AssayError as error:
                problems = [[p.file, p.place, p.message, p.fix] for p in getattr(error, "problems", ())]
                self._channel.send("leads", problems=problems, error=str(error))
            except Exception:
                _log.exception("a worker could not do what its supervisor wanted")
                self._channel.send("failed", kind="other", error=f"{what} failed", problems=[])

    def _retire(self, listeners: int) -> None:
        """Gives its place at the port up, and ends when the last caller has gone elsewhere."""
        whole = leave(self._port, listeners)
        self._channel.send("left")
        _log.info("no new connections are taken", extra={"spared": whole, "connections": connections(self._port)})
        until_s = time.monotonic() + self._age_s * _AGE_SPREAD + (self._grace_s if self._age_s else 0.0)
        while not self._stop.wait(_LOOK_EVERY_S) and time.monotonic() < until_s:
            if not connections(self._port):
                break
        self._stop.set()
