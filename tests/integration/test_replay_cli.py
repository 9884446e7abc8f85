"""`assay replay` as it is called: what it says, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from engine.bundle.load import load_bundle
from engine.cli_replay import replay
from engine.record.journal import Journal
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind
from tests.support import replays, tiny

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(replay)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    directory = tmp_path_factory.mktemp("journal")
    loaded = load_bundle(bundle, scenarios=False)
    with replays.lending(directory, loaded) as lender:
        for batch in replays.batches(replays.tiny_requests(80, loaded, lender.store, seed=9), 20):
            lender.decide(*batch)
    return directory


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def test_identical_ends_with_0(journal: Path, bundle: Path, tmp_path: Path) -> None:
    files = ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html"]
    result = run("--journal", journal, "--bundles", bundle, "--workers", 1, *files)
    assert result.exit_code == 0, result.output
    assert "80 identical, 0 different" in result.output
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["kind"], report["identical"], report["different"]) == ("replay", 80, 0)
    assert "bit for bit" in (tmp_path / "r.html").read_text("utf-8")


def test_a_difference_ends_with_1(journal: Path, tmp_path: Path) -> None:
    changed = tiny.write_bundle(tmp_path / "changed")
    tiny.change(changed / "policy" / "price.json", ["nodes", 1, "content", "rules", 0, "o0"], "6.5")
    result = run("--journal", journal, "--bundles", changed, "--workers", 1)
    assert result.exit_code == 1
    assert "bundle: decided by sha256:" in result.output
    assert "rules.price/price-0.outputs_json" in result.output


def test_a_bundle_of_the_registry_is_found(journal: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "var" / "bundles" / "one")
    assert run("--journal", journal, "--bundles", tmp_path / "var" / "bundles", "--workers", 1).exit_code == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import typer; from engine.cli_replay import replay; typer.run(replay)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--journal", str(journal), "--workers", "1"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_back_test_ends_with_0(journal: Path, tmp_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "other")
    tiny.change(other / "policy" / "cut_offs.json", ["nodes", 1, "content", "rules", 2, "i0"], "[560..600)")
    tiny.change(other / "policy" / "cut_offs.json", ["nodes", 1, "content", "rules", 3, "i0"], "< 560")
    (tmp_path / "o.json").write_text("{}", "utf-8")
    files = ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html", "--outcomes", tmp_path / "o.json"]
    result = run("--journal", journal, "--bundle", other, "--segment", "housing", "--workers", 1, *files)
    assert result.exit_code == 0, result.output
    assert "swap out" in result.output
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert report["compared"] == 80
    assert {"housing", "month"} <= {one["dimension"] for one in report["segments"]}


def test_export_and_replay_from_the_file(journal: Path, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "records.parquet"
    result = run("--journal", journal, "--export", path, "--limit", 50)
    assert result.exit_code == 0
    assert "50 records" in result.output
    assert "without the ids of persons" in result.output
    assert "50 identical" in run("--from", path, "--bundles", bundle, "--workers", 1).output


def test_records_that_are_damaged_end_with_1(journal: Path, bundle: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "journal"
    shutil.copytree(journal, spoiled)
    (segment,) = spoiled.glob("*.journal")
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)
    result = run("--journal", spoiled, "--bundles", bundle, "--workers", 1)
    assert result.exit_code == 1
    assert "79 identical, 0 different" in result.output
    assert "1  damaged stretches" in result.output


def test_sealed_records_need_the_key(bundle: Path, tmp_path: Path) -> None:
    loaded = load_bundle(bundle, scenarios=False)
    sealed, key = tmp_path / "sealed", tmp_path / "master.key"
    with replays.lending(sealed, loaded, master=MasterKey.load(key, sealed)) as lender:
        for request in replays.tiny_requests(6, loaded, lender.store):
            lender.decide(request)
        assert lender.log.erase("p2")
    locked = run("--journal", sealed, "--bundles", bundle, "--workers", 1)
    assert locked.exit_code == 2
    assert "--master-key" in locked.output
    opened = run("--journal", sealed, "--master-key", key, "--bundles", bundle, "--workers", 1)
    assert opened.exit_code == 0, opened.output
    assert "5 identical, 0 different" in opened.output
    assert "1  erased" in opened.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--journal", "none"], "cannot be read"),
        (["--journal", "x", "--from", "y"], "three sources"),
        (["--from", "none.parquet"], "cannot be read as Parquet"),
        (["--since", "yesterday"], "is no moment"),
        (["--until", "2026-01-01T00:00:00"], "is no moment"),
        (["--absent", "null"], "not_found or unavailable"),
        (["--engine", "flink"], "neither local nor spark"),
        (["--engine", "spark"], "Spark reads an exported file"),
        (["--bundle", "none", "--journal", "."], "is not a directory"),
        (["--cassandra"], "Say --since"),
        (["--master-key", "none", "--journal", "."], "none"),
    ],
)
def test_what_cannot_be_run_ends_with_2(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.output.split())


def test_a_number_is_no_segment(journal: Path, bundle: Path) -> None:
    result = run("--journal", journal, "--bundle", bundle, "--segment", "income")
    assert result.exit_code == 2
    assert "'income' is a number" in result.output


def test_nothing_selected_is_told(journal: Path, bundle: Path) -> None:
    result = run("--journal", journal, "--bundles", bundle, "--since", "2100-01-01", "--workers", 1)
    assert result.exit_code == 2
    assert "no recorded decision was met" in result.output


def test_an_interrupt_ends_it_cleanly(journal: Path, bundle: Path, tmp_path: Path) -> None:
    """Many copies of the journal's frames keep two workers busy until the interrupt comes."""
    big = tmp_path / "journal"
    reader = JournalReader(journal)
    frames = [f for w in reader.workers() for f in reader.frames(w) if isinstance(f, Frame)]
    written = Journal(big, "w0", segment_bytes=256 << 20)
    for frame in frames:
        if frame.kind in (FrameKind.CATALOGUE, FrameKind.ENVIRONMENT):
            written.append(frame.kind, frame.payload)
    for _ in range(1500):
        for frame in frames:
            if frame.kind == FrameKind.DECISION:
                written.append(frame.kind, frame.payload)
    written.close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import typer; from engine.cli_replay import replay; typer.run(replay)"
    # Tests that run in the background of a shell ignore this signal, and so would all that they start.
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    command += ["--journal", str(big), "--bundles", str(bundle), "--workers", "2"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children: list[str] = []
    until = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < until:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        time.sleep(0.1)
    time.sleep(2.0)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "interrupted after" in errors
    assert "Traceback" not in errors, errors
    until = time.monotonic() + 60
    while (left := [c for c in children if Path(f"/proc/{c}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
