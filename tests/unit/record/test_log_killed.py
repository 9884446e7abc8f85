"""A decision that was reported is never lost: processes are killed at full speed, disks fill up, workers die."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.record.log import Claimed, DecisionLog, Existing
from tests.unit.record.test_journal import file_size_limit

DIGEST = b"d" * 32

WRITER = """
import os, sys, threading
from engine.record.log import Claimed, DecisionLog

directory, worker, run = sys.argv[1:]
log = DecisionLog.open(directory, worker=worker, segment_bytes=1 << 20)
log.declare_catalogue("sha256:c", b"slots")

def write(thread):
    n = 0
    while True:
        name = f"{worker}.{run}.{thread}.{n}"
        key = name.encode()
        assert log.claim(key, b"d" * 32) == Claimed()
        log.commit(key, "id-" + name, b"d" * 32, key + b"x" * (n * 97 % 5000))
        os.write(1, key + b"\\n")
        n += 1

for thread in range(4):
    threading.Thread(target=write, args=(thread,)).start()
"""


def start(directory: Path, worker: str, run: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), worker, str(run)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def kill(process: subprocess.Popen[bytes], after_s: float) -> list[bytes]:
    """What a writer reported until it was killed, `after_s` after its first word."""
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    timer = time.monotonic() + after_s
    while time.monotonic() < timer:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    lines.extend(process.stdout.readlines())
    process.wait()
    process.stdout.close()
    return [line.strip() for line in lines if line.endswith(b"\n")]


def check(log: DecisionLog, reported: list[bytes]) -> None:
    """Every reported decision is in the journal once, is the answer to its request, and a sample reads as written."""
    once = [decision.request_key for decision in log.iterate()]
    assert len(once) == len(set(once))
    assert set(once) >= set(reported)
    for name in reported:
        answer = log.claim(name, DIGEST)
        assert isinstance(answer, Existing)
        assert answer.decision_id == "id-" + name.decode()
    for name in random.Random(5).sample(reported, min(200, len(reported))):
        stored = log.get_by_request_key(name)
        assert stored is not None
        assert stored.record.rstrip(b"x") == name
        assert log.get_by_decision_id("id-" + name.decode()) == stored
    assert log.get_catalogue("sha256:c") == b"slots"


def test_every_decision_that_was_reported_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(11)
    reported: list[bytes] = []
    for run in range(8):
        reported += kill(start(tmp_path, "w0", run), chance.uniform(0.0, 0.2))
        if run % 4 == 3:
            # Some crashes follow one another with nobody looking; after others the log is opened and read.
            log = DecisionLog.open(tmp_path)
            assert not log.recovery.damage
            check(log, reported)
            log.close()
    assert len(reported) > 50
    shutil.rmtree(tmp_path / "index")
    log = DecisionLog.open(tmp_path)
    assert not log.recovery.torn
    check(log, reported)
    log.close()


def test_what_a_dead_worker_left_is_indexed_by_the_living(tmp_path: Path) -> None:
    processes = [start(tmp_path, worker, 0) for worker in ("w0", "w1")]
    reported = [name for process in processes for name in kill(process, 0.3)]
    log = DecisionLog.open(tmp_path, worker="w2")
    assert {name[:2] for name in reported} == {b"w0", b"w1"}
    check(log, reported)
    log.close()


def test_a_living_workers_decisions_are_found_by_another_process(tmp_path: Path) -> None:
    process = start(tmp_path, "w1", 0)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        log = DecisionLog.open(tmp_path, worker="w0")
        for _ in range(50):
            name = process.stdout.readline().strip()
            stored = log.get_by_request_key(name)
            assert stored is not None
            assert stored.request_key == name
        log.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_full_disk_fails_closed_and_heals(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path)
    log.declare_catalogue("sha256:c", b"slots")
    kept: list[bytes] = []

    def decide(name: bytes) -> None:
        assert log.claim(name, DIGEST) == Claimed()
        try:
            log.commit(name, "id-" + name.decode(), DIGEST, name + b"x" * 4000)
        except RecordError:
            log.abandon(name)
            raise
        kept.append(name)

    with file_size_limit(200_000), pytest.raises(RecordError, match="cannot be written"):
        for n in range(1000):
            decide(b"a%d" % n)
    assert 40 < len(kept) < 60
    refused = b"a%d" % len(kept)
    assert log.get_by_request_key(refused) is None
    for n in range(len(kept), 100):
        decide(b"a%d" % n)
    check(log, kept)
    log.close()
    log = DecisionLog.open(tmp_path)
    assert not log.recovery.torn
    assert not log.recovery.damage
    check(log, kept)
    log.close()


def test_an_index_that_cannot_be_written_stops_nobody_and_catches_up(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, segment_bytes=1 << 16)
    log.declare_catalogue("sha256:c", b"slots")
    names = [b"n%d" % n for n in range(1500)]
    index_bytes = (tmp_path / "index" / "data.mdb").stat().st_size
    with file_size_limit(max(index_bytes, 70_000)):
        for name in names:
            log.claim(name, DIGEST)
            log.commit(name, "id-" + name.decode(), DIGEST, name)
        deadline = time.monotonic() + 60
        while log.index_error is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert isinstance(log.index_error, RecordError)
        check(log, names)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 70_000
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and log.index_error is not None:
        time.sleep(0.02)
    assert log.index_error is None
    check(log, names)
    assert not log._feed._waiting
    log.close()


def test_workers_that_start_together_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    for run in range(2):
        processes = [start(tmp_path, f"w{i}", run) for i in range(4)]
        reported = [kill(process, 0.1) for process in processes]
        assert all(reported), "a worker did not start"
    log = DecisionLog.open(tmp_path)
    check(log, [name for names in reported for name in names])
    log.close()
