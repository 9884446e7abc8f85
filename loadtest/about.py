"""What a run was made with: machine, versions, commit. Names of hosts and users are left out on purpose."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import psutil

from engine import __version__

ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = ("grpcio", "protobuf", "locust", "gevent", "hdrhistogram", "uvloop", "onnxruntime", "numpy", "lmdb")


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, system, and how busy it was before."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return {
        "cpu": _processor(),
        "cores": cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {re.split(r'[^0-9.]', platform.release())[0]}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """The engine, Python, and the libraries that a figure may depend on."""
    found = {"assay": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the tree, with -dirty where it was changed; empty where there is none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return described.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
