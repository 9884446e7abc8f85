"""Hosts for the client's tests: real servers that know each other's request ids, as workers of one host do."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from assay.client import AssayError

from .server import ServerProcess

_count = itertools.count(1)


@contextlib.contextmanager
def joined(server: ServerProcess, home: Path) -> Iterator[ServerProcess]:
    """Another server on the journal and the store of `server`, on a port of its own. Killed at the end."""
    home.mkdir()
    other = ServerProcess(
        home,
        settings={
            "ASSAY_STORE_PATH": str(server.home / "features"),
            "ASSAY_RECORD_PATH": str(server.home / "decisions"),
            "ASSAY_RECORD_MASTER_KEY": str(server.home / "var" / "master.key"),
            "ASSAY_RECORD_WORKER": f"client{next(_count)}",
        },
    )
    try:
        other.wait_ready()
        yield other
    finally:
        other.process.send_signal(signal.SIGCONT)
        other.stop(signal.SIGKILL)


@contextlib.contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """The server's process stands still: it takes connections, for the kernel does, and answers nothing."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


class Load:
    """Threads that call without a pause until they are told to end."""

    def __init__(self, call: Callable[[], object], threads: int = 4) -> None:
        self._call = call
        self._ended = threading.Event()
        self.done = itertools.count()
        self.count = 0
        self.failed: list[AssayError] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._call()
                self.count = next(self.done) + 1
            except AssayError as error:
                self.failed.append(error)

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Waits until that many more calls are answered."""
        target, end = self.count + more, time.monotonic() + timeout_s
        while self.count < target:
            assert time.monotonic() < end, f"{self.count} of {target} calls in {timeout_s} s; failed: {self.failed[:3]}"
            time.sleep(0.01)

    def end(self) -> None:
        """Ends all threads."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
