"""`assay features get`, `consistency` and `delete`: what they print, and how they end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.bundle.compile_counters import velocity_views
from engine.bundle.rows import RowWriter
from engine.bundle.write_plan import read_catalogue
from engine.cli_features import features_app
from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.store import Row, row_key
from engine.features.stores.embedded import EmbeddedStore
from engine.features.velocity import Definitions, Event, VelocityApplier
from tests.support.catalogue import DAY_US, HOUR_US, write_catalogue
from tests.support.server import environment

# Whole seconds, so that moments are short.
NOW_US = time.time_ns() // 1_000_000_000 * 1_000_000


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The settings of a store of its own and the catalogue of tests."""
    made = environment(tmp_path, write_catalogue(tmp_path / "bundle"))
    return {name: value for name, value in made.items() if name.startswith("ASSAY_")} | {"COLUMNS": "200"}


@pytest.fixture
def writer(tmp_path: Path, env: dict[str, str]) -> RowWriter:
    """Makes rows of that catalogue."""
    return RowWriter(read_catalogue(Path(env["ASSAY_BUNDLE_PATH"])))


def run(env: Mapping[str, str], *arguments: object, text: str | None = None) -> Result:
    """Runs `assay features` in this process. No exception may come through."""
    result = CliRunner().invoke(features_app, [str(one) for one in arguments], input=text, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


@contextmanager
def opened(place: str | Path) -> Iterator[EmbeddedStore]:
    """A store, opened beside the command."""
    store = EmbeddedStore(place, max_map_bytes=1 << 30)
    try:
        yield store
    finally:
        store.close()


def put(env: Mapping[str, str], *rows: Row) -> None:
    """Writes rows and the schemas of the catalogue."""
    with opened(env["ASSAY_STORE_PATH"]) as store:
        writer = RowWriter(read_catalogue(Path(env["ASSAY_BUNDLE_PATH"])))
        for schema in writer._schemas.values():
            store.put_schema(schema.fingerprint, schema.canonical)
        store.write(rows)


# --- get ----------------------------------------------------------------------------------------------------------


def test_get_shows_every_feature_by_name_with_status_value_and_unit(env: dict[str, str], writer: RowWriter) -> None:
    values = {"income": 2500.5, "accounts": 3, "employed": True, "status": "widowed", "member_since": 1.2e9}
    put(env, writer.row("file", "p1", values, NOW_US - 3 * HOUR_US))
    result = run(env, "get", "applicant", "p1")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    # The rows were laid when the first of these tests ran.
    assert re.fullmatch(r"file: PRESENT; event time \S+, 3\.[0-3] h ago", lines[0])
    for told in (
        "income 2,500.5 EUR/month",
        "accounts 3 count",
        "employed true",
        "status widowed",
        "balance NULL",
        "member_since 2008-01-10T21:20:00Z",
    ):
        assert told in lines
    assert "raw" not in result.output


def test_get_gives_json_and_raw_facts(env: dict[str, str], writer: RowWriter) -> None:
    row = writer.row("file", "p1", {"income": 2500.5, "default_at": 1.2e9}, NOW_US - HOUR_US)
    put(env, row)
    result = run(env, "get", "applicant", "p1", "--json", "--raw")
    assert result.exit_code == 0, result.output
    (view,) = json.loads(result.stdout)["views"]
    assert view["features"]["income"] == {"status": "PRESENT", "value": 2500.5, "unit": "EUR/month"}
    assert view["features"]["default_at"]["value"] == "2008-01-10T21:20:00Z"
    assert view["features"]["balance"] == {"status": "NULL", "unit": "EUR"}
    assert 3600 <= view["age_s"] < 7200
    assert view["raw"] == {
        "key": "{applicant/p1}file",
        "bytes": len(row.value),
        "kind": "row",
        "checksum": "holds",
        "schema": row.value[4:12].hex(),
        "stamp": NOW_US - HOUR_US,
    }
    text = run(env, "get", "applicant", "p1", "--raw").output
    assert "raw: checksum holds" in text


def test_get_tells_ages_for_another_moment(env: dict[str, str], writer: RowWriter) -> None:
    put(env, writer.row("file", "p1", {"accounts": 3}, NOW_US - 31 * DAY_US))
    assert "STALE  3 count  (older than 30.0 d)" in run(env, "get", "applicant", "p1").output
    earlier = "2020-01-01T00:00:00Z"
    result = run(env, "get", "applicant", "p1", "--at", earlier)
    assert "UNAVAILABLE" in result.output and "future" in result.output
    assert run(env, "get", "applicant", "p1", "--at", "2020-01-01").exit_code == 1


def test_get_explains_counters(env: dict[str, str]) -> None:
    file = read_catalogue(Path(env["ASSAY_BUNDLE_PATH"])).file
    with opened(env["ASSAY_STORE_PATH"]) as store:
        applier = VelocityApplier(store, Definitions(velocity_views(file)))
        events = [
            Event(f"e{n}", NOW_US - n * HOUR_US, {"device": "d1", "applicant": f"p{n}"}, {"amount": 10**6})
            for n in range(1, 4)
        ]
        applier.apply_now(events)
    result = run(env, "get", "device", "d1", "--view", "seen", "--raw")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[0].startswith("seen: PRESENT; last event ") and lines[0].endswith("kept by the engine")
    assert {"device_count_24h 3", "device_applicants_7d 3", "device_amount_7d 300 EUR"} <= set(lines)
    assert any(line.startswith("counted from 3 events kept one by one, since ") for line in lines)
    assert "raw: kind counters" in lines
    tree = json.loads(run(env, "get", "device", "d1", "--view", "seen", "--json").stdout)
    assert tree["views"][0]["events_kept"] == 3


def test_get_reads_rows_of_other_schemas_and_says_what_cannot_be_read(env: dict[str, str]) -> None:
    old = RowSchema("file", (Field("accounts", Kind.INT64, "count"), Field("nickname", Kind.STRING)))
    spoilt = bytearray(RowEncoder(old).encode({"accounts": 1}, NOW_US))
    spoilt[20] ^= 255
    with opened(env["ASSAY_STORE_PATH"]) as store:
        store.put_schema(old.fingerprint, old.canonical)
        value = RowEncoder(old).encode({"accounts": 4, "nickname": "Bo"}, NOW_US)
        store.write([(row_key("applicant", "p1", "file"), value, NOW_US)])
        time_us = int.from_bytes(spoilt[16:24], "little", signed=True)
        store.write([(row_key("applicant", "p2", "file"), bytes(spoilt), time_us)])
    result = run(env, "get", "applicant", "p1")
    assert "another schema" in result.output and "nickname: Bo" in result.output
    assert "accounts" in result.output and "NOT_FOUND" in result.output
    tree = json.loads(run(env, "get", "applicant", "p1", "--json").stdout)["views"][0]
    assert tree["stored"] == {"accounts": 4, "nickname": "Bo"}
    result = run(env, "get", "applicant", "p2", "--raw")
    assert result.exit_code == 0
    assert "checksum" in result.output and "raw: checksum fails" in result.output


def test_get_says_what_is_wrong_with_the_question(env: dict[str, str], tmp_path: Path) -> None:
    result = run(env, "get", "boat", "a b", "--view", "file")
    assert result.exit_code == 1
    assert "must be one of applicant, device" in result.stderr and "not allowed" in result.stderr
    result = run(env, "get", "device", "d1", "--view", "file")
    assert result.exit_code == 1
    assert "views: device_file, seen" in result.stderr
    result = run({**env, "ASSAY_BUNDLE_PATH": str(tmp_path / "nothing")}, "get", "device", "d1")
    assert result.exit_code == 1
    assert "features.yaml" in result.stderr
    result = run({**env, "ASSAY_STORE_PATH": "/dev/null/x"}, "get", "device", "d1")
    assert result.exit_code == 1
    assert "/dev/null/x" in result.stderr
    nothing = run(env, "get", "device", "d1")
    assert nothing.exit_code == 0
    assert nothing.output.count("NOT_FOUND") == 7


# --- consistency --------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Settings files of two stores."""
    files = []
    for side in ("left", "right"):
        file = tmp_path / f"{side}.toml"
        file.write_text(
            f'[store]\nkind = "embedded"\npath = "{tmp_path / side}"\nmap_bytes_max = 1073741824\n', "utf-8"
        )
        files.append(file)
    return files[0], files[1]


def compare(pair: tuple[Path, Path], *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and what is told."""
    result = run({"COLUMNS": "200"}, "consistency", *pair, "--json", *options)
    return result.exit_code, json.loads(result.stdout)


def test_stores_are_held_against_each_other_and_made_alike(pair: tuple[Path, Path], writer: RowWriter) -> None:
    def row(entity_id: str, accounts: int, time_us: int = NOW_US) -> Row:
        return writer.row("file", entity_id, {"accounts": accounts}, time_us)

    same = [row(f"same{n}", n) for n in range(1200)]
    spoilt = bytearray(row("corrupt", 1).value)
    spoilt[40] ^= 1
    corrupt = Row(row("corrupt", 1).key, bytes(spoilt), NOW_US)
    schema = writer._schemas["file"]
    with opened(pair[0].with_suffix("")) as left, opened(pair[1].with_suffix("")) as right:
        left.put_schema(schema.fingerprint, schema.canonical)
        left.write([*same, row("a", 1), row("newer", 2), row("older", 1, NOW_US - 5), row("tie", 1), corrupt])
        right.write(
            [*same, row("b", 1), row("newer", 1, NOW_US - 5), row("older", 2), row("tie", 2), row("corrupt", 1)]
        )
        left.write([row("z", 1)])
    code, told = compare(pair, "--examples", "3")
    assert code == 1
    assert (told["keys"], told["same"]) == (1207, 1200)
    assert told["differences"] == {
        "left_only": 2,
        "right_only": 1,
        "left_newer": 1,
        "right_newer": 1,
        "other_bytes": 1,
        "left_corrupt": 1,
    }
    assert told["missing_schemas"] == {"right": 1}
    assert told["schemas"] == {schema.fingerprint.hex(): 1200}
    assert [one["entity_id"] for one in told["examples"]] == ["a", "b", "corrupt"]
    text = run({"COLUMNS": "200"}, "consistency", *pair)
    assert text.exit_code == 1
    assert "1,207 keys: 1,200 the same, 7 different" in text.output
    assert "corrupt on the left" in text.output and "{applicant" not in text.output

    code, told = compare(pair, "--repair")
    assert (code, told["repaired"]) == (1, 8)
    code, told = compare(pair)
    assert (code, told["differences"], told["same"]) == (0, {}, 1207)
    with opened(pair[0].with_suffix("")) as left:
        names = ("newer", "older", "tie", "corrupt")
        tie = max(row("tie", 1).value, row("tie", 2).value)
        expected = [row("newer", 2).value, row("older", 2).value, tie, row("corrupt", 1).value]
        assert left.read([row(name, 0).key for name in names]) == expected


def test_a_store_that_cannot_be_opened_ends_it(pair: tuple[Path, Path]) -> None:
    pair[1].write_text('[store]\npath = "/dev/null/x"\n', "utf-8")
    result = run({}, "consistency", *pair)
    assert result.exit_code == 1
    assert "/dev/null/x" in result.stderr
    result = run({}, "consistency", pair[0], pair[0].with_name("nowhere.toml"))
    assert result.exit_code == 1
    assert "nowhere.toml" in result.stderr


# --- delete -------------------------------------------------------------------------------------------------------


def test_delete_erases_one_entity_after_asking(env: dict[str, str], writer: RowWriter) -> None:
    rows = [writer.row("file", "p1", {}, NOW_US), writer.row("file", "p11", {}, NOW_US)]
    rows.append(writer.row("device_file", "p1", {}, NOW_US))
    put(env, *rows)
    refused = run(env, "delete", "applicant", "p1", text="n\n")
    assert refused.exit_code == 1
    assert "p1" not in refused.output
    asked = run(env, "delete", "applicant", "p1", text="y\n")
    assert (asked.exit_code, "1 rows erased" in asked.stdout) == (0, True)
    again = run(env, "delete", "applicant", "p1", "--yes")
    assert (again.exit_code, again.stdout) == (0, "0 rows erased\n")
    with opened(env["ASSAY_STORE_PATH"]) as store:
        assert store.read([row.key for row in rows]) == [None, rows[1].value, rows[2].value]


def test_delete_says_what_is_wrong_and_erases_nothing(env: dict[str, str]) -> None:
    result = run(env, "delete", "boat", "a b", "--yes")
    assert result.exit_code == 1
    assert "'boat'" in result.stderr and "not allowed" in result.stderr
    assert run({**env, "ASSAY_STORE_PATH": "/dev/null/x"}, "delete", "device", "d1", "--yes").exit_code == 1


@pytest.mark.parametrize("arguments", [["--help"], ["load", "--help"], ["get", "--help"], ["consistency", "--help"]])
def test_help_ends_well(arguments: list[str]) -> None:
    assert run({}, *arguments).exit_code == 0
