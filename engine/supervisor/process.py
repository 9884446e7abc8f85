"""One worker process as its supervisor sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import engine
from engine.errors import AssayError, BundleError, ConfigError, Problem
from engine.supervisor.channel import Channel

_MODULE = "engine.supervisor.worker_main"


class Phase(Enum):
    """starting: it loads; loaded: it waits for the others; serving; leaving: for a successor, or because all end;
    ended."""

    STARTING = "starting"
    LOADED = "loaded"
    SERVING = "serving"
    LEAVING = "leaving"
    ENDED = "ended"


class WorkerProcess:
    """Started by the constructor. Belongs to the supervisor's one thread, but for `say`.

    number: of the worker, whichever process does its work; name: what it writes under; error: why it could not do what
    it was to, None as long as it has not said so; left: whether it listens no more; leads, asked: whether it
    does what one does for all, and whether it was asked to begin or to end that.
    """

    def __init__(self, number: int, name: str, facts: Mapping[str, Any], cores: Sequence[int]) -> None:
        """facts: see `worker_main`. cores: that it is to keep to; none: to all. Raises OSError."""
        self.number, self.name = number, name
        self.phase = Phase.STARTING
        self.error: AssayError | None = None
        self.leads = self.asked = self.left = self.hung = False
        self.began_s, self.serving_s, self.kill_at_s = time.monotonic(), 0.0, 0.0
        self.published = 0
        self.pings = 0
        self.channel, theirs = Channel.pair()
        # See `engine.telemetry.tracing.exporter_process`: the signals of a terminal are for the supervisor.
        path = [str(Path(engine.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    start_new_session=True,
                )
            except BaseException:
                self.channel.close()
                raise
        self.pid = self._process.pid
        self.channel.send("start", name=name, cores=list(cores), **facts)

    def say(self, what: str, **facts: Any) -> None:
        """Tells it something; one that is gone is not told."""
        self.channel.send(what, **facts)

    def failed(self, said: Mapping[str, Any]) -> None:
        """It said why it cannot do what it is to."""
        problems = [Problem(*one) for one in said.get("problems", ())]
        kind = {"settings": ConfigError, "bundle": BundleError}.get(str(said.get("kind", "settings")))
        self.error = AssayError(str(said.get("error", ""))) if kind is None or not problems else kind(problems)

    def served(self) -> None:
        """It serves from now on."""
        self.phase, self.serving_s = Phase.SERVING, time.monotonic()

    @property
    def served_s(self) -> float:
        """For how long it has served."""
        return time.monotonic() - self.serving_s if self.serving_s else 0.0

    @property
    def listens(self) -> bool:
        """Whether new connections are given to it."""
        return self.phase in (Phase.SERVING, Phase.LEAVING) and bool(self.serving_s) and not self.left

    def leave(self, kill_after_s: float, listeners: int) -> None:
        """It is to end when its callers have gone elsewhere."""
        self.phase, self.kill_at_s = Phase.LEAVING, time.monotonic() + kill_after_s
        self.say("retire", listeners=listeners)

    def stop(self, kill_after_s: float) -> None:
        """It is to drain and end."""
        self.phase = Phase.LEAVING
        self.kill_at_s = min(self.kill_at_s or float("inf"), time.monotonic() + kill_after_s)
        self.say("stop")
        # It may not listen to its supervisor yet.
        self.kick(signal.SIGTERM)

    def kick(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()


def how_it_ended(code: int) -> str:
    """An exit code in words; negative for a signal."""
    if code >= 0:
        return f"it ended with exit code {code}; what it said last is in the log"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"
