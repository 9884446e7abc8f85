"""The embedded store: damaged, full, and with another process that was halted or killed while it wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay.decision.v1 import decision_pb2 as pb
from engine.features.store import Row, StoreUnavailable, row_key
from engine.features.stores.embedded import EmbeddedStore
from tests.faults import stores
from tests.faults.damaged import HOW
from tests.faults.desk import Answer, Desk, OpenDesk, Reference
from tests.faults.trial import Cell, Fault, Matrix, run
from tests.support.faulty import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_file_leads_to_no_loan(how: str, reference: Reference, matrix: Matrix, tmp_path: Path) -> None:
    """What is damaged is UNAVAILABLE. LMDB trusts the pages of its tree, and a page that points beyond the file, or a
    file that was cut, can end the process instead: then there is no decision, which is no loan either."""
    desk = Desk(stores.embedded(tmp_path), tmp_path)
    desk.load()
    desk.close()
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.damaged", str(tmp_path), desk.subject, how],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    answers = [
        Answer(pb.Decision.FromString(bytes.fromhex(line["decision"])), line["took_s"], frozenset(line["lost"]))
        for line in map(json.loads, done.stdout.splitlines())
    ]
    if how in {"bytes at random", "truncated"}:
        assert done.returncode in {0, -signal.SIGBUS, -signal.SIGSEGV}, done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert len(answers) == 5
    reference.check(answers)
    assert all(len(answer.lost) > 10 for answer in answers)
    verdicts = " ".join(sorted({answer.verdict for answer in answers}))
    if done.returncode:
        verdicts = f"{verdicts} {signal.Signals(-done.returncode).name}".strip()
    slowest_ms = 1000 * max((answer.took_s for answer in answers), default=0.0)
    matrix.cells.append(Cell("embedded", "single", how, verdicts, slowest_ms, 0.0, 0.0, 0.0))


def rows(count: int, bytes_each: int = 3000) -> Iterator[Row]:
    """Rubbish."""
    for i in range(count):
        value = b"AsR\x01" + bytes(12) + (1).to_bytes(8, "little") + b"x" * bytes_each
        yield Row(row_key("filler", str(i), "rubbish"), value, 1)


def test_one_that_may_not_grow_goes_on_being_read(
    open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    store = stores.embedded(tmp_path, map_bytes=1 << 18, max_map_bytes=1 << 20)
    desk = open_desk(store, patient=True)
    desk.load()

    def fill() -> None:
        with pytest.raises(StoreUnavailable, match="full"):
            store.write(rows(2000))
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="full"):
                store.write(rows(500))

    def make_room() -> None:
        store.delete([row.key for row in rows(2000)])
        desk.load()

    run(desk, Fault("full (map)", fill, make_room, "none"), reference, matrix)


def test_one_on_a_full_disk_goes_on_being_read(
    open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("SKIPPED: a full disk needs the right to mount one")
    try:
        store = stores.embedded(disk)
        desk = open_desk(store, patient=True)
        desk.load()

        def fill() -> None:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    store.write(rows(2000))

        def make_room() -> None:
            subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
            store.write(rows(2000))
            desk.load()

        run(desk, Fault("full (disk)", fill, make_room, "none"), reference, matrix)
        desk.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


HALTED = """
import os, signal, sys
from pathlib import Path
from tests.faults.stores import embedded

def halt(held):
    os.kill(os.getpid(), signal.SIGSTOP)  # within the transaction, with the writers' lock
    return held

embedded(Path(sys.argv[1])).update([(b"{subject/1}bureau", halt)])
"""


def test_a_writer_that_is_halted_and_killed_in_its_transaction_keeps_nobody_from_reading(
    open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    store = stores.embedded(tmp_path)
    desk = open_desk(store, patient=True)
    desk.load()
    writers: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        writers.append(
            subprocess.Popen(
                [sys.executable, "-c", HALTED, str(tmp_path)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
            )
        )
        state = Path(f"/proc/{writers[0].pid}/stat")
        until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")

    def end() -> None:
        writers[0].kill()
        writers[0].wait()
        desk.load()  # its lock is free again

    run(desk, Fault("a writer halted, killed", begin, end, "none"), reference, matrix)
    assert isinstance(store, EmbeddedStore)
