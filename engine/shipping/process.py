"""Ships in a process of its own, so that the work costs the answers neither their interpreter nor their turn."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.shipping.shipper import with_waiting
from engine.shipping.state import ShipperStatus, ShippingState

_log = logging.getLogger("assay.shipping")
_RESTART_S, _RESTART_S_MAX = 1.0, 60.0
_STOP_S = 10.0


def end_with_parent(ended: Callable[[], None]) -> None:
    """In the child: calls `ended` when the parent is gone, however it went: standard input ends then."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        ended()

    threading.Thread(target=wait, name="assay-parent", daemon=True).start()


class ShipperProcess:
    """Runs a command that ships until its standard input ends (`assay record ship --with-parent`), and runs it again
    when it ends by itself. Safe to use from any thread."""

    def __init__(self, journal: Path, command: Sequence[str]) -> None:
        """command: without a shell; "assay" stands for this installation's."""
        self._journal, self._state = Path(journal), ShippingState(Path(journal))
        self._command = [sys.executable, "-m", "engine.cli", *command[1:]] if command[0] == "assay" else [*command]
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it. Returns at once."""
        self._thread = threading.Thread(target=self._run, name="assay-shipper", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def status(self) -> ShipperStatus:
        """What the shipping process last said, with what waits counted anew."""
        said = self._state.status() or ShipperStatus()
        return with_waiting(self._journal, self._state, replace(said, leading=False))

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """End it, if need be by force. Harmless when repeated."""
        self._stop.set()
        process = self._process
        if process is not None:
            with suppress(OSError):
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
            if process.poll() is None:
                process.kill()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)

    def _run(self) -> None:
        failed = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
            except OSError as error:
                _log.error("the shipper's process cannot be started", extra={"cause": error.strerror})
            else:
                if self._stop.is_set():  # asked to stop between the two
                    self._process.terminate()
                code = self._process.wait()
                assert self._process.stdin is not None
                self._process.stdin.close()
                if not self._stop.is_set():
                    _log.warning("the shipper's process ended, and is started again", extra={"code": code})
            failed = 1 if time.monotonic() - began_s > _RESTART_S_MAX else failed + 1
            longest_s = min(_RESTART_S * 2.0 ** min(failed - 1, 10), _RESTART_S_MAX)
            self._stop.wait(longest_s * random.uniform(0.5, 1.0))
