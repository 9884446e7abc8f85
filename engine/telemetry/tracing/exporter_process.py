"""The exporter process as its owner sees it: started, watched, started again when it dies, let go at the end.

    owner --- standard input: settings, then nothing; its end says that the owner is gone
      |
      +------ a listening socket, which outlives any one exporter process
                 ^
    recorders ---+   one connection for each serving process

One exporter serves all workers of a server. With the socket in the owner's hands, a worker only ever connects: while an
exporter is being started again, connections and what was written to them wait in the socket. One exporter for each
worker would cost 30 to 60 MB and a wake-up a worker and send smaller batches, for no gain: what a worker's record costs
the worker is the same.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import engine
from engine.telemetry.tracing.settings import TracingSettings, to_plain

_log = logging.getLogger("assay.tracing")
_MODULE = "engine.telemetry.tracing.exporter_main"
_RESTART_FIRST_S, _RESTART_MAX_S = 0.1, 10.0
# One that has lived this long was well; the next failure is a new story.
_WELL_AFTER_S = 30.0
_BACKLOG = 128
_DRAIN_SHARE = 0.8


class ExporterProcess:
    """Owns one exporter process. Made, closed and forgotten by one process; a fork of it owns nothing."""

    def __init__(self, settings: TracingSettings) -> None:
        """Starts it. Raises OSError when that cannot be done here."""
        self._settings = settings
        self._directory = Path(tempfile.mkdtemp(prefix="assay-traces-"))  # for its owner's eyes only
        self._owner_pid = os.getpid()
        self.address = str(self._directory / "socket")
        self.restarts = 0
        self._closing = threading.Event()
        self._spawning = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        # Whole messages or nothing: a process that dies in the middle of one leaves no torn half behind.
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(self.address)
            self._listener.listen(_BACKLOG)
            self._spawn()
        except BaseException:
            self._listener.close()
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        self._keeper = threading.Thread(target=self._keep, name="trace-exporter-keeper", daemon=True)
        self._keeper.start()
        _alive.add(self)

    @property
    def pid(self) -> int | None:
        """The process at the moment, None between two."""
        child = self._child
        return None if child is None else child.pid

    def _spawn(self) -> None:
        listener = self._listener.fileno()
        # Who runs our tests or embeds the engine has put it on the path in ways that a child does not inherit.
        path = [str(Path(engine.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        command = [sys.executable, "-P", "-m", _MODULE, str(listener), str(self._directory)]
        # The child begins with the signals blocked that are meant for the server: Ctrl-C and `kill` of a whole group
        # reach it too, and it has the last spans to send. It ends when its standard input does.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                pass_fds=(listener,),
                env=environment,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert child.stdin is not None
        # Not on the command line, which every user of the machine can read: headers hold secrets.
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(to_plain(self._settings)).encode() + b"\n")
            child.stdin.flush()
        self._child = child

    def _keep(self) -> None:
        """Waits for the process to end, and starts another one unless that was wanted."""
        wait_s = _RESTART_FIRST_S
        while True:
            child, begun_s = self._child, time.monotonic()
            if child is not None:
                code = child.wait()
                if child.stdin is not None:
                    with suppress(OSError):
                        child.stdin.close()
                if self._closing.is_set():
                    return
                self._child = None
                self.restarts += 1
                wait_s = _RESTART_FIRST_S if time.monotonic() - begun_s > _WELL_AFTER_S else wait_s
                _log.error("the trace exporter ended; it is started again", extra={"code": code, "after_s": wait_s})
            if self._closing.wait(wait_s):
                return
            wait_s = min(_RESTART_MAX_S, wait_s * 2)
            try:
                with self._spawning:
                    if self._closing.is_set():
                        return
                    self._spawn()
            except OSError as error:
                _log.error("the trace exporter cannot be started", extra={"error": str(error)})

    def close(self, timeout_s: float) -> None:
        """Lets the process send what it has, waits for its end, and ends it when the time is over.

        Close the recorders first: it stays as long as one is connected.
        """
        if os.getpid() != self._owner_pid or self._closing.is_set():
            return
        with self._spawning:
            self._closing.set()
        child = self._child
        if child is not None and child.stdin is not None:
            # It stops trying a little earlier than it is stopped, so that what is left gets to the spill directory.
            with suppress(OSError, ValueError):
                child.stdin.write(b"%.3f" % (timeout_s * _DRAIN_SHARE))
                child.stdin.close()
            self._keeper.join(timeout_s)
            if self._keeper.is_alive():
                _log.warning("the trace exporter did not end in time", extra={"timeout_s": timeout_s})
                child.kill()
        self._keeper.join(1.0)
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _disown(self) -> None:
        """In a forked child: the process, its standard input and the socket are the parent's."""
        self._closing.set()
        self._listener.close()
        child, self._child = self._child, None
        if child is not None:
            if child.stdin is not None:
                with suppress(OSError):
                    child.stdin.close()
            # So that nobody here waits for, or complains of, a process that is not ours.
            child.returncode = 0


_alive: weakref.WeakSet[ExporterProcess] = weakref.WeakSet()


def _after_fork() -> None:
    for exporter in list(_alive):
        exporter._disown()


os.register_at_fork(after_in_child=_after_fork)
