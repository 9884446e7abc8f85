"""Ships a journal in a process of its own, for tests that kill it: `python -m tests.support.shipping_process JOURNAL
HOST:PORT KEYSPACE [--with-parent]`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from engine.features.stores.cassandra_settings import CassandraSettings
from engine.shipping.process import end_with_parent
from engine.shipping.shipper import Shipper
from engine.shipping.subjects import JournalSubjects
from tests.support.shipping import MASTER, QUICK


def command(journal: Path, where: CassandraSettings, *options: str) -> list[str]:
    """What to run."""
    return [sys.executable, "-m", __name__, str(journal), where.addresses[0], where.keyspace, *options]


def start(journal: Path, where: CassandraSettings) -> subprocess.Popen[bytes]:
    """Run it. It says nothing, and ends when it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command(journal, where), env=environment, stdin=subprocess.DEVNULL)


def main() -> None:
    """Ship until the end."""
    journal, address, keyspace, *options = sys.argv[1:]
    where = CassandraSettings((address,), keyspace, connect_timeout_ms=10_000)
    settings = replace(QUICK, batch_rows=20, drop=False)
    shipper = Shipper(Path(journal), where, settings, subjects=JournalSubjects(Path(journal), MASTER))
    ended = threading.Event()
    if "--with-parent" in options:
        end_with_parent(ended.set)
    shipper.start()
    ended.wait()
    shipper.stop()


if __name__ == "__main__":
    main()
