"""Files of rows to load, and what is in the store afterwards."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.cli_features import features_app
from engine.features.evolve import describe
from engine.features.store import row_key
from engine.features.stores.embedded import EmbeddedStore
from tests.support.catalogue import GOOD

NOW = datetime.now(UTC).replace(microsecond=0)
COLUMNS = ("id", "event_time", *GOOD)


def run(env: Mapping[str, str], *arguments: object, text: str | None = None) -> Result:
    """Runs `assay features` in this process. No exception may come through."""
    result = CliRunner().invoke(features_app, [str(one) for one in arguments], input=text, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def stored(env: Mapping[str, str]) -> dict[bytes, bytes]:
    """All rows in the store."""
    store = EmbeddedStore(env["ASSAY_STORE_PATH"])
    try:
        return dict(store.scan())
    finally:
        store.close()


def values_of(env: Mapping[str, str], entity_id: str) -> dict[str, Any]:
    """The values of one row of the view `file`."""
    store = EmbeddedStore(env["ASSAY_STORE_PATH"])
    try:
        (row,) = store.read([row_key("applicant", entity_id, "file")])
        assert row is not None
        return dict(describe(row, store.get_schema).values)
    finally:
        store.close()


def rows(count: int = 5) -> list[dict[str, Any]]:
    """Good rows, every third with a value that is not there."""
    found = []
    for number in range(count):
        time_ = (NOW - timedelta(hours=number)).isoformat()
        row = {"id": f"p{number}", "event_time": time_, **GOOD, "accounts": number % 500}
        if number % 3 == 0:
            row |= {"income": None, "branch": None}
        found.append(row)
    return found


def write_csv(path: Path, content: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> Path:
    """A CSV file, gzipped if its name says so."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(columns)
        for row in content:
            lines.writerow(["" if row.get(name) is None else row[name] for name in columns])
    return path


def write_jsonl(path: Path, content: Sequence[Any]) -> Path:
    """A file of JSON lines, gzipped if its name says so. Text is written as it is."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as stream:
        stream.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
    return path


def write_parquet(path: Path, content: Sequence[Mapping[str, Any]]) -> Path:
    """A Parquet file with columns of fitting types, in small groups of rows."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    moments = {"event_time", "default_at", "member_since"}
    types = {name: pa.timestamp("us", "UTC") for name in moments} | {"branch": pa.dictionary(pa.int8(), pa.string())}

    def column(name: str) -> Any:
        cells = [row.get(name) for row in content]
        if name in moments:
            cells = [None if one is None else datetime.fromisoformat(one) for one in cells]
        return pa.array(cells, types.get(name))

    pq.write_table(pa.table({name: column(name) for name in COLUMNS}), path, row_group_size=max(7, len(content) // 20))
    return path


WRITERS: dict[str, Callable[[Path, Any], Path]] = {
    "rows.csv": write_csv,
    "rows.csv.gz": write_csv,
    "rows.jsonl": write_jsonl,
    "rows.jsonl.gz": write_jsonl,
    "rows.parquet": write_parquet,
}
