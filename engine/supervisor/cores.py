"""How many worker processes a machine, or the part of it that this process may use, has room for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine.config_serving import WORKERS_MAX

_CGROUP = Path("/sys/fs/cgroup")
# What a worker takes at most, and what all else takes: the supervisor, the exporter of traces, the shipper.
WORKER_BYTES = 250 * 1024**2
_REST_BYTES = 250 * 1024**2
# A limit beyond this is none.
_NO_LIMIT = 1 << 60


def cores() -> list[int]:
    """The cores that this process may run on."""
    try:
        return sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return list(range(os.cpu_count() or 1))


def quota(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> float:
    """How many cores' time the control group of this process may take; infinite without a limit."""
    least = float("inf")
    for directory in _groups(root, own, "cpu"):
        with suppress(OSError, ValueError, IndexError):
            most, period = (directory / "cpu.max").read_text(encoding="ascii").split()
            if most != "max":
                least = min(least, int(most) / int(period))
        with suppress(OSError, ValueError):
            most = (directory / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (directory / "cpu.cfs_period_us").read_text(encoding="ascii")
            if int(most) > 0:
                least = min(least, int(most) / int(period))
    return least


def memory(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> float:
    """Bytes that this process and those that it starts may take; infinite where nobody says."""
    least = float("inf")
    with suppress(OSError, ValueError, StopIteration):
        lines = meminfo.read_text(encoding="ascii").splitlines()
        least = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024.0
    for directory in _groups(root, own, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):
                most = int((directory / limit).read_text(encoding="ascii"))
                if most < _NO_LIMIT:
                    least = min(least, most - int((directory / used).read_text(encoding="ascii")))
    return least


def workers_for(cores_usable: int, quota_cores: float, memory_bytes: float) -> int:
    """How many workers: one for each core whose time is there, as far as the memory goes, one at least."""
    by_time = max(1, int(min(float(cores_usable), quota_cores)))
    by_memory = max(1.0, (memory_bytes - _REST_BYTES) / WORKER_BYTES)
    return int(min(by_time, by_memory, WORKERS_MAX))


def auto() -> int:
    """How many workers this machine has room for."""
    return workers_for(len(cores()), quota(), memory())


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The directories of the control groups that bound this process, from its own up to the root."""
    paths = []
    with suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, names, path = line.split(":", 2)
            if not names:
                paths.append((root, path))
            elif controller in names.split(","):
                paths += [(root / names, path), (root / controller, path)]
    for base, path in paths:
        directory = base / path.lstrip("/")
        while True:
            if directory.is_dir():
                yield directory
            if directory == base:
                break
            directory = directory.parent
