"""What became of decisions, as far as a back-test asks: bad or not, and what was lost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import AssayError


class OutcomeFileError(AssayError):
    """A file of outcomes cannot be used."""


class Outcome(NamedTuple):
    """bad: whether the loan defaulted (or was fraud); loss: what was lost of it, in whole currency units; None when
    that is not known."""

    bad: bool
    loss: float | None = None


_ROWS_MAX = 50_000_000


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Outcomes by decision id, from a .json, .jsonl or .parquet file. Raises OutcomeFileError.

    JSON: an object from decision id to `true`/`false` (bad or not) or to {"bad": ..., "loss": ...}, or a list of
    objects with `decision_id`, `bad` and optionally `loss`. JSON lines: such objects, one a line. Parquet: columns of
    these names, as `assay dataset export` writes them. Rows whose `bad` is null are left out: nothing is known of them
    yet.
    """
    try:
        if path.suffix == ".parquet":
            return _of_rows(path, _parquet_rows(path))
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return _of_rows(path, (json.loads(line) for line in text.splitlines() if line.strip()))
        content = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise OutcomeFileError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise OutcomeFileError(f"{path} is not JSON: {error}") from error
    if isinstance(content, list):
        return _of_rows(path, content)
    if not isinstance(content, dict):
        raise OutcomeFileError(f"{path} holds neither an object nor a list of outcomes")
    return _of_rows(
        path,
        ({"decision_id": k, **v} if isinstance(v, dict) else {"decision_id": k, "bad": v} for k, v in content.items()),
    )


def _parquet_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OutcomeFileError('Parquet needs pyarrow: pip install "assay-engine[load]"') from error
    try:
        table = pq.ParquetFile(path)
        names = [name for name in ("decision_id", "bad", "loss") if name in table.schema_arrow.names]
        if "decision_id" not in names or "bad" not in names:
            raise OutcomeFileError(f"{path} has no columns decision_id and bad")
        for batch in table.iter_batches(columns=names):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise OutcomeFileError(f"{path} cannot be read: {error}") from error


def _of_rows(path: Path, rows: Iterable[Any]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for number, row in enumerate(rows, 1):
        if number > _ROWS_MAX:
            raise OutcomeFileError(f"{path} holds more than {_ROWS_MAX:,} outcomes")
        if not isinstance(row, Mapping) or not isinstance(row.get("decision_id"), str):
            raise OutcomeFileError(f"{path}: outcome {number} names no decision_id")
        bad, loss = row.get("bad"), row.get("loss")
        if bad is None:
            continue
        if isinstance(loss, float) and math.isnan(loss):
            loss = None
        if bad not in (True, False):
            raise OutcomeFileError(f"{path}: outcome {number}: `bad` must be true or false")
        if loss is not None and (
            isinstance(loss, bool) or not isinstance(loss, int | float) or not math.isfinite(loss)
        ):
            raise OutcomeFileError(f"{path}: outcome {number}: `loss` must be a number")
        found[row["decision_id"]] = Outcome(bool(bad), None if loss is None else float(loss))
    return found
