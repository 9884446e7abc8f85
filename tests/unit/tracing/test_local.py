"""The local trace file, finding a trace in it, and showing it."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.telemetry.tracing import names, shapes
from engine.telemetry.tracing.batcher import Batcher
from engine.telemetry.tracing.local import ConsoleOutput, FileOutput
from engine.telemetry.tracing.output import Output, Source
from engine.telemetry.tracing.search import files_of, find_trace, latest_trace
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.trace_record import DECLINE, AnyRecord
from engine.telemetry.tracing.waterfall import waterfall
from tests.support.traces import SPANS, decision, foreign

ROOT = Path(__file__).resolve().parents[3]


def export(exporter: Output[Any], records: Sequence[AnyRecord], *, together: bool = True) -> None:
    batcher = Batcher(TracingSettings(), [exporter])
    for record in records:
        batcher.add([record], Source({"service.name": "assay"}))
        if not together:
            batcher.flush()
    batcher.flush()
    assert batcher.stats().get("local_failed_spans", 0) == 0


def shown(path: Path, id_: str, width: int = 160) -> str:
    trace = find_trace(path, id_)
    assert trace is not None
    console = Console(file=io.StringIO(), width=width)
    console.print(waterfall(trace))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_trace_is_found_by_its_id_and_by_its_decisions(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    records = [decision(n) for n in range(5)]
    export(FileOutput(path, 1 << 20, 2), records, together=False)
    for n, record in enumerate(records):
        by_id = find_trace(path, record[0].hex().upper())
        assert by_id is not None
        assert by_id.spans[0].name == "assay.decision.v1.DecisionService/Decide"
        assert len(by_id.spans) == SPANS
        assert find_trace(path, f"0199aaaa-bbbb-7ccc-8ddd-{n:012x}") == by_id
    assert find_trace(path, "0199aaaa-bbbb-7ccc-8ddd-00000000ffff") is None
    assert find_trace(path, "0" * 32) is None
    assert find_trace(path, "") is None
    assert find_trace(tmp_path / "other", "0" * 32) is None
    latest = latest_trace(path)
    assert latest is not None
    assert latest.trace_id == records[-1][0].hex()


def test_the_file_holds_what_the_call_noted(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    record = decision(7, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01", status="no store answers")
    export(FileOutput(path, 1 << 20, 2), [record])
    trace = find_trace(path, "ab" * 16)
    assert trace is not None
    root = trace.spans[0]
    assert (root.parent_id, root.status_code, root.status_message) == ("cd" * 8, 2, "no store answers")
    assert root.attributes[names.REASON_CODES] == ("C01", "C07", "F02")
    assert root.attributes[names.DEADLINE_LEFT] == 48.25
    assert root.attributes[names.RPC_SYSTEM] == "grpc"
    assert names.ERROR_TYPE not in root.attributes  # None gives no attribute
    assert root.end_ns - root.start_ns == record[8][0][4] - record[8][0][3]
    assert abs(root.start_ns - record[5]) < 1e9


def test_the_original_goes_before_those_who_were_told_again(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    original, again = decision(1), decision(1)
    first = again[8][0]
    values = list(first[6])
    values[6 + 9] = True  # replayed
    again[8][0] = (*first[:6], tuple(values))  # type: ignore[index]
    export(FileOutput(path, 1 << 20, 2), [original, again], together=False)
    trace = find_trace(path, "0199aaaa-bbbb-7ccc-8ddd-000000000001")
    assert trace is not None
    assert trace.trace_id == original[0].hex()


def test_the_file_is_rotated_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    records = [decision(n) for n in range(60)]
    export(FileOutput(path, 20_000, 3), records, together=False)
    assert [file.name for file in files_of(path)] == ["traces.jsonl", *(f"traces.jsonl.{n}" for n in (1, 2, 3))]
    assert all(file.stat().st_size <= 20_000 for file in files_of(path))
    assert find_trace(path, records[-1][0].hex()) is not None
    assert find_trace(path, records[0][0].hex()) is None
    kept = sum(len(file.read_bytes().splitlines()) for file in files_of(path))
    assert 10 < kept < 60
    # The newest are those that are kept.
    assert all(find_trace(path, record[0].hex()) is not None for record in records[-kept:])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    exporter = FileOutput(path, 1 << 20, 2)
    export(exporter, [decision(1)])
    path.unlink()
    record = decision(2)
    export(exporter, [record])
    assert find_trace(path, record[0].hex()) is not None


def test_several_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    code = f"""
from pathlib import Path
from tests.support.traces import decision
from tests.unit.tracing.test_local import export
from engine.telemetry.tracing.local import FileOutput
export(FileOutput(Path({str(path)!r}), 60_000, 50), [decision(n) for n in range(100)], together=False)
"""
    command = [sys.executable, "-c", code]
    path_of_code = {"PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen(command, env=path_of_code, cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    files = files_of(path)
    lines = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert len(lines) == 300
    assert len(files) > 5


def test_a_line_that_is_not_whole_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    record = decision(1)
    export(FileOutput(path, 1 << 20, 2), [record])
    with path.open("ab") as file:
        file.write(b'{"resourceSpans":[{"traceId":"' + record[0].hex().encode())
    trace = find_trace(path, record[0].hex())
    assert trace is not None
    assert len(trace.spans) == SPANS


def test_the_waterfall_shows_what_took_how_long(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    record = decision(1)
    export(FileOutput(path, 1 << 20, 2), [record])
    text = shown(path, record[0].hex())
    assert record[0].hex() in text
    assert "2.000 ms  9 spans" in text
    assert "0199aaaa-bbbb-7ccc-8ddd-000000000001  APPROVE" in text
    rows = {name: next(line for line in text.splitlines() if f" {name} " in f" {line}") for name in
            ("assay.validate", "assay.store.read", "assay.record")}  # fmt: skip
    # Later stages begin further right; twice the time is twice the bar.
    assert rows["assay.validate"].index("█") < rows["assay.store.read"].index("█") < rows["assay.record"].index("█")
    assert rows["assay.store.read"].count("█") == 2 * rows["assay.validate"].count("█")
    assert "db.system.name=redis" in text
    assert "id=credit version=3.1.0" in text
    assert "assay.bundle.digest" in text


def test_the_waterfall_takes_any_width_and_any_tree(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    lost = decision(1, status="broken")
    # A span that takes no time and nests deep, and one whose parent is nowhere.
    lost[8].append((shapes.MODEL, None, 7, lost[6], lost[6], "late", (None,) * 4))  # type: ignore[attr-defined]
    export(FileOutput(path, 1 << 20, 2), [lost, foreign(lost[0], "orphan")])
    for width in (20, 60, 100, 300):
        text = shown(path, lost[0].hex(), width)
        assert len(text.splitlines()) >= SPANS + 2
    assert {"orphan", "broken", "late"} <= set(text.split())


def test_the_console_shows_a_tree(tmp_path: Path) -> None:
    stream = io.StringIO()
    export(ConsoleOutput(stream), [decision(1), decision(2, outcome=DECLINE, status="refused")])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 * SPANS
    assert sum(line.startswith("trace ") for line in lines) == 2
    assert any("ERROR refused" in line for line in lines)
    assert any(line.startswith("  assay.store.read 0.400 ms db.system.name=redis") for line in lines)


def test_a_full_disk_is_counted_and_not_raised() -> None:
    try:
        exporter = FileOutput(Path("/dev/full"), 0, 0)
    except OSError:
        pytest.skip("there is no /dev/full here")
    exporter._bytes_max = 1 << 30
    batcher = Batcher(TracingSettings(), [exporter])
    batcher.add([decision(1)], Source({}))
    batcher.flush()
    assert batcher.stats()["local_failed_spans"] == SPANS
