"""A collector that is away, slow, unwilling or comes back; an exporter process that dies; a server that forks.

Whatever happens there, a call that records its trace does not wait, memory stays bounded, and what is lost is counted.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import grpc
import pytest

from engine.telemetry.tracing.process_recorder import ProcessRecorder
from engine.telemetry.tracing.recorder import Recorder, open_recorder
from engine.telemetry.tracing.settings import OtlpSettings, Protocol, TracingSettings, to_plain
from engine.telemetry.tracing.trace_record import TraceRecord
from tests.support.otlp_sink import OtlpSink, assert_trees, sinking
from tests.support.traces import SPANS, decision

ROOT = Path(__file__).resolve().parents[2]
Threaded = Literal["process", "thread"]
MODES: tuple[Threaded, ...] = ("process", "thread")
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http/protobuf")
# Nobody serves there: the discard port of a machine that does not discard.
NOBODY = {"grpc": "http://127.0.0.1:9", "http/protobuf": "http://127.0.0.1:9/v1/traces"}


def chosen(
    endpoint: str, mode: Threaded = "process", protocol: Protocol = "grpc", timeout_s: float = 30.0
) -> TracingSettings:
    return TracingSettings(
        mode=mode,
        exporters=("otlp",),
        otlp=OtlpSettings(endpoint=endpoint, protocol=protocol, timeout_s=timeout_s),
        batch_delay_s=0.1,
        retry_max_s=0.5,
    )


def endpoint_of(sink: OtlpSink, protocol: Protocol) -> str:
    return sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint


def record_all(recorder: Recorder, records: list[TraceRecord]) -> float:
    """Records at the pace of a busy server; gives the median microseconds that a call waited for it."""
    spent_s: list[float] = []
    for n, record in enumerate(records):
        begin_s = time.perf_counter()
        recorder.record(record)
        spent_s.append(time.perf_counter() - begin_s)
        if n % 20 == 0:
            time.sleep(0.002)
    return statistics.median(spent_s) * 1e6


def until(true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, f"it never came true: {what}"
        time.sleep(0.02)


def stats_when(recorder: Recorder, true: Callable[[Mapping[str, int]], bool], what: str) -> Mapping[str, int]:
    until(lambda: true(recorder.stats()), f"{what}; the last figures: {recorder.stats()}")
    return recorder.stats()


def memory_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trouble", ["away", "hangs"])
def test_no_call_waits_for_a_collector_and_memory_is_bounded(mode: Threaded, protocol: Protocol, trouble: str) -> None:
    with sinking() as sink:
        sink.mood.hang = True
        endpoint = NOBODY[protocol] if trouble == "away" else endpoint_of(sink, protocol)
        plain = chosen(endpoint, mode, protocol, timeout_s=1.0)
        bounded = replace(plain, export_queue_bytes_max=500_000, batch_bytes_max=100_000)
        recorder = open_recorder(bounded)
        records = [decision(n) for n in range(1500)]
        waited_us = record_all(recorder, records)
        assert waited_us < 1000
        stats = stats_when(
            recorder, lambda now: now.get("dropped_spans", 0) + now["dropped_queue_spans"] > 8_000, "spans are dropped"
        )
        assert stats["queue_bytes"] <= 500_000
        assert stats.get("exported_spans", 0) == 0
        if isinstance(recorder, ProcessRecorder):
            assert recorder.exporter is not None
            assert recorder.exporter.pid is not None
            assert memory_bytes(recorder.exporter.pid) < 120e6
        begin_s = time.monotonic()
        assert not recorder.flush(0.3)
        recorder.close(1.0)
        assert time.monotonic() - begin_s < 30


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_comes_back_gets_everything(mode: Threaded, protocol: Protocol) -> None:
    with sinking() as first:
        ports = first.grpc_port, first.http_port
        recorder = open_recorder(chosen(endpoint_of(first, protocol), mode, protocol))
        recorder.record(decision())
        assert recorder.flush(60)
        assert len(first.spans) == SPANS
    records = [decision(n) for n in range(500)]
    record_all(recorder, records)
    stats_when(recorder, lambda now: now.get("retries", 0) >= 2, "sending is tried again")
    with sinking(*ports) as second:
        spans = second.wait_count(500 * SPANS)
        assert set(assert_trees(spans)) == {record[0].hex() for record in records}
        assert recorder.flush(60)
        stats = recorder.stats()
        assert stats["exported_spans"] == 501 * SPANS
        assert stats.get("dropped_spans", 0) == 0
        recorder.close(10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", [(grpc.StatusCode.UNAVAILABLE, 503), (grpc.StatusCode.RESOURCE_EXHAUSTED, 429)])
def test_what_a_collector_puts_off_is_sent_again_when_it_says(
    protocol: Protocol, code: tuple[grpc.StatusCode, int]
) -> None:
    with sinking() as sink:
        sink.mood.refuse, sink.mood.refusals, sink.mood.retry_after_s = code, 1, 0.9
        recorder = open_recorder(replace(chosen(endpoint_of(sink, protocol), "thread", protocol), retry_max_s=60.0))
        recorder.record(decision())
        sink.wait_count(SPANS)
        refused_s, taken_s = sink.moments
        assert 0.7 < taken_s - refused_s < 30
        recorder.close(10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", [(grpc.StatusCode.PERMISSION_DENIED, 400), (grpc.StatusCode.RESOURCE_EXHAUSTED, 500)])
def test_what_a_collector_does_not_want_is_not_sent_again(
    protocol: Protocol, code: tuple[grpc.StatusCode, int]
) -> None:
    with sinking() as sink:
        sink.mood.refuse = code
        recorder = open_recorder(chosen(endpoint_of(sink, protocol), "thread", protocol))
        recorder.record(decision())
        assert recorder.flush(60)
        assert recorder.stats()["refused_spans"] == SPANS
        sink.mood.refuse = None
        recorder.record(decision())
        assert recorder.flush(60)
        assert len(sink.spans) == SPANS
        assert sink.requests == 2
        recorder.close(10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_that_a_collector_takes_in_part_are_counted(protocol: Protocol) -> None:
    with sinking() as sink:
        sink.mood.rejected = 4
        recorder = open_recorder(chosen(endpoint_of(sink, protocol), "process", protocol))
        recorder.record(decision())
        assert recorder.flush(60)
        stats = recorder.stats()
        assert (stats["rejected_spans"], stats["exported_spans"]) == (4, SPANS - 4)
        recorder.close(10)


def own_exporter(recorder: Recorder) -> int:
    assert isinstance(recorder, ProcessRecorder)
    assert recorder.exporter is not None
    until(lambda: recorder.exporter is not None and recorder.exporter.pid is not None, "there is an exporter")
    pid = recorder.exporter.pid
    assert pid is not None
    return pid


def told_spans(stats: Mapping[str, int]) -> int:
    """How many spans the exporter says that it has."""
    return stats.get("queue_spans", 0) + stats.get("batch_spans", 0)


def test_an_exporter_that_is_killed_is_started_again_and_what_went_with_it_is_counted() -> None:
    with sinking() as sink:
        # Nothing leaves before it is killed.
        recorder = open_recorder(replace(chosen(sink.grpc_endpoint), batch_delay_s=30.0))
        for n in range(100):
            recorder.record(decision(n))
        killed = own_exporter(recorder)
        until(lambda: recorder.stats()["recorder_queue_bytes"] == 0, "all of it is with the exporter")
        until(lambda: told_spans(recorder.stats()) == 100 * SPANS, "it has said so")
        os.kill(killed, signal.SIGKILL)
        until(lambda: recorder.stats()["exporter_restarts"] == 1, "it is started again")
        waited_us = record_all(recorder, [decision(n) for n in range(200)])
        assert waited_us < 1000
        assert own_exporter(recorder) != killed
        assert recorder.flush(60)
        assert len(sink.spans) == 200 * SPANS
        stats = recorder.stats()
        assert stats["exporter_lost_spans"] == 100 * SPANS
        assert stats["dropped_traces"] == 0
        recorder.close(10)
        # The one that was killed is no zombie.
        assert not os.path.exists(f"/proc/{killed}")


def test_an_exporter_that_dies_at_once_is_started_at_growing_intervals() -> None:
    with sinking() as sink:
        recorder = open_recorder(chosen(sink.grpc_endpoint))
        for _ in range(3):
            own = own_exporter(recorder)
            restarts = recorder.stats()["exporter_restarts"]
            begin_s = time.monotonic()
            os.kill(own, signal.SIGKILL)
            until(lambda n=restarts: recorder.stats()["exporter_restarts"] > n, "another one")  # type: ignore[misc]
        own_exporter(recorder)
        assert time.monotonic() - begin_s > 0.2
        recorder.record(decision())
        assert recorder.flush(60)
        assert len(sink.spans) == SPANS
        recorder.close(10)


def test_an_exporter_that_stands_still_stops_no_call() -> None:
    with sinking() as sink:
        recorder = open_recorder(replace(chosen(sink.grpc_endpoint), queue_bytes_max=2_000_000))
        recorder.record(decision())
        assert recorder.flush(60)
        exporter = own_exporter(recorder)
        os.kill(exporter, signal.SIGSTOP)
        waited_us = record_all(recorder, [decision(n) for n in range(4000)])
        assert waited_us < 1000
        stats = recorder.stats()
        assert stats["dropped_traces"] > 0
        assert stats["recorder_queue_bytes"] <= 2_000_000
        os.kill(exporter, signal.SIGCONT)
        assert recorder.flush(60)
        stats = recorder.stats()
        assert len(sink.spans) == (4001 - stats["dropped_traces"]) * SPANS
        recorder.close(10)


@pytest.mark.parametrize("mode", MODES)
def test_what_has_no_room_goes_to_disk_and_is_sent_when_the_collector_is_back(mode: Threaded, tmp_path: Path) -> None:
    with sinking() as first:
        port = first.grpc_port
    small = replace(
        chosen(f"http://127.0.0.1:{port}", mode),
        export_queue_bytes_max=100_000,
        batch_bytes_max=30_000,
        spill_path=str(tmp_path / "spill"),
    )
    recorder = open_recorder(small)
    records = [decision(n) for n in range(400)]
    record_all(recorder, records[:300])
    stats_when(recorder, lambda now: now.get("spilled_spans", 0) > 1000, "spans are written to disk")
    # The rest of memory is written at the end, and found by the next process.
    record_all(recorder, records[300:])
    recorder.close(6.0)
    assert sum(file.stat().st_size for file in (tmp_path / "spill").glob("*.otlp")) > 500_000
    with sinking(port) as second:
        recorder = open_recorder(small)
        recorder.record(decision(1000))
        spans = second.wait_count(401 * SPANS)
        assert {record[0].hex() for record in records} < set(assert_trees(spans))
        stats = stats_when(recorder, lambda now: now.get("resent_spans", 0) == 400 * SPANS, "all of it was sent")
        assert stats.get("spill_bytes", 0) == 0
        recorder.close(10)
    assert not list((tmp_path / "spill").glob("*.otlp"))


def test_a_spill_directory_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    tight = replace(
        chosen(NOBODY["grpc"], "thread"),
        export_queue_bytes_max=50_000,
        batch_bytes_max=25_000,
        spill_path=str(tmp_path),
        spill_bytes_max=200_000,
    )
    recorder = open_recorder(tight)
    record_all(recorder, [decision(n) for n in range(500)])
    stats = stats_when(recorder, lambda now: now.get("dropped_spans", 0) > 2000, "the oldest are dropped")
    assert stats["spill_bytes"] <= 200_000
    recorder.close(1.0)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.otlp")) <= 200_000


FORKING = """
import json, os, sys
from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.settings import from_plain
from tests.support.traces import decision
recorder = open_recorder(from_plain(json.loads(sys.argv[1])))
mine = [decision(n) for n in range(20)]
for record in mine[:10]:
    recorder.record(record)
child = os.fork()
for record in [decision(n) for n in range(100, 107)] if child == 0 else mine[10:]:
    recorder.record(record)
sent = recorder.flush(60)
recorder.close(10)
if child == 0:
    os._exit(0 if sent else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sent
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_records_for_itself_and_sends_nothing_twice(mode: Threaded) -> None:
    with sinking() as sink:
        # HTTP: gRPC's own threads do not survive a fork, and this one is without warning.
        plain = json.dumps(to_plain(chosen(sink.http_endpoint, mode, "http/protobuf")))
        subprocess.run(
            [sys.executable, "-c", FORKING, plain], check=True, timeout=100, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        spans = sink.spans
        assert len(spans) == 27 * SPANS
        roots = assert_trees(spans)
        by_process: dict[object, int] = {}
        for root in roots.values():
            pid = root.resource["process.pid"]
            by_process[pid] = by_process.get(pid, 0) + 1
        assert sorted(by_process.values()) == [7, 20]


def test_an_exporter_that_cannot_be_opened_keeps_nobody_from_serving(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for mode in MODES:
        wrong = TracingSettings(
            mode=mode,
            exporters=("otlp", "file"),
            otlp=OtlpSettings(endpoint="https://127.0.0.1:9", certificate=str(tmp_path / "missing.pem")),
            file_path=str(tmp_path / "file" / "traces.jsonl"),
        )
        recorder = open_recorder(wrong)
        recorder.record(decision())
        assert recorder.flush(60)
        recorder.close(5)


def test_records_that_cannot_be_passed_on_harm_no_other() -> None:
    with sinking() as sink:
        recorder = open_recorder(chosen(sink.grpc_endpoint))
        records = [decision(n) for n in range(40)]
        bad = records[17]
        bad[8][1] = (*bad[8][1][:6], (object(),))  # type: ignore[index]
        big = records[30]
        big[8][1] = (*big[8][1][:5], "x" * 1_000_000, big[8][1][6])  # type: ignore[index]
        for record in records:
            recorder.record(record)
        assert recorder.flush(60)
        assert len(assert_trees(sink.spans)) == 38
        assert recorder.stats()["dropped_queue_spans"] == 2 * SPANS
        recorder.close(10)


def test_without_a_place_for_a_socket_a_thread_does_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with sinking() as sink:
        recorder = open_recorder(chosen(sink.grpc_endpoint))
        assert not isinstance(recorder, ProcessRecorder)
        recorder.record(decision())
        recorder.close(10)
        assert len(sink.spans) == SPANS
