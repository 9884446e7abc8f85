"""`assay model export`: the exporter over files. Returns the manifest; prints nothing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from pydantic import ValidationError

from engine.errors import Problem
from engine.export.draft import ManifestDraft
from engine.export.errors import ExportError
from engine.export.exporter import Method, export_model
from engine.export.float32 import Float32Array
from engine.export.woe import WOE_FORMAT, WoeScorecard
from engine.scoring.manifest import Manifest

_Read = TypeVar("_Read")


def run(
    native_path: Path,
    draft_path: Path,
    reference_path: Path,
    rows_path: Path,
    out: Path,
    *,
    method: Method = "interventional_shap",
    tolerance: float = 1e-5,
    allow_pickle: bool = False,
) -> Manifest:
    """Export the model in `native_path` to `out`.

    native_path: LightGBM .txt, XGBoost .json or .ubj, CatBoost .cbm, WOE scorecard .json (see woe.py), or an EBM .pkl.
    draft_path: a `ManifestDraft` as JSON or YAML.
    reference_path, rows_path: float32 [n, F] as .npy, or .csv / .csv.gz with a header of the draft's feature names and
    empty cells for missing values.
    allow_pickle: needed for .pkl. Loading a pickle runs whatever code is in the file, so it is for files you made.

    Raises `ExportError` with every problem found; no file is left then.
    """
    problems: list[Problem] = []
    draft = _attempt(lambda: read_draft(draft_path), problems)
    native = _attempt(lambda: read_native(native_path, allow_pickle=allow_pickle), problems)
    names = None if draft is None else tuple(f.name for f in draft.features)
    reference = _attempt(lambda: read_rows(reference_path, names), problems)
    rows = _attempt(lambda: read_rows(rows_path, names), problems)
    if draft is None or native is None or reference is None or rows is None:
        raise ExportError(problems)
    return export_model(
        native, draft, reference=reference, verify_rows=rows, path=out, tolerance=tolerance, method=method
    )


def read_draft(path: Path) -> ManifestDraft:
    """A draft from JSON or YAML (of which JSON is a part)."""
    try:
        return ManifestDraft.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ExportError(
            [
                Problem(str(path), ".".join(str(p) for p in e["loc"]), str(e["msg"]), "Correct the draft.")
                for e in error.errors()
            ]
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error


def read_native(path: Path, *, allow_pickle: bool = False) -> Any:
    """A trained model, by the ending of its file."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".txt": _lightgbm,
        ".ubj": _xgboost,
        ".json": _json_model,
        ".cbm": _catboost,
        ".pkl": _pickled,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        known = ", ".join(readers)
        raise ExportError([Problem(str(path), "", "is no known kind of model file", f"Give one of {known}.")])
    if reader is _pickled and not allow_pickle:
        raise ExportError(
            [
                Problem(
                    str(path),
                    "",
                    "is a pickle, and loading a pickle runs whatever code is in it",
                    "Pass --allow-pickle if you made this file yourself.",
                )
            ]
        )
    try:
        return reader(path)
    except ImportError as error:
        raise ExportError([Problem(str(path), "", f"cannot be read here: {error}", "Install that library.")]) from error
    except ExportError:
        raise
    except Exception as error:  # each library has its own errors for a broken file
        raise _unreadable(path, error) from error


def read_rows(path: Path, names: tuple[str, ...] | None) -> Float32Array:
    """Rows as float32 [n, F]. A .csv is put into the order of `names` by its header."""
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        if path.name.endswith((".csv", ".csv.gz")):
            return _csv(path, names)
    except (OSError, UnicodeDecodeError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    raise ExportError([Problem(str(path), "", "is no known kind of rows", "Give .npy, .csv or .csv.gz.")])


def _csv(path: Path, names: tuple[str, ...] | None) -> Float32Array:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    header, *lines = list(csv.reader(io.StringIO(text))) or [[]]
    if not header:
        raise ExportError([Problem(str(path), "", "is empty", "Write a header of the feature names, and the rows.")])
    wanted = names or tuple(header)
    absent, strange = sorted(set(wanted) - set(header)), sorted(set(header) - set(wanted))
    if absent or strange or len(set(header)) != len(header):
        message = f"its columns are not the draft's features (absent: {absent}, unknown: {strange})"
        raise ExportError([Problem(str(path), "header", message, "Name each feature once, and nothing else.")])
    order = [header.index(name) for name in wanted]
    cells = [_numbers(path, number, line, header) for number, line in enumerate(lines, 2) if line]
    if not cells:
        raise ExportError([Problem(str(path), "", "has a header and no rows", "Write the rows below the header.")])
    return np.array(cells, np.float32)[:, order]


def _numbers(path: Path, number: int, line: list[str], header: list[str]) -> list[float]:
    """One line's cells; NaN where a cell is empty. `number` counts the header as line 1."""
    if len(line) != len(header):
        message = f"has {len(line)} cells, and the header has {len(header)}"
        raise ExportError([Problem(str(path), f"line {number}", message, "Give every row one cell a column.")])
    try:
        return [float(cell) if cell.strip() else np.nan for cell in line]
    except ValueError as error:
        fix = "Write numbers only, and nothing where a value is missing."
        raise ExportError([Problem(str(path), f"line {number}", str(error), fix)]) from error


def _lightgbm(path: Path) -> Any:
    import lightgbm

    return lightgbm.Booster(model_file=str(path))


def _xgboost(path: Path) -> Any:
    import xgboost

    return xgboost.Booster(model_file=str(path))


def _json_model(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    if isinstance(document, dict) and str(document.get("format", "")).startswith(WOE_FORMAT.split("/")[0]):
        return WoeScorecard.from_json(text)
    return _xgboost(path)


def _catboost(path: Path) -> Any:
    import catboost

    return catboost.CatBoost().load_model(str(path))


def _pickled(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _unreadable(path: Path, error: Exception) -> ExportError:
    return ExportError([Problem(str(path), "", f"cannot be read: {error}", "Check the file.")])


def _attempt(read: Callable[[], _Read], problems: list[Problem]) -> _Read | None:
    """What `read` gives, or None with its problems noted."""
    try:
        return read()
    except ExportError as error:
        problems.extend(error.problems)
        return None
