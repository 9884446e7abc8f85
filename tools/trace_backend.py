"""A real tracing backend for the tests and the demonstration, brought up by tools/trace_backend.sh: an OpenTelemetry
Collector that takes OTLP, and a Zipkin server behind it that keeps traces and gives them back.

    with running_backend(directory) as backend:
        backend.otlp_grpc, backend.otlp_http      # where OTLP goes
        backend.wait(trace_id, spans=9)           # the trace, as Zipkin's API has it
        backend.page(trace_id)                    # where a person looks at it
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

SCRIPT = Path(__file__).resolve().with_suffix(".sh")
# The first fetch builds the Collector: minutes on a busy machine.
FETCH_TIMEOUT_S = 1200.0
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
_MISSING = 3

ZipkinSpan = dict[str, Any]


class BackendMissing(RuntimeError):
    """What it is made of is not on this machine and cannot be had; the message says what."""


@dataclass(frozen=True, slots=True)
class TraceBackend:
    """A backend that answers. Ports on 127.0.0.1."""

    directory: Path
    ui_port: int
    grpc_port: int
    http_port: int

    @property
    def otlp_grpc(self) -> str:
        """The endpoint for OTLP over gRPC."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def otlp_http(self) -> str:
        """The endpoint for traces by OTLP over HTTP, with its path."""
        return f"http://127.0.0.1:{self.http_port}/v1/traces"

    @property
    def ui(self) -> str:
        """Zipkin's pages."""
        return f"http://127.0.0.1:{self.ui_port}/zipkin/"

    def page(self, trace_id: str) -> str:
        """The page of one trace."""
        return f"{self.ui}traces/{trace_id}"

    def api(self, trace_id: str) -> str:
        """Where the API has one trace."""
        return f"http://127.0.0.1:{self.ui_port}/api/v2/trace/{trace_id}"

    def trace(self, trace_id: str) -> list[ZipkinSpan]:
        """The spans that have come of a trace so far, by start; none of a trace that is not known."""
        try:
            with urlopen(self.api(trace_id), timeout=30) as answer:
                spans: list[ZipkinSpan] = json.load(answer)
        except HTTPError as error:
            if error.code != 404:
                raise
            return []
        return sorted(spans, key=lambda span: (span["timestamp"], "parentId" in span, -span.get("duration", 0)))

    def wait(self, trace_id: str, spans: int, timeout_s: float = 60.0) -> list[ZipkinSpan]:
        """A trace, once so many of its spans have come. Raises TimeoutError when they do not."""
        end_s = time.monotonic() + timeout_s
        while len(found := self.trace(trace_id)) < spans:
            if time.monotonic() > end_s:
                raise TimeoutError(f"the backend has {len(found)} spans of {trace_id} after {timeout_s:.0f} s")
            time.sleep(0.1)
        return found


def fetch() -> None:
    """Makes sure that the backend's files are there; offline from then on. Raises BackendMissing."""
    _run("fetch", timeout_s=FETCH_TIMEOUT_S)


@contextmanager
def running_backend(directory: Path) -> Iterator[TraceBackend]:
    """A backend on free ports, stopped at the end. directory: for its logs. Raises BackendMissing."""
    fetch()
    backend = TraceBackend(directory, *free_ports(3))
    ports = (str(port) for port in (backend.ui_port, backend.grpc_port, backend.http_port))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # In here: an interrupt in the middle of it leaves processes to stop.
        _run("start", "--owner", str(os.getpid()), str(directory), *ports, timeout_s=START_TIMEOUT_S)
        yield backend
    finally:
        _run("stop", str(directory), timeout_s=STOP_TIMEOUT_S)


def _run(*arguments: str, timeout_s: float) -> None:
    done = subprocess.run(
        [str(SCRIPT), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise BackendMissing(done.stderr.strip()) if done.returncode == _MISSING else RuntimeError(done.stderr)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(one.getsockname()[1] for one in sockets)
