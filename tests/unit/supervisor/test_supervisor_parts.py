"""The parts of the supervisor that need no process: how many workers, how long to wait, under which names, who is where
at the port."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from engine.config import load_config
from engine.config_serving import AUTO
from engine.errors import AssayError, ConfigError
from engine.record.segments import segment_path
from engine.supervisor.backoff import Backoff
from engine.supervisor.control import ControlSocket, ask
from engine.supervisor.cores import memory, quota, workers_for
from engine.supervisor.leaving import connections, leave, share_evenly
from engine.supervisor.names import first_name, is_left, left_beyond, names_of, other_name
from engine.supervisor.port import Port
from engine.supervisor.process import Phase, WorkerProcess
from engine.supervisor.pulse import Pulse

GIB = 1024.0**3


@pytest.mark.parametrize(
    ("cores", "quota_cores", "memory_bytes", "workers"),
    [
        (8, float("inf"), 64 * GIB, 8),
        (8, 2.5, 64 * GIB, 2),
        (8, 0.5, 64 * GIB, 1),
        (64, float("inf"), 1.5 * GIB, 5),
        (4, float("inf"), 0.1 * GIB, 1),
        (256, float("inf"), float("inf"), 60),
    ],
)
def test_as_many_workers_as_time_and_memory_allow(
    cores: int, quota_cores: float, memory_bytes: float, workers: int
) -> None:
    assert workers_for(cores, quota_cores, memory_bytes) == workers


def test_the_limits_of_a_control_group_are_read(tmp_path: Path) -> None:
    pod = tmp_path / "kube" / "pod"
    pod.mkdir(parents=True)
    own, meminfo = tmp_path / "own", tmp_path / "meminfo"
    own.write_text("0::/kube/pod\n")
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    assert quota(tmp_path, own) == float("inf")
    assert memory(tmp_path, own, meminfo) == 4 * GIB
    (pod / "cpu.max").write_text("max 100000\n")
    (pod.parent / "cpu.max").write_text("150000 100000\n")
    (pod / "memory.max").write_text(f"{2 * int(GIB)}\n")
    (pod / "memory.current").write_text(f"{int(GIB)}\n")
    assert quota(tmp_path, own) == 1.5
    assert memory(tmp_path, own, meminfo) == GIB


def test_the_limits_of_an_older_control_group_are_read(tmp_path: Path) -> None:
    group = tmp_path / "cpu" / "box"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/box\n3:memory:/box\n")
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path, own) == 3.0


def test_auto_is_a_word_for_a_number() -> None:
    assert load_config(environment={"ASSAY_SERVER_WORKERS": "auto"}).server.workers == AUTO
    assert load_config(environment={}).server.workers == 1
    with pytest.raises(ConfigError):
        load_config(environment={"ASSAY_SERVER_WORKERS": "many"})


def test_waits_double_up_to_a_bound_and_begin_anew_after_a_good_while() -> None:
    backoff = Backoff(first_s=1.0, longest_s=5.0, well_s=60.0, chance=lambda: 1.0)
    assert [backoff.failed(0.0) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.failures == 5
    assert backoff.failed(59.0) == 5.0
    assert backoff.failed(60.0) == 1.0
    assert Backoff(first_s=1.0, chance=lambda: 0.0).failed(0.0) == 0.5


def test_a_worker_has_two_names_in_turn() -> None:
    assert names_of(3) == ("w3", "w3b")
    assert [other_name(3, name) for name in ("w3", "w3b")] == ["w3b", "w3"]


def _segment(journal: Path, name: str, size: int, counted_to: int | None) -> None:
    path = segment_path(journal, f"{name}-00000001")
    path.write_bytes(bytes(size))
    if counted_to is not None:
        content = {"segment": f"{name}-00000001", "offset": counted_to, "journal": "x"}
        (journal / f"velocity.{name}.json").write_text(json.dumps(content))


def test_a_name_that_something_was_left_under_is_taken_up(tmp_path: Path) -> None:
    assert first_name(tmp_path, 0, counted=True) == "w0"
    _segment(tmp_path, "w0", 100, counted_to=100)
    _segment(tmp_path, "w0b", 100, counted_to=60)
    _segment(tmp_path, "w7", 100, counted_to=60)
    assert not is_left(tmp_path, "w0")
    assert is_left(tmp_path, "w0b")
    assert first_name(tmp_path, 0, counted=True) == "w0b"
    assert first_name(tmp_path, 0, counted=False) == "w0"
    assert left_beyond(tmp_path, 1, counted=True) == ["w7"]
    assert left_beyond(tmp_path, 8, counted=True) == []
    _segment(tmp_path, "w0", 100, counted_to=10)
    assert first_name(tmp_path, 0, counted=True) == "w0"


def test_a_port_is_found_and_another_server_on_it_is_a_mistake() -> None:
    port = Port("127.0.0.1:0", shared=False)
    assert port.number and port.address == f"127.0.0.1:{port.number}"
    port.close()
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot listen"):
            Port(address, shared=False)
        Port(address, shared=True).close()


def test_a_supervisor_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no supervisor"):
        ask(tmp_path, "status", 1.0)


def test_a_question_is_answered_however_long_the_name_of_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    control = ControlSocket(directory)
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(ask(directory, "status", 30.0)))
    asking.start()
    control.listener.setblocking(True)
    question = control.accept()
    assert question is not None and question.what == "status"
    question.answer(ready=True)
    asking.join(30.0)
    control.close()
    assert answers == [{"ready": True}]


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


def _server(port: int) -> tuple[grpc.Server, int]:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 1)])
    server.add_generic_rpc_handlers((_Echo(),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, bound


@pytest.fixture
def served() -> Iterator[int]:
    server, port = _server(0)
    yield port
    server.stop(0).wait()


def test_who_leaves_a_port_keeps_its_connections_and_gets_no_more(served: int) -> None:
    # The other listener is no server of ours: what comes to it is not this process's by gRPC's sockets.
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", served))
        with grpc.insecure_channel(f"127.0.0.1:{served}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: Any = channel.unary_unary("/x/y")
            assert call(b"before", timeout=30) == b"before"
            assert connections(served) >= 1
            held = connections(served)
            leave(served, 1)
            assert call(b"after", timeout=30) == b"after"
            assert connections(served) == held
            with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", served), timeout=5):
                pass
        share_evenly(served)


class _Quiet:
    """A worker that says nothing."""

    name, pid, phase = "w0", 1, Phase.SERVING

    def __init__(self) -> None:
        self.pings, self.hung = 0, False
        self.kicks: list[int] = []

    def say(self, what: str) -> None:
        assert what == "ping"

    def kick(self, number: int) -> None:
        self.kicks.append(number)


def test_a_worker_that_says_nothing_is_killed_and_a_standstill_is_nobodys_fault() -> None:
    now, quiet, well = [0.0], _Quiet(), _Quiet()
    pulse, workers = Pulse(every_s=5.0, most=3, clock=lambda: now[0]), cast("list[WorkerProcess]", [quiet, well])

    def go_on(seconds: int) -> None:
        for _ in range(seconds):
            now[0] += 1.0
            pulse.feel(workers)
            well.pings = 0

    go_on(15)
    assert quiet.kicks == []
    now[0] += 3600.0
    pulse.feel(workers)
    go_on(10)
    assert quiet.kicks == [], "the whole machine stood still"
    go_on(20)
    assert signal.SIGKILL in quiet.kicks and quiet.hung
    assert well.kicks == []
