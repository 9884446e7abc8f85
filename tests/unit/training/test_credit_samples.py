"""The applicants that demonstrations and tests load."""

from __future__ import annotations

import math

import pytest

from models.training.data import CONSUMER_FEATURES, SECTORS, SME_FEATURES
from models.training.samples import SBA_COLUMNS, SBA_SAMPLE, SBA_SAMPLE_ROWS, generated_consumer_rows, sme_rows


def test_same_seed_same_rows() -> None:
    assert generated_consumer_rows(20, 3) == generated_consumer_rows(20, 3)
    assert generated_consumer_rows(20, 3) != generated_consumer_rows(20, 4)
    assert sme_rows(20, 3) == sme_rows(20, 3)


def test_generated_consumers_are_plausible_and_say_what_they_are() -> None:
    rows = generated_consumer_rows(5_000, 0)
    assert all("generated" in row["source"] and row["bad"] is None for row in rows)
    values = {name: [row["features"][name] for row in rows] for name in CONSUMER_FEATURES}
    assert all(list(row["features"]) == list(CONSUMER_FEATURES) for row in rows)
    ages = [age for age in values["age_years"] if age is not None]
    assert all(isinstance(age, int) and 18 <= age <= 110 for age in ages)
    gone = sum(income is None for income in values["monthly_income"]) / len(rows)
    assert gone == pytest.approx(0.21, abs=0.03)
    assert all((a is None) == (b is None) for a, b in zip(values["monthly_income"], values["debt_ratio"], strict=True))
    numbers = [v for column in values.values() for v in column if v is not None]
    assert all(isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in numbers)


def test_generated_late_payers_use_their_limits_more() -> None:
    rows = [row["features"] for row in generated_consumer_rows(5_000, 0)]
    rows = [row for row in rows if row["past_due_90_count"] is not None]
    used = [[min(float(r["revolving_utilization"] or 0), 1) for r in rows if (r["past_due_90_count"] == 0) is clean]
            for clean in (True, False)]  # fmt: skip
    clean, late = (sum(part) / len(part) for part in used)
    assert late > clean + 0.05


def test_sme_rows_are_whole_and_various() -> None:
    rows = sme_rows(SBA_SAMPLE_ROWS, 0)
    assert len({row["row_id"] for row in rows}) == SBA_SAMPLE_ROWS
    assert all(list(row["features"]) == list(SME_FEATURES) for row in rows)
    assert {row["features"]["naics_sector"] for row in rows} <= {*SECTORS, None}
    assert 0.2 < sum(row["bad"] is True for row in rows) / len(rows) < 0.5
    with pytest.raises(ValueError, match="larger sample"):
        sme_rows(SBA_SAMPLE_ROWS + 1, 0)


def test_sample_names_nobody() -> None:
    import gzip

    with gzip.open(SBA_SAMPLE, "rt", encoding="utf-8") as text:
        assert tuple(text.readline().strip().split(",")) == SBA_COLUMNS
