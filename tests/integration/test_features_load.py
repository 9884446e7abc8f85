"""`assay features load`: every kind of file, and every way to go wrong."""

from __future__ import annotations

import csv
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.write_plan import make_write_plan, read_catalogue
from engine.clock import SystemClock
from engine.errors import StoreError
from engine.feature_files import LoadOptions, LoadReport, LoadRequest, load_file
from engine.features.encoding import RowEncoder
from engine.features.store import row_key
from engine.features.stores.embedded import EmbeddedStore
from tests.support.catalogue import GOOD, write_catalogue
from tests.support.feature_files import NOW, WRITERS, rows, run, stored, values_of, write_csv, write_jsonl
from tests.support.server import environment


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The settings of a store of its own and the catalogue of tests."""
    made = environment(tmp_path, write_catalogue(tmp_path / "bundle"))
    return {name: value for name, value in made.items() if name.startswith("ASSAY_")} | {"COLUMNS": "200"}


# --- what is good -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("batch", [3, 10_000])
def test_every_kind_of_file_becomes_the_same_rows(tmp_path: Path, env: dict[str, str], name: str, batch: int) -> None:
    content = rows(20)
    file = WRITERS[name](tmp_path / name, content)
    result = run(env, "load", file, "--view", "file", "--batch", batch)
    assert result.exit_code == 0, result.output
    assert "20 rows" in result.output and "written: 20" in result.output
    encoder = RowEncoder(make_write_plan(read_catalogue(tmp_path / "bundle")).views["file"].schema)
    expected = {}
    for row in content:
        plain = {n: datetime.fromisoformat(row[n]) if n in ("default_at", "member_since") else row[n] for n in GOOD}
        time_us = round(datetime.fromisoformat(row["event_time"]).timestamp()) * 1_000_000
        expected[row_key("applicant", row["id"], "file")] = encoder.encode(plain, time_us)
    assert stored(env) == expected
    assert not list(tmp_path.glob(".rows*")), "the progress of a finished load is left behind"
    again = run(env, "load", file, "--view", "file")
    assert again.exit_code == 0
    assert "written: 0; left out, as the store holds the same or newer: 20" in again.output


def test_a_file_is_read_as_it_is_said_to_be(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "bureau.csv"
    file.write_text(
        "kunde;einkommen;auslastung;familie;seit;bemerkung\n"
        "c1;30000;40;M;1262304000;x\n"
        "c2;-;400;S;1262304000;y\n"
        "c3;12000;-;-;-;z\n",
        "utf-8",
    )
    result = run(
        env, "load", file, "--view", "file", "--id", "kunde", "--at", "2026-01-31T00:00:00Z", "--delimiter", ";",
        "--map", "einkommen=income", "--map", "auslastung=utilisation", "--map", "familie=status",
        "--map", "seit=member_since", "--unit", "income=EUR/year", "--unit", "utilisation=percent",
        "--null", "-", "--epoch", "s", "--ignore", "bemerkung",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "no column for balance" in result.output
    assert values_of(env, "c1") == {
        **dict.fromkeys(GOOD),
        "income": 2500.0,
        "utilisation": pytest.approx(0.4),
        "status": "married",
        "member_since": 1_262_304_000.0,
    }
    assert values_of(env, "c2")["utilisation"] == 2.0
    assert values_of(env, "c3")["income"] == 1000.0
    lines = {" ".join(line.split()) for line in result.output.splitlines()}
    assert {"2 UNIT_CONVERTED income", "2 UNIT_CONVERTED utilisation", "2 CATEGORY_MAPPED status"} <= lines
    assert "1 OUT_OF_RANGE_CLIPPED utilisation" in lines


def test_moments_without_a_zone_are_taken_only_when_it_is_said(tmp_path: Path, env: dict[str, str]) -> None:
    file = write_csv(tmp_path / "rows.csv", [{**rows(1)[0], "event_time": "2025-01-31 12:00:00"}])
    assert run(env, "load", file, "--view", "file").exit_code == 2
    assert run(env, "load", file, "--view", "file", "--assume-utc").exit_code == 0
    assert len(stored(env)) == 1


def test_a_dry_run_writes_nothing_and_tells_the_same(tmp_path: Path, env: dict[str, str]) -> None:
    content = rows(6)
    content[2]["income"] = -5
    file = write_jsonl(tmp_path / "rows.jsonl", content)
    dry = run(env, "load", file, "--view", "file", "--dry-run", "--rejects", tmp_path / "dry.csv")
    assert dry.exit_code == 2
    assert "would be written: 5" in dry.output
    assert not Path(env["ASSAY_STORE_PATH"]).exists()
    wet = run(env, "load", file, "--view", "file", "--rejects", tmp_path / "wet.csv")
    assert wet.exit_code == 2
    assert len(stored(env)) == 5
    assert (tmp_path / "dry.csv").read_text("utf-8") == (tmp_path / "wet.csv").read_text("utf-8")


# --- what is not --------------------------------------------------------------------------------------------------


def test_rejected_rows_are_counted_and_listed_and_the_others_written(tmp_path: Path, env: dict[str, str]) -> None:
    good = rows(8)
    content: list[Any] = [
        good[0],
        {**good[1], "income": -1, "employed": "perhaps"},
        {**good[2], "id": "no spaces"},
        {**good[3], "event_time": None},
        {**good[4], "event_time": "yesterday", "salary": 3},
        "this is no JSON",
        "",
        "[1, 2]",
        {**good[5], "event_time": (NOW + timedelta(days=1)).isoformat()},
        good[6],
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", content)
    rejects = tmp_path / "rejects.csv"
    result = run(env, "load", file, "--view", "file", "--rejects", rejects, "--batch", 2)
    assert result.exit_code == 2
    assert {key.decode() for key in stored(env)} == {"{applicant/p0}file", "{applicant/p6}file"}
    assert rejects.stat().st_mode & 0o777 == 0o600
    with rejects.open(encoding="utf-8", newline="") as stream:
        listed = [tuple(row.values())[:4] for row in csv.DictReader(stream)]
    assert listed == [
        ("2", "p1", "income", "OUT_OF_RANGE"),
        ("2", "p1", "employed", "WRONG_TYPE"),
        ("3", "no spaces", "id", "INVALID_ID"),
        ("4", "p3", "event_time", "EVENT_TIME_MISSING"),
        ("5", "p4", "salary", "UNKNOWN_FEATURE"),
        ("5", "p4", "event_time", "EVENT_TIME_INVALID"),
        ("6", "", "", "UNREADABLE"),
        ("8", "", "", "UNREADABLE"),
        ("9", "p5", "event_time", "EVENT_TIME_IN_FUTURE"),
    ]
    assert "9 rows" in result.output and "rejected: 7" in result.output
    assert "no spaces" not in result.output, "ids stay in the file of rejected rows"
    assert "-1" not in result.output


def test_rows_of_csv_that_have_too_few_or_too_many_cells(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "rows.csv"
    time_ = NOW.isoformat()
    file.write_text(f"id,event_time,accounts\na,{time_},1\n\nb,{time_}\nc,{time_},1,2\nd,{time_},4\n", "utf-8")
    result = run(env, "load", file, "--view", "file", "--batch", 2)
    assert result.exit_code == 2
    assert "row 3: the row does not have 3 cells" in result.output
    assert {key.decode() for key in stored(env)} == {"{applicant/a}file", "{applicant/d}file"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--view", "fil"], ["'fil' is not in the catalogue"]),
        (["--view", "seen"], ["counters"]),
        (["--view", "file", "--id", "kunde", "--event-time", "t"], ["kunde", "--id", "--event-time", "--at"]),
        (["--view", "device_file"], ["income", "balance", "--ignore"]),
        (["--view", "file", "--map", "income=salary"], ["'salary'"]),
        (["--view", "file", "--map", "x=income", "--map", "income"], ["--map"]),
        (["--view", "file", "--map", "x=income"], ["there is no such column"]),
        (["--view", "file", "--map", "balance=income", "--map", "arrears=income"], ["two columns"]),
        (["--view", "file", "--unit", "income=EUR/week", "--unit", "x=y"], ["EUR/year", "'x'"]),
        (["--view", "file", "--epoch", "min", "--delimiter", "ab", "--at", "now"], ["--epoch", "--delimiter", "--at"]),
    ],
)
def test_mistakes_that_concern_every_row_end_it_before_the_first(
    tmp_path: Path, env: dict[str, str], arguments: list[str], told: list[str]
) -> None:
    file = write_csv(tmp_path / "rows.csv", rows(2))
    result = run(env, "load", file, *arguments)
    assert result.exit_code == 1
    for part in told:
        assert part in result.stderr
    assert not Path(env["ASSAY_STORE_PATH"]).exists() or stored(env) == {}


def test_files_that_are_none(tmp_path: Path, env: dict[str, str]) -> None:
    spoilt = write_csv(tmp_path / "rows.csv.gz", rows(5_000))
    spoilt.write_bytes(spoilt.read_bytes()[:-200])
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "rows.xlsx").write_bytes(b"")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "not.csv.gz").write_bytes(b"id,event_time\n")
    for name, told in (
        ("missing.csv", "No such file"),
        ("rows.xlsx", "of no kind"),
        ("rows.parquet", "no Parquet file"),
        ("rows.csv.gz", "ends before its end"),
        ("not.csv.gz", "cannot be read"),
        ("empty.csv", "there is no header"),
        ("", "of no kind"),
    ):
        result = run(env, "load", tmp_path / name, "--view", "file", "--batch", 500)
        assert result.exit_code == 1, name
        assert told in result.stderr, result.stderr


def test_a_quote_that_is_never_closed_costs_its_own_row_alone(tmp_path: Path, env: dict[str, str]) -> None:
    file = write_csv(tmp_path / "rows.csv", rows(50))
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[10] = '"' + lines[10]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = run(env, "load", file, "--view", "file", "--rejects", tmp_path / "rejects.csv")
    assert result.exit_code == 2, result.stderr
    assert "49" in result.stdout
    assert len((tmp_path / "rejects.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, env: dict[str, str]) -> None:
    program = "import sys; sys.modules['pyarrow'] = None; from engine.cli_features import features_app; features_app()"
    command = [sys.executable, "-c", program, "load", str(tmp_path / "rows.parquet"), "--view", "file"]
    done = subprocess.run(
        command, env={**environment(tmp_path), **env}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "pip install 'assay-engine[load]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_forgets_is_refused(tmp_path: Path, env: dict[str, str]) -> None:
    file = write_csv(tmp_path / "rows.csv", rows(2))
    result = run({**env, "ASSAY_STORE_KIND": "memory"}, "load", file, "--view", "file")
    assert result.exit_code == 1
    assert "forgotten" in result.stderr


def test_a_store_that_fails_loses_nothing_that_was_told_as_written(tmp_path: Path, env: dict[str, str]) -> None:
    writer = make_write_plan(read_catalogue(tmp_path / "bundle")).views["file"]
    file = write_jsonl(tmp_path / "rows.jsonl", rows(100))
    request = LoadRequest(file, LoadOptions(), batch_rows=10)
    report, store = LoadReport(), EmbeddedStore(env["ASSAY_STORE_PATH"])

    def fail_at_50(_: object, done: LoadReport) -> None:
        if done.rows == 50:
            store.close()

    with pytest.raises(StoreError):
        load_file(request, writer, store, SystemClock(), report, fail_at_50)
    assert (report.rows, report.written) == (50, 50)
    assert len(stored(env)) == 50
    again = EmbeddedStore(env["ASSAY_STORE_PATH"])
    report = LoadReport()
    load_file(request, writer, again, SystemClock(), report)
    again.close()
    assert (report.resumed_rows, report.rows, report.written, report.ignored_older) == (50, 100, 100, 0)
    assert len(stored(env)) == 100
