"""`assay features load`, stopped half-way: the next one goes on, and nothing is lost or told twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalogue import write_catalogue
from tests.support.feature_files import WRITERS, rows, run, stored
from tests.support.server import environment
from tests.support.tiny import change


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The settings of a store of its own and the catalogue of tests."""
    made = environment(tmp_path, write_catalogue(tmp_path / "bundle"))
    return {name: value for name, value in made.items() if name.startswith("ASSAY_")} | {"COLUMNS": "200"}


class Interrupted:
    """A load in a process of its own that is stopped once some of it is done."""

    def __init__(self, tmp_path: Path, env: dict[str, str], file: Path, number: int, *arguments: str) -> None:
        self.state = file.with_name(f".{file.name}.file.load-state")
        # Tests that run in the background of a shell ignore this signal, and so would all that they start.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "engine.cli_features"]
        command += ["load", str(file), "--view", "file", "--batch", "20"]
        process = subprocess.Popen(
            [*command, *arguments],
            env={**environment(tmp_path), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + 60
        while not self.state.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(number)
        self.output, self.errors = process.communicate(timeout=100)
        self.code = process.returncode
        assert self.state.exists(), (self.output, self.errors)
        self.position = json.loads(self.state.read_bytes())["progress"]["position"]


def interruptible(path: Path) -> Path:
    """A file that takes a while, with a rejected row in every thousand."""
    content = rows(30_000)
    for number in range(500, 30_000, 1000):
        content[number]["arrears"] = 0.5
    return WRITERS[path.name](path, content)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv.gz", "rows.parquet"])
def test_a_killed_load_goes_on_where_it_was_and_nothing_is_lost_or_told_twice(
    tmp_path: Path, env: dict[str, str], name: str
) -> None:
    file, rejects = interruptible(tmp_path / name), tmp_path / "rejects.csv"
    killed = Interrupted(tmp_path, env, file, signal.SIGKILL, "--rejects", str(rejects))
    assert killed.code == -signal.SIGKILL
    assert 0 < killed.position < 30_000
    with rejects.open("a", encoding="utf-8") as stream:
        stream.write("29999,p,of a batch that was never noted as done,,\n" * 900)
    result = run(env, "load", file, "--view", "file", "--rejects", rejects)
    assert result.exit_code == 2
    assert f"going on after row {killed.position:,}" in result.stderr
    assert f"30,000 rows, {killed.position:,} of them before" in result.output
    assert len(stored(env)) == 30_000 - 30
    with rejects.open(encoding="utf-8", newline="") as stream:
        assert [int(row["row"]) for row in csv.DictReader(stream)] == list(range(501, 30_001, 1000))
    assert "rejected: 30" in result.output
    assert not killed.state.exists()


def test_an_interrupt_tells_how_far_it_came(tmp_path: Path, env: dict[str, str]) -> None:
    stopped = Interrupted(tmp_path, env, interruptible(tmp_path / "rows.jsonl"), signal.SIGINT)
    assert stopped.code == 130
    assert "run the same command again" in stopped.errors
    assert "Traceback" not in stopped.errors
    assert "written:" in stopped.output


@pytest.fixture
def stopped(tmp_path: Path, env: dict[str, str]) -> Iterator[tuple[Path, Interrupted]]:
    """A file of which a load was killed."""
    file = interruptible(tmp_path / "rows.csv.gz")
    yield file, Interrupted(tmp_path, env, file, signal.SIGKILL)


def test_another_file_other_options_or_another_store_begin_anew(
    tmp_path: Path, env: dict[str, str], stopped: tuple[Path, Interrupted]
) -> None:
    file, killed = stopped
    kept = killed.state.read_bytes()

    def begins_anew(*arguments: str, **changes: str) -> bool:
        killed.state.write_bytes(kept)
        result = run({**env, **changes}, "load", file, "--view", "file", *arguments)
        assert result.exit_code == 2
        return "going on" not in result.stderr

    assert begins_anew("--no-resume")
    assert begins_anew("--null", "NA")
    assert begins_anew(ASSAY_STORE_PATH=str(tmp_path / "other"))
    stat = file.stat()
    os.utime(file, ns=(1, 1))
    assert begins_anew()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    change(tmp_path / "bundle" / "features.yaml", ["views", "file", "features", "balance", "range"], [-1e9, 1e9])
    assert begins_anew()


def test_the_very_same_load_goes_on(env: dict[str, str], stopped: tuple[Path, Interrupted]) -> None:
    file, _ = stopped
    result = run(env, "load", file, "--view", "file")
    assert result.exit_code == 2
    assert "going on" in result.stderr


def test_a_state_that_makes_no_sense_is_no_state(env: dict[str, str], stopped: tuple[Path, Interrupted]) -> None:
    file, killed = stopped
    for content in (b"", b"{}", b'{"version": 1}', b"\xff", killed.state.read_bytes()[:-20]):
        killed.state.write_bytes(content)
        result = run(env, "load", file, "--view", "file")
        assert result.exit_code == 2
        assert "going on" not in result.stderr
    assert len(stored(env)) == 30_000 - 30
