"""What this process holds: sockets, threads, memory."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:  # the one of the listing itself
            continue
    return count


def own_threads() -> int:
    """How many threads there are besides the proxy's."""
    return sum(thread.name != "proxy" for thread in threading.enumerate())


def resident_mib() -> float:
    """Memory in use, garbage left out."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20
