"""What the embedded store does beyond the protocol: several processes, growth, forks, files for nobody else."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.evolve import describe
from engine.features.store import Row, StoreCorrupt, StoreUnavailable, row_key
from engine.features.stores.embedded import EmbeddedStore

SCHEMA = RowSchema("bureau", (Field("score", Kind.FLOAT64), Field("pad", Kind.STRING)))
ENCODER = RowEncoder(SCHEMA)


def row(entity_id: str, score: float, event_time_us: int, pad: str = "") -> Row:
    value = ENCODER.encode({"score": score, "pad": pad}, event_time_us)
    return Row(row_key("subject", entity_id, "bureau"), value, event_time_us)


def _read_until(directory: Path, readonly: bool, last: int, answer: multiprocessing.Queue[object]) -> None:
    store = EmbeddedStore(directory, readonly=readonly, map_bytes=1 << 16)
    key = row("hot", 0.0, 0).key
    newest, reads, deadline = -1.0, 0, time.monotonic() + 60
    try:
        store.read([key])
        answer.put("ready")
        while newest < last and time.monotonic() < deadline:
            found = store.read([key])[0]
            if found is not None:
                score = float(describe(found, lambda _: SCHEMA.canonical).values["score"] or 0.0)
                if score < newest:
                    answer.put(f"went back from {newest} to {score}")
                    return
                newest = score
            reads += 1
        answer.put((newest, reads > 0, len(list(store.scan(b"{subject/filler")))))
    except Exception as e:
        answer.put(repr(e))
    finally:
        store.close()


def test_processes_read_while_another_writes_and_makes_room(tmp_path: Path) -> None:
    rounds, filler = 80, 50
    store = EmbeddedStore(tmp_path, map_bytes=1 << 16)
    store.write([row("hot", 0.0, 0)])
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[object] = context.Queue()
    readers = [
        context.Process(target=_read_until, args=(tmp_path, readonly, rounds, answer))
        for readonly in (True, False, True)
    ]
    for reader in readers:
        reader.start()
    assert [answer.get(timeout=60) for _ in readers] == ["ready"] * 3
    for i in range(1, rounds + 1):
        # The hot row comes last, so who sees its last value sees all.
        store.write([row(f"filler{i}/{j}", j, 1, "x" * 200) for j in range(filler)])
        store.write([row("hot", i, i)])
    answers = [answer.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join(10)
    assert answers == [(float(rounds), True, rounds * filler)] * 3
    store.close()


def _write_own(directory: Path, worker: int, count: int) -> None:
    store = EmbeddedStore(directory, map_bytes=1 << 16, durability="process")
    for i in range(count):
        store.write([row(f"{worker}/{i}", i, 1, "x" * 500), row("shared", worker * count + i, worker * count + i)])
    store.close()


def test_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_own, args=(tmp_path, worker, 300)) for worker in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = EmbeddedStore(tmp_path, readonly=True)
    assert len(list(store.scan())) == 901
    assert store.read([row("shared", 0, 0).key]) == [row("shared", 899, 899).value]
    store.close()


def test_a_forked_child_opens_the_store_anew(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.write([row("1", 1.0, 1)])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if store.read([row("1", 1.0, 1).key]) == [row("1", 1.0, 1).value]:
                store.write([row("1", 2.0, 2)])
                store.close()
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read([row("1", 2.0, 2).key]) == [row("1", 2.0, 2).value]
    store.write([row("1", 3.0, 3)])
    store.close()


KILLED = """
import os, signal, sys
from tests.contract.test_embedded_store import EmbeddedStore, row
store = EmbeddedStore(sys.argv[1], durability=sys.argv[2])
for i in range(10**9):
    store.write([row(str(i), i, 1)])
    print(i, flush=True)
"""


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_killed_writer_loses_nothing_it_reported_and_blocks_nobody(tmp_path: Path, durability: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), durability],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    for _ in range(100):
        process.stdout.readline()
    process.kill()
    reported = [i for i in process.stdout.read().split() if i]
    process.wait()
    last = int(reported[-2]) if len(reported) > 1 else 99
    store = EmbeddedStore(tmp_path)
    assert store.read([row(str(i), i, 1).key for i in range(last + 1)]) == [
        row(str(i), i, 1).value for i in range(last + 1)
    ]
    store.write([row("after", 1.0, 1)])
    store.close()


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "deep" / "features")
    assert stat.S_IMODE((tmp_path / "deep" / "features").stat().st_mode) == 0o700
    files = list((tmp_path / "deep" / "features").iterdir())
    assert files
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    store.close()


def test_a_full_store_refuses_and_keeps_serving(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, map_bytes=1 << 17, max_map_bytes=1 << 18)
    store.write([row("1", 1.0, 1)])
    with pytest.raises(StoreUnavailable, match="full"):
        store.write([row(f"x{i}", i, 1, "x" * 3000) for i in range(500)])
    assert store.read([row("1", 1.0, 1).key]) == [row("1", 1.0, 1).value]
    store.close()


def test_a_reader_refuses_writes_and_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        EmbeddedStore(tmp_path / "none", readonly=True)
    EmbeddedStore(tmp_path / "some").close()
    store = EmbeddedStore(tmp_path / "some", readonly=True)
    with pytest.raises(StoreUnavailable, match="reading only"):
        store.write([row("1", 1.0, 1)])
    with pytest.raises(StoreUnavailable, match="reading only"):
        store.delete_entity("subject", "1")
    store.close()


def test_files_that_are_no_store_are_said_so(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no LMDB at all" * 4096)
    with pytest.raises(StoreCorrupt):
        EmbeddedStore(tmp_path)


def test_a_directory_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        EmbeddedStore(tmp_path / "file" / "features")


def test_a_file_that_was_cut_short_is_told_and_kills_nobody(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.write([row(str(i), i, i) for i in range(5000)])
    store.close()
    file = tmp_path / "data.mdb"
    whole = file.stat().st_size
    os.truncate(file, whole // 2)
    with pytest.raises(StoreCorrupt, match="cut short"):
        EmbeddedStore(tmp_path)


def test_a_short_file_that_can_be_read_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddedStore(tmp_path)
    one = row("1", 1, 1)
    store.write([one])
    store.close()
    real = Path.stat

    def shorter(self: Path, **options: bool) -> os.stat_result:
        found = list(real(self, **options))
        found[6] = 1
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", shorter)
    store = EmbeddedStore(tmp_path)
    monkeypatch.undo()
    assert store.read([one.key]) == [one.value]
    store.close()
