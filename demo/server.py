"""Starts the server of the demonstration as its own process, as an operator would, and stops it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READY = re.compile(r"assay: ready, .*\(port (\d+)\)")
_START_S = 60.0
_STOP_S = 30.0


class ServerFailed(RuntimeError):
    """The server ended before it was ready; the message holds what it said."""


@contextmanager
def running_server(directory: Path) -> Iterator[str]:
    """A server on a free loopback port, with its data under `directory`. Gives its address."""
    log_path = directory / "server.log"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("ASSAY_")},
        "ASSAY_SERVER_ADDRESS": "127.0.0.1:0",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        "ASSAY_STORE_PATH": str(directory / "features"),
        "ASSAY_RECORD_PATH": str(directory / "decisions"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "serve"],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_pump, args=(process, log_path, lines), daemon=True)
    reader.start()
    try:
        yield f"127.0.0.1:{_port(lines)}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(_STOP_S)


def _pump(process: subprocess.Popen[str], log_path: Path, lines: queue.Queue[str | None]) -> None:
    assert process.stderr is not None
    with log_path.open("w", encoding="utf-8") as log:
        for line in process.stderr:
            log.write(line)
            lines.put(line)
    lines.put(None)


def _port(lines: queue.Queue[str | None]) -> int:
    said: list[str] = []
    while True:
        try:
            line = lines.get(timeout=_START_S)
        except queue.Empty as error:
            raise ServerFailed(f"The server was not ready within {_START_S:.0f} seconds.") from error
        if line is None:
            raise ServerFailed("The server ended before it was ready:\n" + "".join(said[-20:]))
        said.append(line)
        match = _READY.search(line)
        if match:
            return int(match[1])
