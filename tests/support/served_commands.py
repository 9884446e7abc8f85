"""Several servers of a test at once, and `assay` beside them, as an operator calls it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.bundles import BUNDLE
from tests.support.server import Client, ServerProcess, environment


@contextlib.contextmanager
def running_together(
    servers: Sequence[tuple[Path, Mapping[str, str]]], bundle: Path = BUNDLE
) -> Iterator[list[tuple[ServerProcess, Client]]]:
    """Servers with their clients, started at the same time, each with its home and settings. Killed at the end if they
    still run."""
    with contextlib.ExitStack() as stack:
        started = []
        for home, settings in servers:
            server = ServerProcess(home, bundle, settings)
            stack.callback(server.stop, signal.SIGKILL)
            started.append(server)
        made = []
        for server in started:
            server.wait_ready()
            client = Client(server.address)
            stack.callback(client.close)
            made.append((server, client))
        yield made


def assay(
    home: Path,
    *words: str,
    bundle: Path = BUNDLE,
    settings: Mapping[str, str] | None = None,
    timeout_s: float = 200.0,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with the settings of a server."""
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", *words],
        env=environment(home, bundle, settings),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def assert_journal_is_whole(home: Path, settings: Mapping[str, str] | None = None) -> None:
    """What `assay audit verify` finds."""
    done = assay(home, "audit", "verify", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The journal is whole." in done.stdout
    assert "Signatures were not checked" not in done.stdout
