"""Nothing is lost and nothing is there twice, whatever stops in between: the shipper, Cassandra, or both."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.record.log import DecisionLog
from engine.record.segments import list_segments
from engine.shipping.process import ShipperProcess
from engine.shipping.records import CassandraRecords
from engine.shipping.shipper import Shipper, with_waiting
from engine.shipping.state import ShipperStatus, ShippingState
from engine.shipping.subjects import JournalSubjects, KeyOpener
from tests.support import shipping_process
from tests.support.cassandra import shared_node
from tests.support.shipping import MASTER, QUICK, all_frames, cassandra, commit, day_us, in_journal, open_log

# The node may have to be started, and a Java machine is not quick on a busy one.
pytestmark = pytest.mark.timeout(600)
_PATIENCE_S = 120.0


@pytest.fixture
def where() -> CassandraSettings:
    return cassandra()


@pytest.fixture
def records(where: CassandraSettings) -> Iterator[CassandraRecords]:
    with closing(CassandraRecords(where, KeyOpener(MASTER))) as opened:
        yield opened


def eventually(condition: Callable[[], bool], otherwise: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, otherwise
        time.sleep(0.05)


def shipped(journal: Path) -> bool:
    """Whether nothing waits, by the files."""
    found = with_waiting(journal, ShippingState(journal), ShipperStatus())
    return found.waiting_bytes == 0


def check_all_there(journal: Path, records: CassandraRecords, day: date) -> None:
    """Every decision of the journal is in Cassandra as it is in the journal, and in its day once."""
    held = in_journal(journal)
    for decision_id, stored in held.items():
        found = records.get(decision_id)
        assert found is not None, decision_id
        assert (found.sealed, found.open_part, found.request_key) == (
            stored.sealed,
            stored.open_part,
            stored.request_key,
        )
    listed = [one.decision_id for one in records.list_day(day) if one.decision_id in held]
    assert sorted(listed) == sorted(held)
    source = ShippingState(journal).source()
    own = [segment for segment in records.segments() if segment.source == source]
    assert [f for one in own for f in records.frames(source, one.worker, one.number)] == all_frames(journal)


def test_kill_9_while_shipping_again_and_again(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    for n in range(1200):
        commit(log, f"s{n % 7}", decided_us=day_us(2003, 1, 1) + n * 1_000_000)
    log.close()
    state, at = ShippingState(tmp_path), None
    for _ in range(4):
        process = shipping_process.start(tmp_path, where)
        try:
            # In the midst of a batch, as likely as not.
            eventually(lambda at=at: state.checkpoint("w0") != at or shipped(tmp_path), "nothing is shipped")  # type: ignore[misc]
        finally:
            process.kill()
            process.wait()
        at = state.checkpoint("w0")
    shipper = Shipper(tmp_path, where, replace(QUICK, drop=False), subjects=JournalSubjects(tmp_path, MASTER))
    assert shipper.ship_once().waiting_bytes == 0
    shipper.stop()
    check_all_there(tmp_path, records, date(2003, 1, 1))


class Load:
    """Writes decisions until it is told to end; a commit that fails fails the test."""

    def __init__(self, log: DecisionLog, day: int) -> None:
        self.ids: list[str] = []
        self.failed: list[BaseException] = []
        self._log, self._day, self._stop = log, day, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(2)]

    def _run(self, number: int) -> None:
        try:
            while not self._stop.wait(0.004):
                at_us = day_us(2003, 1, self._day) + len(self.ids) * 1000
                self.ids.append(commit(self._log, f"planted-person-{number}", decided_us=at_us))
        except BaseException as error:
            self.failed.append(error)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        assert not self.failed

    def more(self, count: int) -> None:
        """Wait until this many more are written."""
        goal = len(self.ids) + count
        eventually(lambda: len(self.ids) >= goal or bool(self.failed), "writers stand still")


def test_cassandra_hangs_and_then_is_down_for_a_whole_load(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "assay.shipping")
    node = shared_node()
    log = open_log(tmp_path)
    load = Load(log, 2)
    quick = replace(QUICK, write_timeout_s=1.0)
    shipper = Shipper(tmp_path, where, quick, subjects=JournalSubjects(tmp_path, MASTER), head_key=MASTER.heads)
    shipper.start()
    try:
        with load.going_on():
            load.more(50)
            eventually(lambda: shipper.status().shipped_decisions > 0, "nothing is shipped")
            node.suspend()
            eventually(lambda: shipper.status().failing_since is not None, "nobody notices")
            load.more(300)
            hung = shipper.status()
            node.resume()
            eventually(lambda: shipper.status().failing_since is None, "it does not recover")
            node.kill()
            eventually(lambda: shipper.status().failing_since is not None, "nobody notices")
            kept = list_segments(tmp_path)
            load.more(600)
            down = shipper.status()
            # Nothing goes while nothing is shipped.
            assert set(list_segments(tmp_path)) >= set(kept)
            assert down.waiting_bytes > 0
            assert down.failures > hung.failures
            assert down.last_error
            written = len(load.ids)
        node.start()
        eventually(lambda: shipper.status().failing_since is None and shipped(tmp_path), "it does not recover")
        assert written <= len(load.ids) == shipper.status().shipped_decisions
        for decision_id in load.ids:
            stored = records.get(decision_id)
            assert stored is not None
            assert b"planted-person" in stored.record
        listed = [one.decision_id for one in records.list_day(date(2003, 1, 2))]
        assert sorted(set(listed) & set(load.ids)) == sorted(load.ids)
        assert len(listed) == len(set(listed))
        eventually(lambda: len(list_segments(tmp_path)) == 1, "segments do not go")
    finally:
        node = shared_node()  # up again, whatever failed
        shipper.stop()
        log.close()
    said = [record for record in caplog.records if record.name == "assay.shipping"]
    assert [record.message for record in said].count("the journal is shipped again") >= 2
    assert "planted-person" not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


def test_of_several_processes_one_ships_and_another_takes_over(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    for n in range(40):
        commit(log, decided_us=day_us(2003, 1, 3) + n)
    processes = [shipping_process.start(tmp_path, where) for _ in range(2)]
    standby = Shipper(tmp_path, where, QUICK)
    try:
        eventually(lambda: shipped(tmp_path), "nobody ships")
        with pytest.raises(RecordError, match="another process ships"):
            standby.ship_once()
        assert not standby.status().leading
        # Whichever of the two leads: once both are gone, this one does.
        first, second = processes
        first.kill()
        commit(log, decided_us=day_us(2003, 1, 3) + 100)
        eventually(lambda: shipped(tmp_path), "the other one does not take over")
        second.kill()
        second.wait()
        commit(log, decided_us=day_us(2003, 1, 3) + 101)
        standby.start()
        eventually(lambda: standby.status().leading and shipped(tmp_path), "the last one does not take over")
        check_all_there(tmp_path, records, date(2003, 1, 3))
    finally:
        standby.stop()
        for process in processes:
            process.kill()
            process.wait()
        log.close()


PARENT = """
import sys, time
from pathlib import Path
from engine.shipping.process import ShipperProcess
shipper = ShipperProcess(Path(sys.argv[1]), sys.argv[2:])
shipper.start()
while True:
    print(shipper.pid or 0, flush=True)
    time.sleep(0.05)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_shippers_process_is_started_again_and_ends_with_its_parent(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    commit(log, decided_us=day_us(2003, 1, 4))
    shipper = ShipperProcess(tmp_path, shipping_process.command(tmp_path, where, "--with-parent"))
    os.environ["PYTHONPATH"], before = os.pathsep.join(sys.path), os.environ.get("PYTHONPATH")
    try:
        shipper.start()
        eventually(lambda: shipped(tmp_path), "nothing is shipped")
        first = shipper.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        commit(log, decided_us=day_us(2003, 1, 4) + 1)
        eventually(lambda: shipped(tmp_path) and shipper.status().waiting_bytes == 0, "it is not started again")
        second = shipper.pid
        assert second not in {None, first}
        shipper.stop()
        assert shipper.pid is None
        assert second is not None
        assert not alive(second)
        # And when the parent is killed, with no time to say so.
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path), *shipping_process.command(tmp_path, where, "--with-parent")],
            stdout=subprocess.PIPE,
        )
        assert parent.stdout is not None
        child = 0
        while not child:
            child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        parent.stdout.close()
        eventually(lambda: not alive(child), "the shipper outlives its server")
        check_all_there(tmp_path, records, date(2003, 1, 4))
    finally:
        shipper.stop()
        log.close()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def test_the_command_ships_and_tells(tmp_path: Path, where: CassandraSettings, records: CassandraRecords) -> None:
    from typer.testing import CliRunner

    from engine.cli_record import record_app

    journal = tmp_path / "journal"
    log = open_log(journal)
    name = commit(log, decided_us=day_us(2003, 1, 5))
    log.close()
    (journal / "keys").rename(tmp_path / "keys")  # the master key of this journal is in no file
    file = tmp_path / "assay.toml"
    text = f"""
        [record]
        path = "{journal}"
        master_key = "{tmp_path / "none.key"}"
        [cassandra]
        addresses = "{where.addresses[0]}"
        keyspace = "{where.keyspace}"
        connect_timeout_ms = 10000
    """
    file.write_text(text)
    runner = CliRunner()
    before = runner.invoke(record_app, ["status", "--config", str(file)])
    assert before.exit_code == 0, before.output
    assert "waiting" in before.output
    done = runner.invoke(record_app, ["ship", "--once", "--config", str(file)])
    assert done.exit_code == 0, done.output
    assert "shipped 1 decisions in 1 records" in done.output
    assert "nothing waits" in done.output
    assert records.get(name) is not None
    after = runner.invoke(record_app, ["status", "--json", "--config", str(file)])
    assert json.loads(after.output)["waiting_bytes"] == 0
    # With the keys there, and no master key named, nothing is shipped that would never open.
    (tmp_path / "keys").rename(journal / "keys")
    refused = runner.invoke(record_app, ["ship", "--once", "--config", str(file)])
    assert refused.exit_code == 1
    assert "no master key is named" in refused.output
