"""The server that a run starts for itself: the embedded default on free loopback ports, with data of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtest.problems import CouldNotRun
from loadtest.scenario import Server
from loadtest.target import Target

ROOT = Path(__file__).resolve().parents[1]
_STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that runs: where it is asked, where its metrics are, and its process."""

    target: Target
    metrics_url: str
    pid: int


def python_path() -> str:
    """PYTHONPATH for a process that needs this tree and its stubs."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), str(ROOT / "gen"), *([inherited] if inherited else [])])


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def own_server(directory: Path, wanted: Server) -> Iterator[OwnServer]:
    """A server until the block ends, its data and its log (server.log) under `directory`.

    Raises CouldNotRun with the end of its log when it does not start.
    """
    port, metrics_port, admin_port = free_port(), free_port(), free_port()
    admin = f"127.0.0.1:{admin_port}" if wanted.admin else ""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "OTEL_", "LOADTEST_"))},
        "PYTHONPATH": python_path(),
        "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{port}",
        "ASSAY_METRICS_PORT": str(metrics_port),
        "ASSAY_ADMIN_ADDRESS": admin,
        "ASSAY_STORE_PATH": str(directory / "features"),
        "ASSAY_RECORD_PATH": str(directory / "decisions"),
        **({"ASSAY_ADMIN_BUNDLE_DIRECTORIES": str(ROOT / "models")} if wanted.admin else {}),
        **wanted.settings,
    }
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli", "serve"],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    target = Target(f"127.0.0.1:{port}", admin, bundle_path=str(ROOT / "models" / "lending") if wanted.admin else "")
    try:
        wait_serving(target, wanted.start_timeout_s, process, log)
        yield OwnServer(target, f"http://127.0.0.1:{metrics_port}/metrics", process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_serving(
    target: Target, timeout_s: float, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    """Waits until grpc.health.v1 says SERVING. Raises CouldNotRun when it does not in time, or its process ends."""
    until = time.monotonic() + timeout_s
    said = "nothing answers there"
    with target.channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < until:
            if process is not None and process.poll() is not None:
                raise CouldNotRun(f"the server ended before it was ready:\n{_end_of(log)}")
            try:
                status = stub.Check(health_pb2.HealthCheckRequest(), timeout=2).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                said = f"it says {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
                said = f"{error.code().name}: {error.details()}"
            time.sleep(0.1)
    raise CouldNotRun(
        f"no server is ready at {target.address} after {timeout_s:.0f} s: {said}. Start one (make serve), or leave "
        f"--address out, and the run starts its own.\n{_end_of(log)}"
    )


def _end_of(log: Path | None) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:] if log is not None else ""
