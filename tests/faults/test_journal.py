"""What was promised is kept: through kill -9 of several writers, loss of power, and a disk without room."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.record.log import DecisionLog, Existing
from engine.record.segments import list_segments
from engine.record.verify import verify

from . import journal_writer
from .journal_writer import DIGEST, MASTER, OPEN, PERSONAL

_KILLS = 20


class Writer:
    """A process that decides, and all that it told."""

    def __init__(self, directory: Path, worker: str, run: int, durability: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(journal_writer.__file__), str(directory), worker, str(run), durability],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.lines: list[list[str]] = []
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                self.lines.append(line.decode().split())
                if line.startswith(b"A"):
                    self._begun.set()
        self._begun.set()

    def kill(self, after_s: float) -> None:
        """Kill it some time after its first decision."""
        assert self._begun.wait(60)
        time.sleep(after_s)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def promised(self) -> list[str]:
        return [line[1] for line in self.lines if line[0] == "A"]


def check(directory: Path, promised: Sequence[str], erased: frozenset[str] = frozenset()) -> None:
    """Every decision that was promised is there, once, whole, and the answer to its request; the chains verify."""
    log = DecisionLog.open(directory, worker="checker", master=MASTER)
    try:
        assert not log.recovery.damage
        found: set[str] = set()
        for stored in log.iterate():
            assert stored.decision_id not in found
            found.add(stored.decision_id)
            name = stored.decision_id.encode()
            assert stored.open_part.rstrip(b"x") == OPEN + name
            if stored.locked:  # its key was lost with the power, and so nobody was promised this one
                assert stored.decision_id not in promised
                continue
            gone = stored.decision_id in erased
            assert (stored.erased, stored.record[len(stored.open_part) :]) == (gone, b"" if gone else PERSONAL + name)
        assert found >= set(promised)
        for promise in promised:
            answer = log.claim(promise.encode(), DIGEST)
            assert isinstance(answer, Existing)
            assert answer.decision_id == promise
        assert log.get_catalogue("sha256:c") == b"slots"
    finally:
        log.close()
    findings = [finding for report in verify(directory, MASTER.heads, processes=1) for finding in report.findings]
    assert not findings


def test_two_writers_killed_again_and_again_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    chance = random.Random(5)
    promised: list[str] = []
    for run in range(_KILLS // 2):
        writers = [Writer(tmp_path, worker, run, "process") for worker in ("w0", "w1")]
        for writer in writers:
            writer.kill(chance.uniform(0.0, 0.15))
            promised += writer.promised
        if run == 4:
            check(tmp_path, promised)
    assert len(promised) > 1000
    check(tmp_path, promised)
    # Somebody is erased after all that: her records alone are gone, in every run and of every worker.
    log = DecisionLog.open(tmp_path, worker="checker", master=MASTER)
    everyone = [stored.decision_id for stored in log.iterate()]
    assert log.erase("s7")
    log.close()
    check(tmp_path, promised, frozenset(name for name in everyone if int(name.rpartition(".")[2]) % 50 == 7))


@pytest.mark.parametrize("leaves", ["nothing", "a part", "zeros"])
def test_loss_of_power_takes_nothing_that_was_promised(tmp_path: Path, leaves: str) -> None:
    """What was written after a file's last sync is dropped, or partly there, or zeros, and so are files whose directory
    was not synced since they were made."""
    chance = random.Random(leaves)
    directory, promised = tmp_path / "journal", []
    for run in range(3):
        writer = Writer(directory, "w0", run, "disk")
        writer.kill(chance.uniform(0.05, 0.3))
        promised += writer.promised
        lose_power(directory, writer, leaves, chance)
    assert len(promised) > 50
    check(directory, promised)


def lose_power(directory: Path, writer: Writer, leaves: str, chance: random.Random) -> None:
    """Leaves of every file what its last sync covered. Files of earlier runs had all of theirs written back since."""
    synced: dict[str, int] = {}
    entries: dict[str, set[str]] = {}
    for line in writer.lines:
        if line[0] == "S" and line[1].endswith("/"):
            entries.setdefault(line[1].rstrip("/"), set()).update(line[2].split(","))
        elif line[0] == "S":
            # Of two threads that sync at once, the one that began first may tell last.
            synced[line[1]] = max(synced.get(line[1], 0), int(line[2]))
    shutil.rmtree(directory / "index")  # was not synced, and knows it
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.suffix in (".journal", ".keys", ".heads")):
        size, covered = path.stat().st_size, synced.get(str(path))
        if path.name not in entries.get(str(path.parent), {path.name}):
            path.unlink()
        elif covered is not None and covered < size:
            kept = chance.randint(covered, size) if leaves == "a part" else covered
            os.truncate(path, kept)
            if leaves == "zeros" and path.suffix == ".journal":
                os.truncate(path, size)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_file_system_fails_closed_and_heals_and_nothing_half_written_stays(tmp_path: Path) -> None:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"no tmpfs here: {mount.stderr.decode()}")
    chance, kept = random.Random(5), []
    try:
        log = DecisionLog.open(tmp_path, master=MASTER, segment_bytes=1 << 18)
        log.declare_catalogue("sha256:c", b"slots")

        def decide(n: int) -> bool:
            name = f"w0.0.0.{n}"
            log.claim(name.encode(), DIGEST)
            try:
                content = OPEN + name.encode() + b"x" * chance.randrange(5000)
                log.commit(name.encode(), name, DIGEST, content, PERSONAL + name.encode(), f"s{n}")
            except RecordError as error:
                assert "No space" in str(error) or "only a part" in str(error)
                log.abandon(name.encode())
                return False
            kept.append(name)
            return True

        n, refused = 0, 0
        for _ in range(5):
            filler = tmp_path / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"x" * 4096)
            for _ in range(20):
                refused += not decide(n)
                n += 1
            filler.unlink()
            for _ in range(20):
                assert decide(n), "there is room again"
                n += 1
        assert refused > 20
        log.close()
        assert len(list_segments(tmp_path)) >= 1
        check(tmp_path, kept)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
