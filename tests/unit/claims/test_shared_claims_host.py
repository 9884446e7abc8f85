"""The table that the workers of a host share, at its limits: full, torn, begun by others, forked."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.claims import host_table
from engine.claims.host import FILE_NAME, HostClaims, _key_of
from engine.claims.host_table import FILE_BYTES, WORKERS_MAX
from engine.claims.shared import Answered, Decided, Held, Mine
from engine.errors import RecordError, Refusal
from engine.record.segments import Position

DIGEST = hashlib.sha256(b"one").digest()
CELLS = host_table._BUCKETS * host_table._WAYS


SEGMENT = "w0-00000001"


def opened(directory: Path, indexed_to: Callable[[], int] = lambda: 0) -> HostClaims:
    return HostClaims(directory, lambda: None, lambda: Position(SEGMENT, indexed_to()))


def request(i: int) -> bytes:
    return b"\0request-%d" % i


def settle(claims: HostClaims, i: int) -> None:
    assert isinstance(claims.take(request(i), DIGEST, 5.0), Mine)
    claims.settle(Decided(request(i), DIGEST, f"d-{i}", b"", Position(SEGMENT, i)))


def test_what_the_index_has_makes_room_and_the_rest_is_looked_for(tmp_path: Path) -> None:
    """Far more decisions than the table has cells: none is forgotten without anybody being told to look."""
    indexed_to = 0
    first, second = opened(tmp_path, lambda: indexed_to), opened(tmp_path)
    for i in range(CELLS):
        indexed_to = i
        settle(first, i)
    assert first.counters()["forgotten_early"] == 0
    for i in range(CELLS, 3 * CELLS):
        settle(first, i)
    assert first.counters()["forgotten_early"] > 0
    known = looked_for = 0
    for i in range(CELLS, 3 * CELLS, 7):
        taken = second.take(request(i), DIGEST, 5.0)
        if isinstance(taken, Answered):
            known += 1
            assert taken == Answered(f"d-{i}", DIGEST, b"", Position(SEGMENT, i))
        else:
            looked_for += 1
            assert taken == Mine(look=True)
            second.release(request(i))
    assert known and looked_for
    # The index has them all: nobody need look any more.
    indexed_to = 4 * CELLS
    settle(first, 4 * CELLS)
    assert second.take(request(5 * CELLS), DIGEST, 5.0) == Mine()
    first.close()
    second.close()


def test_many_are_settled_as_one_after_the_other(tmp_path: Path) -> None:
    claims, other = opened(tmp_path), opened(tmp_path)
    for i in range(3):
        assert claims.take(request(i), DIGEST, 5.0) == Mine()
    # Decided; recorded nowhere; not this process's to settle; decided.
    places = {0: Position(SEGMENT, 10), 1: None, 7: Position(SEGMENT, 11), 2: Position(SEGMENT, 12)}
    many = [Decided(request(i), DIGEST, f"d-{i}", b"", place) for i, place in places.items()]
    assert claims.settle_many(many) == [None] * 4
    for i, expected in ((0, True), (1, False), (2, True), (7, False)):
        taken = other.take(request(i), DIGEST, 5.0)
        assert taken == (Answered(f"d-{i}", DIGEST, b"", places[i]) if expected else Mine())
    # Settling again is harmless, and nothing is held any more.
    assert claims.settle_many(many) == [None] * 4
    assert claims.settle_many([]) == []
    assert isinstance(claims.take(request(0), DIGEST, 5.0), Answered)
    claims.close()
    other.close()


def test_more_held_at_once_than_there_is_room_for_waits_its_turn(tmp_path: Path) -> None:
    claims = opened(tmp_path)
    held = [i for i in range(6000) if isinstance(claims.take(request(i), DIGEST, 5.0), Mine)]
    waiting = sorted(set(range(6000)) - set(held))
    assert waiting and len(held) > 5000
    for i in held:
        claims.release(request(i))
    for i in waiting:
        assert isinstance(claims.take(request(i), DIGEST, 5.0), Mine)
        claims.release(request(i))
    claims.close()


def test_a_body_that_was_torn_is_looked_for(tmp_path: Path) -> None:
    claims, other = opened(tmp_path), opened(tmp_path)
    settle(claims, 1)
    path = tmp_path / FILE_NAME
    key = _key_of(request(1))
    content = path.read_bytes()
    at = content.index(key, host_table._BODIES_AT)
    with path.open("r+b") as file:
        file.seek(at + 20)
        file.write(b"\xff\xff")
    assert other.take(request(1), DIGEST, 5.0) == Mine(look=True)
    claims.close()
    other.close()


def test_the_first_of_all_begins_anew_and_a_later_one_catches_up_first(tmp_path: Path) -> None:
    first = opened(tmp_path)
    settle(first, 1)
    steps: list[str] = []
    second = HostClaims(tmp_path, lambda: steps.append("caught up"), lambda: None)
    assert steps == ["caught up"]
    assert isinstance(second.take(request(1), DIGEST, 5.0), Answered)
    first.close()
    second.close()
    # Everybody went: whoever comes now has read the journals.
    again = opened(tmp_path)
    assert again.take(request(1), DIGEST, 5.0) == Mine()
    again.close()


def test_a_worker_that_cannot_catch_up_does_not_open(tmp_path: Path) -> None:
    def fail() -> None:
        raise RecordError("the index cannot be read")

    with pytest.raises(RecordError, match="index"):
        HostClaims(tmp_path, fail, lambda: None)
    opened(tmp_path).close()  # and stands in nobody's way


def test_a_table_of_another_version_is_not_used(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.write(b"AsClaim\x02")
    with pytest.raises(RecordError, match="another version"):
        opened(tmp_path)
    first.close()


def test_there_is_room_for_so_many_workers_and_no_more(tmp_path: Path) -> None:
    with ExitStack() as stack:
        workers = []
        for _ in range(WORKERS_MAX):
            workers.append(opened(tmp_path))
            stack.callback(workers[-1].close)
        with pytest.raises(RecordError, match=f"{WORKERS_MAX} workers"):
            opened(tmp_path)
        settle(workers[-1], 1)
        assert isinstance(workers[0].take(request(1), DIGEST, 5.0), Answered)
        workers[5].close()
        opened(tmp_path).close()
    # Room on the disk is taken for those that are there, so that no write can fail for want of it.
    assert (tmp_path / FILE_NAME).stat().st_size == FILE_BYTES


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be opened"):
        opened(tmp_path / "absent")


def test_after_it_was_closed_nothing_is_claimed(tmp_path: Path) -> None:
    claims = opened(tmp_path)
    claims.close()
    with pytest.raises(Refusal):
        claims.take(request(1), DIGEST, 5.0)


_FORKS = """
import os, sys, time
from pathlib import Path
from engine.claims.host import HostClaims
claims = HostClaims(Path(sys.argv[1]), lambda: None, lambda: None)
claims.take(b"held", b"digest", 5.0)
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
"""


def test_a_forked_child_keeps_no_claim_alive(tmp_path: Path) -> None:
    """The parent's claims go with the parent, also while a child of it lives on."""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _FORKS, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert parent.wait(60) == 0
            claims = opened(tmp_path)
            assert not isinstance(claims.take(b"held", DIGEST, 5.0), Held)
            claims.close()
        finally:
            os.kill(child, signal.SIGKILL)
