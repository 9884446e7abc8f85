"""h2load (nghttp2) as a second witness: the same bytes from a generator written by others.

It sends one body for ever, so it serves for the echo servers only; there both generators must find the same CPU.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.messages import DECIDE_PATH
from bench.procfs import cpu_seconds


class H2loadError(RuntimeError):
    """h2load failed, or not every call was answered in full."""


@dataclass(frozen=True, slots=True)
class H2loadReport:
    """Figures of one run, in the units of `bench.h2gen.Report`."""

    calls: int
    rps: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float


def available() -> bool:
    """Whether h2load is installed."""
    return shutil.which("h2load") is not None


def run(
    port: int,
    request: bytes,
    *,
    connections: int,
    streams: int,
    calls: int,
    core: int,
    server_pid: int,
    answer_bytes: int,
) -> H2loadReport:
    """Sends so many calls, after a tenth as many to warm up, from the given core.

    answer_bytes: size of the answer message; with the five bytes of gRPC's prefix every answer must have it, because
    h2load itself does not look at the gRPC status. Raises H2loadError.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(b"\x00" + struct.pack(">I", len(request)) + request)
        command = [
            *("taskset", "-c", str(core), "h2load"),
            *("-c", str(connections), "-m", str(streams), "-d", str(body)),
            *("-H", "te: trailers", "-H", "content-type: application/grpc", "-H", "grpc-timeout: 10S"),
        ]
        url = f"http://127.0.0.1:{port}{DECIDE_PATH}"
        _call([*command, "-n", str(max(connections * streams, calls // 10)), url])
        before = cpu_seconds(server_pid)
        output = _call([*command, "-n", str(calls), f"--log-file={log}", url])
        server_cpu_s = cpu_seconds(server_pid) - before
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    data_bytes = re.search(r"traffic:.*\((\d+)\) data", output)
    seconds = re.search(r"finished in ([0-9.]+)(m?s),", output)
    if len(rows) != calls or data_bytes is None or seconds is None:
        raise H2loadError(f"h2load did not finish {calls} calls:\n{output[-1500:]}")
    if any(row[1] != "200" for row in rows) or int(data_bytes[1]) != calls * (answer_bytes + 5):
        raise H2loadError(f"not every answer was whole:\n{output[-1500:]}")
    latencies_ms = sorted(int(row[2]) / 1e3 for row in rows)
    elapsed_s = float(seconds[1]) / (1000 if seconds[2] == "ms" else 1)
    return H2loadReport(
        calls=calls,
        rps=calls / elapsed_s,
        p50_ms=latencies_ms[calls // 2],
        p99_ms=latencies_ms[min(calls - 1, calls * 99 // 100)],
        server_cpu_us=server_cpu_s / calls * 1e6,
    )


def _call(command: list[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False, env=os.environ
    )
    if done.returncode != 0:
        raise H2loadError(f"{' '.join(command)} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout
