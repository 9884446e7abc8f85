"""What the kernel says about a process and the machine (Linux)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time so far, in seconds, of a process with all its threads and all its living descendants.

    Raises ProcessLookupError when the process is gone.
    """
    total, waiting = 0.0, [pid]
    while waiting:
        current = waiting.pop()
        try:
            fields = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
            for task in Path(f"/proc/{current}/task").iterdir():
                # Threads come and go; one that has gone meanwhile has no children of its own.
                with suppress(FileNotFoundError, ProcessLookupError):
                    waiting += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            if current == pid:
                raise ProcessLookupError(f"process {pid} is gone") from None
    return total


def machine() -> dict[str, str | int]:
    """Processor, number of cores this process may use, memory in GiB, and kernel."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20),
        "kernel": os.uname().release,
    }
