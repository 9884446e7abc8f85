"""A real Cassandra node for tests, brought up by tools/cassandra.sh.

Most tests share one node and keep apart by their keyspaces:

    node = shared_node()              # started on first use; stopped when the tests are over; up again if a test left
                                      # it stopped, killed or suspended
    node.port, node.address           # where it answers on the loopback interface
    node.suspend(); node.resume()     # SIGSTOP, SIGCONT: it keeps its connections and says nothing
    node.kill()                       # SIGKILL; what it acknowledged is there after the next start()
    node.stop(); node.start()         # SIGTERM and wait; start on the same port with the same data
    node.restart()                    # both

A test that needs a node of its own, with a password or with TLS, takes `own_node`.

Where Java 17 or Maven is missing, or the files cannot be fetched, `shared_node` and `own_node` skip the test by name;
with CI=true they fail it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.redis_servers import free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "cassandra.sh"
FETCH_TIMEOUT_S = 900.0
START_TIMEOUT_S = 360.0
STOP_TIMEOUT_S = 90.0
# Whose certificates and password a node with `tls` and `password` takes.
FIRST_USER, FIRST_PASSWORD = "cassandra", "cassandra"


class CassandraNode:
    """One node: a process, a port, and a directory that holds all it keeps."""

    def __init__(self, directory: Path, *, password: bool = False, tls: bool = False) -> None:
        """Nothing is started yet."""
        self.directory = directory
        self.host = "127.0.0.1"
        self.port, self._storage_port = free_port(), free_port()
        self.ca, self.certificate, self.key = (
            directory / "tls" / name for name in ("ca.pem", "client.pem", "client.key")
        )
        self._options = [*(["--password"] if password else []), *(["--tls"] if tls else [])]

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The node's process, or None when there is none."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "cassandra.pid").read_text())
            if _alive(pid):
                return pid
        return None

    @property
    def log(self) -> str:
        """All that the node has said."""
        path = self.directory / "node.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it answers CQL. Raises AssertionError when it does not."""
        command = [str(SCRIPT), "start", "--storage-port", str(self._storage_port), "--owner", str(os.getpid())]
        done = subprocess.run(
            [*command, *self._options, str(self.directory), str(self.port)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"no Cassandra ({done.returncode}): {done.stderr}"

    def stop(self) -> None:
        """Stop it cleanly and wait until it is gone. Harmless when it is not there."""
        subprocess.run(
            [str(SCRIPT), "stop", str(self.directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STOP_TIMEOUT_S,
            check=False,
        )
        assert self.pid is None, "a node that was stopped is still there"

    def restart(self) -> None:
        """Stop it cleanly and start it again."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Stop its clock: connections stay open, nothing is answered from the moment this returns."""
        pid = self._signal(signal.SIGSTOP)
        _wait_for(lambda: _state(pid).startswith("T"), "a node that was stopped still runs")

    def resume(self) -> None:
        """Let it go on after `suspend`. Harmless when it is not suspended."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        pid = self._signal(signal.SIGKILL)
        _wait_for(lambda: not _alive(pid), "a killed node is still there")

    def _signal(self, number: int) -> int:
        pid = self.pid
        assert pid is not None, "the node does not run"
        os.kill(pid, number)
        return pid


@cache
def _fetched() -> str:
    """Why there is no Cassandra, or nothing."""
    done = subprocess.run(
        [str(SCRIPT), "fetch"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=FETCH_TIMEOUT_S,
        check=False,
    )
    return done.stderr.strip() if done.returncode else ""


def require() -> None:
    """Skip the test, loudly, where Cassandra cannot be had; fail it on CI."""
    if reason := _fetched():
        give_up(f"Cassandra: {reason}")


def give_up(reason: str) -> NoReturn:
    """Skip by name; with CI=true fail."""
    if os.environ.get("CI", "") in {"true", "1"}:
        pytest.fail(f"CI does not skip: {reason}", pytrace=False)
    pytest.skip(reason)


_shared: list[CassandraNode] = []
_shared_lock = threading.Lock()


def shared_node() -> CassandraNode:
    """The node of this test session, running."""
    require()
    with _shared_lock:
        if not _shared:
            home = tempfile.TemporaryDirectory(prefix="assay-cassandra-", ignore_cleanup_errors=True)
            node, starter = CassandraNode(Path(home.name)), os.getpid()

            def end() -> None:
                if os.getpid() == starter:  # and not a child that was forked
                    node.stop()
                    home.cleanup()

            atexit.register(end)
            _shared.append(node)
        node = _shared[0]
        if node.pid is None:
            node.start()
        else:
            node.resume()
        return node


@contextlib.contextmanager
def own_node(directory: Path, *, password: bool = False, tls: bool = False) -> Iterator[CassandraNode]:
    """A node for one test or module, running; stopped at the end."""
    require()
    node = CassandraNode(directory, password=password, tls=tls)
    node.start()
    try:
        yield node
    finally:
        node.stop()


def _state(pid: int) -> str:
    """What the system says of a process, a letter as a rule; nothing when there is none."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _alive(pid: int) -> bool:
    """Whether the process is there: one that has ended and was not fetched is not."""
    return _state(pid)[:1] not in {"", "Z"}


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, otherwise
        time.sleep(0.01)
