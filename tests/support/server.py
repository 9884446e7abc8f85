"""A real server in a process of its own, with directories of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from assay.decision.v1 import decision_service_pb2_grpc as service
from engine.features.stores.embedded import EmbeddedStore

from .bundles import BUNDLE

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(r"assay: ready, .*\(port (\d+)\)")
START_TIMEOUT_S = 100.0


def environment(home: Path, bundle: Path = BUNDLE, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that a server started in `home` gets."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ASSAY_")}
    return clean | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}",
        "COLUMNS": "300",
        "ASSAY_BUNDLE_PATH": str(bundle),
        "ASSAY_STORE_PATH": str(home / "features"),
        "ASSAY_STORE_MAP_BYTES_MAX": str(1 << 30),
        "ASSAY_RECORD_PATH": str(home / "decisions"),
        # Also for what is run in this very process, whose working directory is the project's.
        "ASSAY_RECORD_MASTER_KEY": str(home / "var" / "master.key"),
        "ASSAY_TRACING_FILE_PATH": str(home / "var" / "traces" / "traces.jsonl"),
        "ASSAY_TRACING_ID_KEY_PATH": str(home / "var" / "telemetry.key"),
        "ASSAY_TRAFFIC_PATH": str(home / "var" / "traffic"),
        "ASSAY_TRAFFIC_BUNDLES": str(home / "var" / "bundles"),
        "ASSAY_SERVER_ADDRESS": "127.0.0.1:0",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        # The machine that runs the tests may be busy; a late read has tests of its own.
        "ASSAY_STORE_READ_BUDGET_MS": "5000",
        **(settings or {}),
    }


class ServerProcess:
    """`assay serve` as an operator runs it."""

    def __init__(self, home: Path, bundle: Path = BUNDLE, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.lines: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli", "serve"],
            env=environment(home, bundle, settings),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            match = _READY.search(line)
            if match is not None:
                self.port = int(match[1])
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> None:
        """Waits until it answers calls. Raises AssertionError when it ended instead."""
        assert self._ready.wait(START_TIMEOUT_S), "the server did not start in time"
        assert self.port, "the server ended: " + self.output

    @property
    def output(self) -> str:
        """All that it wrote on standard error so far."""
        return "".join(self.lines)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Sends a signal and waits for the end; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        self._reader.join(5.0)
        return code


class Client:
    """Stubs on one connection."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options)
        self.stub = service.DecisionServiceStub(self.channel)

    def close(self) -> None:
        """Ends the connection."""
        self.channel.close()


@contextlib.contextmanager
def running(
    home: Path, bundle: Path = BUNDLE, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[ServerProcess, Client]]:
    """A server that answers calls, and a client of it. It is killed at the end if it still runs."""
    server = ServerProcess(home, bundle, settings)
    try:
        server.wait_ready()
        client = Client(server.address)
        try:
            yield server, client
        finally:
            client.close()
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


@contextlib.contextmanager
def open_store(home: Path) -> Iterator[EmbeddedStore]:
    """The embedded store of a server, opened beside it as a loader would."""
    store = EmbeddedStore(home / "features", max_map_bytes=1 << 30)
    try:
        yield store
    finally:
        store.close()


def wait_until_closed(port: int, timeout_s: float = 20.0) -> None:
    """Waits until nothing listens on a port any more."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        try:
            grpc.channel_ready_future(channel).result(timeout=0.2)
        except grpc.FutureTimeoutError:
            return
        finally:
            channel.close()
    raise AssertionError("the port still answers")
