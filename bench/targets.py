"""Starts the servers under test, each in its own process on the server's core, and asks them real calls."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2

from bench.messages import DECIDE_PATH, ID_MARKER

START_S = 120.0

if TYPE_CHECKING:
    # A method without serializers: bytes to bytes.
    UnaryCall = grpc.UnaryUnaryMultiCallable[bytes, bytes]


class TargetError(RuntimeError):
    """A server did not start, or does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that runs: its name in the figures, its process, its port, and the requests that it is sent."""

    name: str
    pid: int
    port: int
    requests: tuple[bytes, ...]
    requests_file: Path


@dataclass(frozen=True, slots=True)
class Answers:
    """What a few real calls gave: sizes of the answers in bytes, and the answers themselves."""

    sizes: tuple[int, ...]
    messages: tuple[bytes, ...]

    @property
    def mean_bytes(self) -> int:
        return round(sum(self.sizes) / len(self.sizes))


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: Sequence[str], port: int, core: int, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Runs a server on one core until the block ends, and gives its process id once it listens.

    Raises TargetError with the end of its output when it does not start, or does not end in time on SIGTERM.
    """
    with tempfile.TemporaryFile() as output:
        # The affinity is inherited: everything that the server starts stays on its core.
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.sched_setaffinity(0, own)
        try:
            _wait_for_port(process, " ".join(command), port, output)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], command: str, port: int, output: IO[bytes]) -> None:
    until = time.monotonic() + START_S
    while True:
        if process.poll() is not None:
            raise TargetError(f"{command} ended at once:\n{_end_of(output)}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > until:
            raise TargetError(f"nothing listens on port {port} after {START_S:.0f} s:\n{_end_of(output)}")
        time.sleep(0.05)


def _end_of(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")[-3000:]


def echo_command(kind: str, port: int, answer_bytes: int) -> list[str]:
    """The command line of one of `bench.echo`'s servers."""
    return [sys.executable, "-m", "bench.echo", kind, "--port", str(port), "--answer-bytes", str(answer_bytes)]


def wait_until_serving(port: int, service: str) -> None:
    """Waits until grpc.health.v1 says SERVING. Raises TargetError when it does not in time."""
    until = time.monotonic() + START_S
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: UnaryCall = channel.unary_unary("/grpc.health.v1.Health/Check")
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        while time.monotonic() < until:
            try:
                answer = health_pb2.HealthCheckResponse.FromString(check(request, timeout=5))
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
    raise TargetError(f"{service} on port {port} is not SERVING after {START_S:.0f} s")


def ask(port: int, requests: Sequence[bytes], path: str = DECIDE_PATH) -> Answers:
    """Sends every request once through gRPC's own client, with an id of its own, and returns the answers.

    Raises TargetError naming every status that is not OK.
    """
    run = os.urandom(8).hex().encode()
    messages: list[bytes] = []
    refused: Counter[str] = Counter()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: UnaryCall = channel.unary_unary(path)
        for number, request in enumerate(requests):
            identifier = b"check-" + run + b"%08x" % number
            try:
                messages.append(call(request.replace(ID_MARKER, identifier), timeout=10))
            except grpc.RpcError as error:
                refused[f"{error.code().name}: {error.details()}"] += 1
    if refused:
        raise TargetError("real calls fail: " + "; ".join(f"{text} ({count} times)" for text, count in refused.items()))
    return Answers(tuple(map(len, messages)), tuple(messages))
