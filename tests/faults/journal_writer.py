"""A process that decides as fast as it can, and tells what it did: what it was promised, and what was made durable.

    python journal_writer.py DIRECTORY WORKER RUN DURABILITY

Lines on standard output, each written after the fact: `A name` (the decision is committed), `S path size` (so much of
a file is durable, `path/` for a directory whose entries are), in the order in which they came true.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from engine.record import key_files, subject_keys
from engine.record.log import Claimed, DecisionLog
from engine.record.master import MasterKey

MASTER = MasterKey(b"m" * 32)
OPEN, PERSONAL = b"open ", b"personal "
DIGEST = b"d" * 33
_THREADS = 4


def _told(real: Callable[[Any], None]) -> Callable[[Any], None]:
    """A sync that tells what it covered: what was in the file when it began."""

    def sync(fd: int) -> None:
        found = os.fstat(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        names = ",".join(sorted(os.listdir(fd))) if stat.S_ISDIR(found.st_mode) else ""
        real(fd)
        os.write(1, f"S {path}{'/' if names else ''} {names or found.st_size}\n".encode())

    return sync


def main(directory: str, worker: str, run: str, durability: Literal["process", "disk"]) -> None:
    """Decides until it is killed."""
    if durability == "disk":
        # Every run comes after a loss of power, and so after another start of the machine.
        for module in (key_files, subject_keys):
            vars(module)["boot_mark"] = lambda: run.zfill(16).encode()
    for name in ("fdatasync", "fsync"):
        setattr(os, name, _told(getattr(os, name)))
    log = DecisionLog.open(
        Path(directory),
        worker=worker,
        durability=durability,
        segment_bytes=1 << 18,
        master=MASTER,
    )
    log.declare_catalogue("sha256:c", b"slots")

    def write(thread: int) -> None:
        n = 0
        while True:
            name = f"{worker}.{run}.{thread}.{n}"
            key = name.encode()
            assert log.claim(key, DIGEST) == Claimed()
            log.commit(key, name, DIGEST, OPEN + key + b"x" * (n * 97 % 5000), PERSONAL + key, f"s{n % 50}")
            os.write(1, f"A {name}\n".encode())
            n += 1

    for thread in range(_THREADS):
        threading.Thread(target=write, args=(thread,)).start()


if __name__ == "__main__":
    _, place, name, number, wanted = sys.argv
    main(place, name, number, "disk" if wanted == "disk" else "process")
