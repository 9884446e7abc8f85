"""One value through the rules of one feature: every type, unit, range and category."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bundle.write_plan import make_write_plan
from engine.features.row_schema import Kind
from engine.features.writing.feature_rule import Cleaned, FeatureRule, Money, range_of
from engine.features.writing.outcome import CleaningRule, Rejected, RejectReason
from tests.support.catalogue import catalogue_in

CONVERTED = CleaningRule.UNIT_CONVERTED
CLIPPED = CleaningRule.OUT_OF_RANGE_CLIPPED
DROPPED = CleaningRule.OUT_OF_RANGE_DROPPED
NAN = math.nan


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureRule]:
    """The rules of the view `file`, by feature."""
    plan = make_write_plan(catalogue_in(tmp_path_factory.mktemp("bundle")))
    return dict(plan.views["file"].by_name)


@pytest.mark.parametrize(
    ("feature", "value", "unit", "number", "applied"),
    [
        ("income", 2500, None, 2500.0, ()),
        ("income", 2500.5, "EUR/month", 2500.5, ()),
        ("income", np.float32(0.5), None, 0.5, ()),
        ("income", np.int64(7), None, 7.0, ()),
        ("income", Decimal("12.25"), None, 12.25, ()),
        ("income", None, "EUR/year", NAN, ()),
        ("income", 30_000, "EUR/year", 2500.0, (CONVERTED,)),
        ("income", Money(2500.5, "EUR"), None, 2500.5, ()),
        ("income", Money(1000.0, "USD"), None, 900.0, (CONVERTED,)),
        ("income", Money(1000.0, "USD"), "USD/month", 900.0, (CONVERTED,)),
        ("income", 0, None, 0.0, ()),
        ("income", 100_000, None, 100_000.0, ()),
        ("balance", -1e300, None, -1e300, ()),
        ("balance", Money(-3.5, "EUR"), None, -3.5, ()),
        ("utilisation", 2.5, None, 2.0, (CLIPPED,)),
        ("utilisation", -0.1, None, 0.0, (CLIPPED,)),
        ("utilisation", 40, "percent", 0.4, (CONVERTED,)),
        ("utilisation", 400, "percent", 2.0, (CONVERTED, CLIPPED)),
        ("accounts", 3.0, None, 3.0, ()),
        ("accounts", 501, None, NAN, (DROPPED,)),
        ("accounts", 2**70, None, NAN, (DROPPED,)),
        ("accounts", 1.5, "dozens", 18.0, (CONVERTED,)),
        ("accounts", 0.1 / 12 * 10, "dozens", 1.0, (CONVERTED,)),
        ("accounts", 50, "dozens", NAN, (CONVERTED, DROPPED)),
        ("arrears", 2**53, None, 2.0**53, ()),
        ("arrears", -(2**53), None, -(2.0**53), ()),
        ("employed", True, None, 1.0, ()),
        ("employed", np.bool_(False), None, 0.0, ()),
        ("status", "widowed", None, 2.0, ()),
        ("status", "M", None, 1.0, (CleaningRule.CATEGORY_MAPPED,)),
        ("branch", "west", None, NAN, (CleaningRule.CATEGORY_DROPPED,)),
        ("default_at", datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC), None, -0.5, ()),
        ("member_since", datetime(1999, 1, 1, tzinfo=UTC), None, 946_684_800.0, (CLIPPED,)),
    ],
)
def test_a_value_becomes_a_number(
    rules: dict[str, FeatureRule],
    feature: str,
    value: Any,
    unit: str | None,
    number: float,
    applied: tuple[CleaningRule, ...],
) -> None:
    cleaned = rules[feature].clean(value, unit)
    assert cleaned.number == pytest.approx(number, nan_ok=True, rel=1e-15)
    assert cleaned.rules == applied


@pytest.mark.parametrize(
    ("feature", "value", "unit", "reason"),
    [
        ("income", -0.01, None, RejectReason.OUT_OF_RANGE),
        ("income", 100_000.01, None, RejectReason.OUT_OF_RANGE),
        ("income", 10**400, None, RejectReason.OUT_OF_RANGE),
        ("income", math.nan, None, RejectReason.NOT_FINITE),
        ("income", -math.inf, None, RejectReason.NOT_FINITE),
        ("income", Decimal("sNaN"), None, RejectReason.NOT_FINITE),
        ("income", True, None, RejectReason.WRONG_TYPE),
        ("income", "2500", None, RejectReason.WRONG_TYPE),
        ("income", b"1", None, RejectReason.WRONG_TYPE),
        ("income", [1], None, RejectReason.WRONG_TYPE),
        ("income", 1, "EUR/week", RejectReason.UNKNOWN_UNIT),
        ("income", 1, "", RejectReason.UNKNOWN_UNIT),
        ("income", Money(1.0, "GBP"), None, RejectReason.UNKNOWN_UNIT),
        ("income", Money(1.0, "EUR"), "EUR/year", RejectReason.UNKNOWN_UNIT),
        ("income", Money(math.inf, "EUR"), None, RejectReason.NOT_FINITE),
        ("utilisation", Money(1.0, "EUR"), None, RejectReason.WRONG_TYPE),
        ("employed", Money(1.0, "EUR"), None, RejectReason.WRONG_TYPE),
        ("utilisation", math.inf, None, RejectReason.NOT_FINITE),
        ("accounts", 1.5, None, RejectReason.WRONG_TYPE),
        ("accounts", 0.1, "dozens", RejectReason.WRONG_TYPE),
        ("arrears", 2**53 + 1, None, RejectReason.OUT_OF_RANGE),
        ("arrears", 1e300, None, RejectReason.OUT_OF_RANGE),
        ("arrears", 3, "count", RejectReason.UNKNOWN_UNIT),
        ("employed", 1, None, RejectReason.WRONG_TYPE),
        ("employed", "true", None, RejectReason.WRONG_TYPE),
        ("status", "divorced", None, RejectReason.UNKNOWN_CATEGORY),
        ("status", "Single", None, RejectReason.UNKNOWN_CATEGORY),
        ("status", 1, None, RejectReason.WRONG_TYPE),
        ("default_at", 1_700_000_000, None, RejectReason.WRONG_TYPE),
        ("default_at", datetime(2020, 1, 1), None, RejectReason.WRONG_TYPE),
    ],
)
def test_a_value_that_cannot_be_taken_is_rejected_without_being_repeated(
    rules: dict[str, FeatureRule], feature: str, value: Any, unit: str | None, reason: RejectReason
) -> None:
    with pytest.raises(Rejected) as caught:
        rules[feature].clean(value, unit)
    assert caught.value.reason is reason
    assert caught.value.message


@pytest.mark.parametrize(
    ("feature", "value"),
    [("income", "SECRET-4929"), ("income", -4929), ("status", "SECRET-4929"), ("arrears", 4929.5), ("branch", 4929)],
)
def test_a_rejected_value_is_not_repeated(rules: dict[str, FeatureRule], feature: str, value: Any) -> None:
    with pytest.raises(Rejected) as caught:
        rules[feature].clean(value)
    assert "4929" not in caught.value.message


def test_what_is_no_number_has_no_unit(rules: dict[str, FeatureRule]) -> None:
    assert rules["employed"].clean(True, "") == Cleaned(1.0)
    with pytest.raises(Rejected) as caught:
        rules["employed"].clean(True, "percent")
    assert caught.value.reason is RejectReason.UNKNOWN_UNIT


any_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.text(max_size=3),
    st.sampled_from(["single", "M", "north"]),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.builds(Money, st.floats(), st.sampled_from(["EUR", "USD", "GBP"])),
)


@given(
    feature=st.sampled_from(
        ["income", "balance", "utilisation", "accounts", "arrears", "employed", "status", "branch", "member_since"]
    ),
    value=any_value,
    unit=st.sampled_from([None, "EUR/month", "EUR/year", "EUR", "ratio", "percent", "count", "dozens"]),
)
def test_what_is_taken_is_in_range_or_null(
    rules: dict[str, FeatureRule], feature: str, value: object, unit: str | None
) -> None:
    rule = rules[feature]
    try:
        number, applied = rule.clean(value, unit)
    except Rejected as rejected:
        assert rejected.message
        return
    if math.isnan(number):
        assert value is None or {DROPPED, CleaningRule.CATEGORY_DROPPED} & set(applied)
        return
    assert rule.lower <= number <= rule.upper
    if rule.kind in (Kind.INT64, Kind.CATEGORY, Kind.BOOLEAN):
        assert number == int(number)


@pytest.mark.parametrize(
    ("kind", "stated", "expected"),
    [
        (Kind.INT64, (0.5, 3.5), (1.0, 3.0)),
        (Kind.INT64, None, (-(2.0**53), 2.0**53)),
        (Kind.FLOAT64, (0.5, 3.5), (0.5, 3.5)),
        (Kind.FLOAT64, None, (-np.finfo(np.float64).max, np.finfo(np.float64).max)),
    ],
)
def test_the_range_that_holds_is_what_the_kind_can_hold(
    kind: Kind, stated: tuple[float, float] | None, expected: tuple[float, float]
) -> None:
    assert range_of(kind, stated) == expected


def test_a_range_without_a_whole_number_is_empty() -> None:
    lower, upper = range_of(Kind.INT64, (0.2, 0.8))
    assert lower > upper
