"""Applicants for demonstrations and tests, as plain dicts. Standard library and numpy only.

`consumer_rows` are real but must be downloaded, as their rows may not be passed on; `generated_consumer_rows` stand in
where they cannot be had; `sme_rows` are real and in the repository. `python -m models.training.samples` writes the
files in models/data again.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from datetime import date
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from models.training.data import CONSUMER_FEATURES, SECTORS, SME_FEATURES, approval_date, load_consumers, sme_features
from models.training.fetch import GIVE_ME_SOME_CREDIT, ROOT, SBA_LOANS, open_table

Value = float | int | bool | str | None

FOLDER = ROOT / "models" / "data"
SBA_SAMPLE = FOLDER / "sba_sample.csv.gz"
MARGINALS = FOLDER / "consumer_marginals.json"
SBA_SAMPLE_ROWS = 400
SBA_SAMPLE_YEARS = (2006, 2010)
# What is known when a loan is applied for, its day, and what became of it. No names, places or banks.
SBA_COLUMNS = (
    "ApprovalDate",
    "GrAppv",
    "NoEmp",
    "CreateJob",
    "RetainedJob",
    "NewExist",
    "FranchiseCode",
    "RevLineCr",
    "NAICS",
    "MIS_Status",
)
_COUNTS = tuple(name for name in (*CONSUMER_FEATURES, *SME_FEATURES) if name.endswith("_count"))
_FLAGS = ("new_business", "franchise", "revolving_line")
_LEVELS = tuple(np.round(np.concatenate([[0.0, 0.005], np.linspace(0.025, 0.975, 39), [0.995, 1.0]]), 4).tolist())
_PAST_DUE = tuple(name for name in CONSUMER_FEATURES if name.startswith("past_due"))


class Applicant(TypedDict):
    """One applicant. row_id: stable name; source: where the values are from; bad: what became of the loan, None where
    it was made up; features: name -> value, None for missing."""

    row_id: str
    source: str
    bad: bool | None
    features: dict[str, Value]


def consumer_rows(n: int, seed: int, *, cache: Path | None = None) -> list[Applicant]:
    """`n` different consumers of Give Me Some Credit, chosen by `seed`. Raises DataUnavailable, which says what to do,
    and ValueError when `n` is more than there are."""
    table = load_consumers(cache)
    chosen = np.random.default_rng(seed).choice(len(table.bad), n, replace=False)
    return [
        Applicant(
            row_id=f"gmsc-{at + 1:06d}",
            source=GIVE_ME_SOME_CREDIT.source,
            bad=bool(table.bad[at]),
            features=_plain(CONSUMER_FEATURES, table.features[at].tolist()),
        )
        for at in chosen.tolist()
    ]


def generated_consumer_rows(n: int, seed: int) -> list[Applicant]:
    """`n` made-up consumers: the quantiles of each column of Give Me Some Credit, joined by a Gaussian copula with its
    rank correlations. No row is anybody's, and nothing should be concluded from them."""
    known = json.loads(MARGINALS.read_text(encoding="utf-8"))
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((n, len(CONSUMER_FEATURES))) @ np.linalg.cholesky(np.array(known["correlation"])).T
    uniform = np.vectorize(math.erf)(normal / math.sqrt(2)) / 2 + 0.5
    columns = []
    for at, name in enumerate(CONSUMER_FEATURES):
        column = np.interp(uniform[:, at], known["levels"], known["quantiles"][name])
        columns.append(np.floor(column + 0.5) if name in _COUNTS or name == "age_years" else column)
    rows = np.column_stack(columns)
    gaps = {name: rng.random(n) < share for name, share in known["missing"].items()}
    # A missing income takes the debt ratio with it, and the past-due counts are missing together.
    gaps["debt_ratio"] = gaps["monthly_income"]
    gaps |= dict.fromkeys(_PAST_DUE, gaps[_PAST_DUE[0]])
    for name, missing in gaps.items():
        rows[missing, CONSUMER_FEATURES.index(name)] = np.nan
    return [
        Applicant(
            row_id=f"generated-{seed}-{at + 1:06d}",
            source="generated from quantiles and rank correlations of Give Me Some Credit; nobody's data",
            bad=None,
            features=_plain(CONSUMER_FEATURES, row),
        )
        for at, row in enumerate(rows.tolist())
    ]


def sme_rows(n: int, seed: int) -> list[Applicant]:
    """`n` different businesses out of the 400 in models/data, chosen by `seed`: real SBA loans, approved after those
    that sme_pd learned from. Raises ValueError when `n` is more than there are."""
    with gzip.open(SBA_SAMPLE, "rt", encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    chosen = np.random.default_rng(seed).choice(len(rows), n, replace=False)
    return [
        Applicant(
            row_id=f"sba-{at + 1:03d}",
            source=SBA_LOANS.source,
            bad=rows[at]["MIS_Status"] == "CHGOFF",
            features=_plain(SME_FEATURES, sme_features(rows[at])),
        )
        for at in chosen.tolist()
    ]


def _plain(names: tuple[str, ...], values: list[float]) -> dict[str, Value]:
    return {name: _value(name, value) for name, value in zip(names, values, strict=True)}


def _value(name: str, value: float) -> Value:
    if math.isnan(value):
        return None
    if name == "naics_sector":
        return SECTORS[int(value)]
    if name in _FLAGS:
        return value == 1.0
    if name in _COUNTS or name == "age_years":
        return int(value)
    return round(value, 6)


def write_sba_sample() -> None:
    """Draw the sample from the whole table and write it: the same bytes every time."""
    first, last = SBA_SAMPLE_YEARS
    with open_table(SBA_LOANS) as text:
        rows = [
            row
            for row in csv.DictReader(text)
            if row["MIS_Status"] and date(first, 1, 1) <= approval_date(row["ApprovalDate"]) <= date(last, 12, 31)
        ]
    chosen = np.sort(np.random.default_rng(0).choice(len(rows), SBA_SAMPLE_ROWS, replace=False))
    drawn = io.StringIO(newline="")
    writer = csv.DictWriter(drawn, SBA_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[at] for at in chosen.tolist())
    SBA_SAMPLE.write_bytes(gzip.compress(drawn.getvalue().encode(), mtime=0))


def write_marginals() -> None:
    """Quantiles, shares of missing values and rank correlations of the consumers: aggregates, no rows."""
    table = load_consumers()
    wide = table.features.astype(np.float64)
    quantiles = {
        name: [float(f"{v:.6g}") for v in _winsorised(wide[:, at])] for at, name in enumerate(CONSUMER_FEATURES)
    }
    complete = wide[~np.isnan(wide).any(axis=1)]
    ranks = np.apply_along_axis(_normal_scores, 0, complete)
    document: dict[str, Any] = {
        "about": "Aggregates of Give Me Some Credit for generated_consumer_rows in models/training/samples.py",
        "levels": _LEVELS,
        "quantiles": quantiles,
        "missing": {
            name: round(float(np.isnan(wide[:, at]).mean()), 4)
            for at, name in enumerate(CONSUMER_FEATURES)
            if np.isnan(wide[:, at]).mean() > 0.001
        },
        "correlation": np.corrcoef(ranks, rowvar=False).round(3).tolist(),
    }
    MARGINALS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _winsorised(column: NDArray[np.float64]) -> list[float]:
    """Quantiles, the ends held at the 0.05 % and 99.95 % ones so that no single applicant's extreme is among them."""
    levels = np.clip(_LEVELS, 0.0005, 0.9995)
    return list(np.quantile(column[~np.isnan(column)], levels).tolist())


def _normal_scores(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks (ties broken by order) as normal quantiles, by the inverse of a table of the normal distribution."""
    grid = np.linspace(-5, 5, 4001)
    table = np.vectorize(math.erf)(grid / math.sqrt(2)) / 2 + 0.5
    rank = np.empty(len(column))
    rank[np.argsort(column, kind="stable")] = (np.arange(len(column)) + 0.5) / len(column)
    return np.interp(rank, table, grid)


if __name__ == "__main__":
    write_sba_sample()
    write_marginals()
