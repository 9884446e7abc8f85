"""The two tables that the credit models learn from, cleaned, as float32 matrices with NaN for missing.

Standard library and numpy only. Every rule of cleaning stands here, in one place, and in the model cards.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.training.fetch import GIVE_ME_SOME_CREDIT, SBA_LOANS, Dataset, open_table

Matrix = NDArray[np.float32]

CONSUMER_COLUMNS = {
    "revolving_utilization": "RevolvingUtilizationOfUnsecuredLines",
    "age_years": "age",
    "past_due_30_59_count": "NumberOfTime30-59DaysPastDueNotWorse",
    "debt_ratio": "DebtRatio",
    "monthly_income": "MonthlyIncome",
    "open_credit_lines_count": "NumberOfOpenCreditLinesAndLoans",
    "past_due_90_count": "NumberOfTimes90DaysLate",
    "real_estate_loans_count": "NumberRealEstateLoansOrLines",
    "past_due_60_89_count": "NumberOfTime60-89DaysPastDueNotWorse",
    "dependents_count": "NumberOfDependents",
}
CONSUMER_FEATURES = tuple(CONSUMER_COLUMNS)
# 96 and 98 are codes in the past-due counts, not counts: always in all three columns of a row at once, and no other
# count goes above 17.
PAST_DUE_CODES = (96.0, 98.0)
PAST_DUE_FEATURES = ("past_due_30_59_count", "past_due_60_89_count", "past_due_90_count")

# NAICS sectors by their two-digit prefixes, in the order of their charge-off rates among approvals of 2001 to 2005, the
# lowest first, so that a tree can split them as a number. An index into this tuple is what the model takes.
_SECTORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mining", ("21",)),
    ("health_social", ("62",)),
    ("management", ("55",)),
    ("utilities", ("22",)),
    ("agriculture", ("11",)),
    ("manufacturing", ("31", "32", "33")),
    ("professional_services", ("54",)),
    ("education", ("61",)),
    ("accommodation_food", ("72",)),
    ("other_services", ("81",)),
    ("administrative_waste", ("56",)),
    ("arts_recreation", ("71",)),
    ("wholesale", ("42",)),
    ("real_estate_rental", ("53",)),
    ("transport", ("48", "49")),
    ("finance_insurance", ("52",)),
    ("construction", ("23",)),
    ("retail", ("44", "45")),
    ("information", ("51",)),
    ("public_administration", ("92",)),
)
SECTORS = tuple(name for name, _ in _SECTORS)
SECTOR_OF_PREFIX = {prefix: code for code, (_, prefixes) in enumerate(_SECTORS) for prefix in prefixes}

SME_FEATURES = (
    "requested_amount_usd",
    "employees_count",
    "jobs_created_count",
    "jobs_retained_count",
    "new_business",
    "franchise",
    "revolving_line",
    "naics_sector",
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows ready for training.

    features: float32 [rows, len(names)], NaN for missing; bad: uint8 [rows], 1 for the bad event; day: int32 [rows],
    proleptic ordinal of the approval date, or zeros where the data has no dates; doubtful: bool [rows], holds a code
    that must not be learned from, though it may be scored; dataset: where the rows came from.
    """

    names: tuple[str, ...]
    features: Matrix
    bad: NDArray[np.uint8]
    day: NDArray[np.int32]
    doubtful: NDArray[np.bool_]
    dataset: Dataset

    def take(self, chosen: NDArray[Any]) -> Table:
        """The rows that an index or a mask chooses."""
        return replace(
            self,
            features=self.features[chosen],
            bad=self.bad[chosen],
            day=self.day[chosen],
            doubtful=self.doubtful[chosen],
        )


def load_consumers(cache: Path | None = None) -> Table:
    """Give Me Some Credit, all 150,000 rows, in CONSUMER_FEATURES order.

    Missing: empty or "NA" income and dependants; the one age of 0; past-due counts that are the codes 96 or 98; incomes
    of 0 and 1 (2,239 rows, whose bad rate is that of no poor people); and the debt ratio of every row without an
    income, where the column holds the payments themselves, in USD (median 1,159) instead of a ratio.
    Bad: 90 days past due or worse within two years. Raises DataUnavailable.
    """
    with open_table(GIVE_ME_SOME_CREDIT, cache=cache) as text:
        reader = csv.reader(text)
        header = next(reader)
        places = [header.index(column) for column in CONSUMER_COLUMNS.values()]
        target = header.index("SeriousDlqin2yrs")
        rows = [[*(_number(row[place]) for place in places), float(row[target])] for row in reader]
    whole = np.array(rows, dtype=np.float64)
    features = whole[:, :-1]
    for name in PAST_DUE_FEATURES:
        column = features[:, CONSUMER_FEATURES.index(name)]
        column[np.isin(column, PAST_DUE_CODES)] = np.nan
    age, income, debt = (features[:, CONSUMER_FEATURES.index(n)] for n in ("age_years", "monthly_income", "debt_ratio"))
    age[age == 0] = np.nan
    income[income <= 1] = np.nan
    debt[np.isnan(income)] = np.nan
    bad = whole[:, -1].astype(np.uint8)
    nothing = np.zeros(len(bad), np.int32)
    return Table(
        CONSUMER_FEATURES, features.astype(np.float32), bad, nothing, nothing.astype(np.bool_), GIVE_ME_SOME_CREDIT
    )


def _number(text: str) -> float:
    return float(text) if text not in {"", "NA"} else float("nan")


def load_sme(cache: Path | None = None) -> Table:
    """US SBA loans with a known outcome, in SME_FEATURES order, sorted by approval day. See `sme_features`.

    Doubtful: RevLineCr is T, a code without a known meaning and with a bad rate of its own in every year.

    Bad: the loan was charged off (MIS_Status CHGOFF) at any time up to the release of the data. Raises
    DataUnavailable.
    """
    with open_table(SBA_LOANS, cache=cache) as text:
        reader = csv.reader(text)
        header = next(reader)
        field = {name: place for place, name in enumerate(header)}
        status = field["MIS_Status"]
        kept = [row for row in reader if row[status]]
        rows = [sme_features(dict(zip(header, row, strict=True))) for row in kept]
        bad = np.array([row[status] == "CHGOFF" for row in kept], np.uint8)
        day = np.array([approval_date(row[field["ApprovalDate"]]).toordinal() for row in kept], np.int32)
        doubtful = np.array([row[field["RevLineCr"]] == "T" for row in kept], np.bool_)
    order = np.argsort(day, kind="stable")
    return Table(SME_FEATURES, np.array(rows, np.float32), bad, day, doubtful, SBA_LOANS).take(order)


def sme_features(row: Mapping[str, str]) -> list[float]:
    """One SBA row as model inputs, in SME_FEATURES order, NaN for missing. row: column -> text.

    - requested_amount_usd: GrAppv, the amount that the lender approved, the nearest thing to the amount applied for
      that the data has.
    - employees_count: NoEmp, 0 as missing (a business has at least its owner).
    - jobs_created_count, jobs_retained_count: as they stand.
    - new_business: NewExist 2 true, 1 false, else missing.
    - franchise: FranchiseCode above 1 (0 and 1 both mean none).
    - revolving_line: RevLineCr Y true, N and 0 false; T and some 60 stray characters have no known meaning: missing.
    - naics_sector: index into SECTORS by the first two digits of NAICS, missing where NAICS is 0.
    """
    employees = float(row["NoEmp"])
    return [
        float(row["GrAppv"].replace("$", "").replace(",", "")),
        employees if employees > 0 else float("nan"),
        float(row["CreateJob"]),
        float(row["RetainedJob"]),
        _flag(row["NewExist"], "2", "1"),
        1.0 if row["FranchiseCode"] not in {"0", "1", ""} else 0.0,
        {"Y": 1.0, "N": 0.0, "0": 0.0}.get(row["RevLineCr"], float("nan")),
        float(SECTOR_OF_PREFIX.get(row["NAICS"][:2], float("nan"))),
    ]


def _flag(text: str, true: str, false: str) -> float:
    return {true: 1.0, false: 0.0}.get(text, float("nan"))


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def approval_date(text: str) -> date:
    """`28-Feb-97` as a date. The data runs from 1962 to 2014: two-digit years above 50 are of the last century."""
    day, month, year = text.split("-")
    short = int(year)
    return date(short + (1900 if short > 50 else 2000), MONTHS.index(month) + 1, int(day))
