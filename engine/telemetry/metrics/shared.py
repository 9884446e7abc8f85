"""Several workers, one page: each worker leaves its snapshot in a directory, and who answers the scrape adds them up.

    worker       publisher = Publisher(directory, metrics.snapshot); publisher.start()
    supervisor   Endpoint(SnapshotDirectory(directory).finished)

One file a worker process, `<pid>-<when it began>.metrics`, replaced as a whole. The file of a worker that is gone
stays: what it counted still counts, or the sums would go down and Prometheus would take that for a restart of all. The
supervisor folds such files into one (`retire`), so that they do not pile up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from engine.telemetry.metrics.drift import put_drift
from engine.telemetry.metrics.snapshot import Snapshot, dump, load, merge

_log = logging.getLogger("assay.metrics")
_SUFFIX = ".metrics"
_RETIRED = "retired" + _SUFFIX


class Publisher:
    """Leaves a worker's snapshot in a directory, every so often, and once more at the end."""

    def __init__(self, directory: Path, snapshot: Callable[[], Snapshot], interval_s: float = 5.0) -> None:
        """interval_s: how old what a scrape sees may be. Made after the fork."""
        self._snapshot, self._interval_s = snapshot, interval_s
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = directory / f"{os.getpid()}-{time.time_ns()}{_SUFFIX}"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def publish(self) -> None:
        """Leaves the snapshot of now. A disk that is full is told once, and stops nothing."""
        new = self._file.with_suffix(".new")
        try:
            new.write_bytes(dump(self._snapshot()))
            new.replace(self._file)
            self._failing = False
        except OSError as error:
            if not self._failing:
                _log.warning("metrics cannot be shared", extra={"error": str(error)})
            self._failing = True

    def start(self) -> None:
        """Publishes from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="metrics-publish", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Publishes once more and ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self.publish()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.publish()


class SnapshotDirectory:
    """The snapshots of all workers. Threads may call it at once; one process only may `retire`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forgets everything: for the supervisor, before it starts its first worker."""
        for file in (*self._files(), self._retired):
            file.unlink(missing_ok=True)

    def merged(self) -> Snapshot:
        """What all workers counted, those that are gone included, and the gauges of those that are there."""
        with self._lock:
            retired, gone, live = self._read()
            return merge(live.values(), [retired, *gone.values()])

    def finished(self) -> Snapshot:
        """The same, ready to be shown."""
        snapshot = self.merged()
        put_drift(snapshot)
        return snapshot

    def retire(self) -> None:
        """Folds the files of workers that are gone into one."""
        with self._lock:
            retired, gone, _ = self._read()
            if not gone:
                return
            # The names first: whoever dies before the files are removed must not have them counted twice.
            names = json.dumps([file.name for file in gone]).encode()
            new = self._retired.with_suffix(".new")
            new.write_bytes(names + b"\n" + dump(merge((), [retired, *gone.values()])))
            new.replace(self._retired)
            for file in gone:
                file.unlink(missing_ok=True)

    @property
    def _retired(self) -> Path:
        return self._directory / _RETIRED

    def _files(self) -> list[Path]:
        return sorted(file for file in self._directory.glob(f"*{_SUFFIX}") if file.name != _RETIRED)

    def _read(self) -> tuple[Snapshot, dict[Path, Snapshot], dict[Path, Snapshot]]:
        """What was retired, the files of workers that are gone, and those of workers that are there."""
        retired, counted = Snapshot(), set()
        with contextlib.suppress(OSError, ValueError):
            names, _, content = self._retired.read_bytes().partition(b"\n")
            retired, counted = load(content), set(json.loads(names))
        live: dict[Path, Snapshot] = {}
        gone: dict[Path, Snapshot] = {}
        files = [file for file in self._files() if file.name not in counted]
        # A number is given to a new process some day; of two files with one number the later is the process's.
        latest = {_pid(file): file for file in sorted(files, key=_began)}
        for file in files:
            with contextlib.suppress(OSError, ValueError):
                there = latest[_pid(file)] == file and _alive(_pid(file))
                (live if there else gone)[file] = load(file.read_bytes())
        return retired, gone, live


def _pid(file: Path) -> int:
    text = file.name.partition("-")[0]
    return int(text) if text.isdigit() else -1


def _began(file: Path) -> int:
    text = file.stem.rpartition("-")[2]
    return int(text) if text.isdigit() else 0


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
