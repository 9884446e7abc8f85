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

from engine.record.log import Claimed, DecisionLog
from engine.record.master import MasterKey

MASTER = MasterKey(b"m" * 32)
OPEN, PERSONAL = b"open ", b"personal "
DIGEST = b"d" * 33
_THREADS = 4


def _told(real: Callable[[int], None]) -> Callable[[int], None]:
    """A sync that tells what it covered: what was in the file when it began."""

    def sync(fd: int) -> None:
        found = os.fstat(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        names = ",".join(sorted(os.listdir(fd))) if stat.S_ISDIR(found.st_mode) else ""
        real(fd)
        os.write(1, f"S {path}{'/' if names else ''} {names or found.st_size}\n".encode())

    return sync


def main(directory: str, worker: str, run: str, durability: str) -> None:
    """Decides until it is killed."""
    os.fdatasync, os.fsync = _told(os.fdatasync), _told(os.fsync)
    log = DecisionLog.open(
        Path(directory),
        worker=worker,
        durability=durability,
        segment_bytes=1 << 18,
        master=MASTER,  # type: ignore[arg-type]
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
    main(*sys.argv[1:])
