"""Outcomes in files: JSON lines as the messages themselves, CSV and Parquet with one flat column a field."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from google.protobuf.json_format import ParseDict, ParseError

from assay.outcome.v1 import outcome_pb2 as pb
from engine.errors import AssayError
from engine.outcomes.check import KINDS

_COMMON = ("outcome_id", "decision_id", "request_id", "observed_at", "source", "supersedes")
_OUTCOME = pb.Outcome.DESCRIPTOR
_FIELDS: dict[str, Any] = {kind: _OUTCOME.fields_by_name[kind].message_type.fields for kind in KINDS}  # type: ignore[union-attr]
# Every column that a flat file may have.
COLUMNS = tuple(dict.fromkeys([*_COMMON, "kind", "currency", *(f.name for kind in KINDS for f in _FIELDS[kind])]))
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


class OutcomeFileError(AssayError):
    """A file of outcomes cannot be read."""


class FileRow(NamedTuple):
    """One row: its number from 1, and the outcome, or what is wrong with it."""

    number: int
    outcome: pb.Outcome | None
    fault: str = ""


def read_file(path: Path, source: str = "") -> Iterator[FileRow]:
    """All outcomes of a .jsonl, .csv or .parquet file, the former two also gzipped. source: stands in where a row names
    no source. Raises OutcomeFileError for a file that cannot be read at all, or has columns that are not known."""
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _rows(_parquet(path), source)
            return
        plain = name.removesuffix(".gz")
        with _open(path) as file:
            if plain.endswith((".jsonl", ".ndjson")):
                yield from _json_lines(file, source)
            elif plain.endswith(".csv"):
                yield from _rows(_csv(path, file), source)
            else:
                raise OutcomeFileError(f"{path} is of no kind that can be read: name it .jsonl, .csv or .parquet")
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise OutcomeFileError(f"{path} cannot be read: {error}") from error


def _open(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _json_lines(file: TextIO, source: str) -> Iterator[FileRow]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            outcome = ParseDict(content, pb.Outcome())
        except (ValueError, ParseError, RecursionError) as error:
            # The parser's own words may quote the line, which may hold a note.
            kind = "is not JSON" if isinstance(error, ValueError) else "is no Outcome as proto3 JSON has it"
            yield FileRow(number, None, kind)
            continue
        outcome.source = outcome.source or source
        yield FileRow(number, outcome)


def _csv(path: Path, file: TextIO) -> Iterator[Mapping[str, object]]:
    reader = csv.DictReader(file, strict=True)
    _check_columns(path, list(reader.fieldnames or ()))
    for row in reader:
        # Cells beyond the columns stand under None.
        yield {name or "": value for name, value in row.items()}


def _parquet(path: Path) -> Iterator[Mapping[str, object]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OutcomeFileError('Parquet needs pyarrow: pip install "assay-engine[load]"') from error
    try:
        file = pq.ParquetFile(path)
        _check_columns(path, file.schema_arrow.names)
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise OutcomeFileError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _check_columns(path: Path, names: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in ("outcome_id", "observed_at", "kind") if name not in names]
    if unknown or missing or len(set(names)) != len(names):
        text = f"columns that are not known: {', '.join(unknown)}; " if unknown else ""
        text += f"columns that are missing: {', '.join(missing)}; " if missing else ""
        raise OutcomeFileError(f"{path}: {text or 'a column stands twice; '}known are {', '.join(COLUMNS)}")


def _rows(rows: Iterator[Mapping[str, object]], source: str) -> Iterator[FileRow]:
    for number, row in enumerate(rows, 1):
        try:
            yield FileRow(number, _outcome(row, source))
        except _Fault as fault:
            yield FileRow(number, None, str(fault))


class _Fault(Exception):
    pass


def _outcome(row: Mapping[str, object], source: str) -> pb.Outcome:
    given = {name: value for name, value in row.items() if value is not None and str(value).strip() != ""}
    kind = str(given.pop("kind", ""))
    if kind not in KINDS:
        raise _Fault(f"kind must be one of {', '.join(KINDS)}")
    made = pb.Outcome(source=source)
    for name in ("outcome_id", "decision_id", "request_id", "source", "supersedes"):
        if name in given:
            setattr(made, name, str(given.pop(name)))
    if "observed_at" in given:
        _set_moment(made, given.pop("observed_at"))
    content, currency = getattr(made, kind), str(given.pop("currency", ""))
    content.SetInParent()
    for field in _FIELDS[kind]:
        if field.name in given:
            _SETTERS[_type_of(field)](content, field, given.pop(field.name), currency)
    if given:
        raise _Fault(f"{kind} has no {', '.join(sorted(name or 'cell beyond the columns' for name in given))}")
    return made


def _set_moment(made: pb.Outcome, value: object) -> None:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise _Fault("observed_at must be a moment as RFC 3339 has it") from None
    if moment.tzinfo is None:
        raise _Fault("observed_at must say its time zone")
    made.observed_at.FromDatetime(moment.astimezone(UTC))


def _type_of(field: Any) -> str:
    if field.message_type is not None:
        return "money"
    if field.enum_type is not None:
        return "enum"
    return (
        "flag" if field.cpp_type == field.CPPTYPE_BOOL else "text" if field.cpp_type == field.CPPTYPE_STRING else "int"
    )


def _set_money(content: Any, field: Any, value: object, currency: str) -> None:
    try:
        amount = Decimal(str(value).strip())
        units = int(amount.to_integral_value(rounding="ROUND_DOWN"))
        nanos = int(((amount - units) * 1_000_000_000).to_integral_value())
        money = getattr(content, field.name)
        money.currency_code, money.units, money.nanos = currency, units, nanos
    except (InvalidOperation, ValueError, OverflowError):
        raise _Fault(f"{field.name} must be an amount, as 812.50") from None


def _set_enum(content: Any, field: Any, value: object, currency: str) -> None:
    del currency
    prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    name = str(value).strip().upper()
    found = field.enum_type.values_by_name.get(name if name.startswith(prefix) else prefix + name)
    if found is None or found.number == 0:
        known = ", ".join(one.name.removeprefix(prefix).lower() for one in field.enum_type.values[1:])
        raise _Fault(f"{field.name} must be one of {known}")
    setattr(content, field.name, found.number)


def _set_flag(content: Any, field: Any, value: object, currency: str) -> None:
    del currency
    truth = _TRUTH.get(str(value).strip().lower())
    if truth is None:
        raise _Fault(f"{field.name} must be true or false")
    setattr(content, field.name, truth)


def _set_int(content: Any, field: Any, value: object, currency: str) -> None:
    del currency
    try:
        setattr(content, field.name, int(str(value).strip()))
    except ValueError:
        raise _Fault(f"{field.name} must be a whole number") from None


def _set_text(content: Any, field: Any, value: object, currency: str) -> None:
    del currency
    setattr(content, field.name, str(value))


_SETTERS: dict[str, Callable[[Any, Any, object, str], None]] = {
    "money": _set_money,
    "enum": _set_enum,
    "flag": _set_flag,
    "int": _set_int,
    "text": _set_text,
}
