"""Tries a bundle in a process of its own: whatever is in it, the server's processes neither end nor slow down by it.

python -m engine.traffic.trial DIRECTORY          prints what was found, as JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BundleError, Problem

_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Tried:
    """A bundle without mistakes. scenarios: how many golden cases gave their stored answer."""

    name: str
    version: str
    digest: str
    flows: tuple[str, ...]
    scenarios: int
    notes: tuple[str, ...]


def try_bundle(root: Path, timeout_s: float = 120.0) -> Tried:
    """Loads a bundle wholly, golden scenarios and all, in a process of low priority. Raises BundleError."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.traffic.trial", str(root)],
            capture_output=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failed(root, f"could not be loaded in {timeout_s:g} s") from None
    try:
        content = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise _failed(root, f"ended the process that tried it (exit code {done.returncode}: {last})") from None
    if content["problems"]:
        raise BundleError([Problem(*problem) for problem in content["problems"]])
    tried = content["tried"]
    return Tried(**{**tried, "flows": tuple(tried["flows"]), "notes": tuple(tried["notes"])})


def _failed(root: Path, message: str) -> BundleError:
    return BundleError([Problem(str(root), "", message, "Run `assay check` on it.")])


def main(root: Path) -> int:
    """What the process does. Returns its exit code."""
    from engine.bundle.load import load_bundle

    # Not every system lets a process be less important.
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    tried, problems = None, []
    try:
        loaded = load_bundle(root)
        tried = {
            "name": loaded.plan.name,
            "version": loaded.plan.version,
            "digest": loaded.plan.digest,
            "flows": list(loaded.plan.flows),
            "scenarios": loaded.scenarios,
            "notes": loaded.notes,
        }
    except BundleError as error:
        problems = [[p.file, p.place, p.message, p.fix] for p in error.problems]
    json.dump({"tried": tried, "problems": problems}, sys.stdout)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
