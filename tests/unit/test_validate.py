"""The validate stage by itself: the numbers that come out, and that nothing that is no number ever does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.decision.v1 import decision_service_pb2 as pb
from engine.errors import RequestError
from engine.plan import BundlePlan
from engine.validate import validate
from tests.support import applications as apps
from tests.support.bundles import shipped
from tests.support.tiny import load_tiny, request

NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> BundlePlan:
    return load_tiny(tmp_path_factory).plan


def values(plan: BundlePlan, asked: pb.DecideRequest) -> dict[str, float]:
    """Request fields by name, as the feature stage gets them."""
    flow, valid = validate(plan, asked, NOW)
    features = flow.features
    names = [f.name for f in features.features[features.request_start : features.derived_start]]
    return dict(zip(names, valid.request, strict=True))


def test_every_type_becomes_its_number(plan: BundlePlan) -> None:
    asked = request()
    asked.application.fields["born"].time.FromJsonString("1970-01-02T00:00:00.5Z")
    asked.application.fields["income"].money.currency_code = "EUR"
    asked.application.fields["income"].money.units = 3000
    asked.application.fields["income"].money.nanos = 120_000_000
    asked.application.fields["debts"].integer = 7
    asked.application.fields["insolvent"].flag = True
    found = values(plan, asked)
    assert found["born"] == 86_400.5
    assert found["income"] == 3000.12
    assert found["debts"] == 7.0
    assert found["insolvent"] == 1.0
    assert found["purpose"] == 3.0
    assert found["employment_band"] == 4.0


def test_a_field_left_out_is_missing_and_a_required_one_is_a_fault(plan: BundlePlan) -> None:
    asked = request()
    asked.application.fields.clear()
    with pytest.raises(RequestError) as caught:
        validate(plan, asked, NOW)
    assert [v.field for v in caught.value.violations] == ['application.fields["purpose"]']
    asked.application.fields["purpose"].text = "education"
    found = values(plan, asked)
    assert found.pop("purpose") == 6.0
    assert all(math.isnan(v) for v in found.values())


def test_values_of_a_view_may_be_sent_where_the_catalogue_says_so(plan: BundlePlan) -> None:
    asked = request()
    asked.application.fields["housing"].text = "own"
    asked.application.fields["residence_band"].integer = 2
    flow, valid = validate(plan, asked, NOW)
    assert dict(valid.sent) == {flow.features.slots["housing"]: 2.0, flow.features.slots["residence_band"]: 2.0}
    asked.application.fields["checking_band"].integer = 1
    with pytest.raises(RequestError) as caught:
        validate(plan, asked, NOW)
    assert [v.field for v in caught.value.violations] == ['application.fields["checking_band"]']


@pytest.mark.parametrize(
    ("units", "nanos", "minor"),
    [
        (1500, 0, 150_000),
        (1500, 10_000_000, 150_001),
        (250, 0, 25_000),
        (20_000, 0, 2_000_000),
        (19_999, 990_000_000, 1_999_999),
    ],
)
def test_money_becomes_whole_cents(plan: BundlePlan, units: int, nanos: int, minor: int) -> None:
    asked = request()
    asked.application.amount.units, asked.application.amount.nanos = units, nanos
    assert validate(plan, asked, NOW)[1].amount_minor == minor


def test_entities_are_in_the_order_of_the_plan(plan: BundlePlan) -> None:
    asked = request()
    assert validate(plan, asked, NOW)[1].entity_ids == ("p1", "a1")
    del asked.application.entities[:]
    assert validate(plan, asked, NOW)[1].entity_ids == ("p1", None)


def test_a_little_ahead_of_our_clock_is_now(plan: BundlePlan) -> None:
    asked = request()
    asked.application.submitted_at.FromMicroseconds(NOW + 60_000_000)
    assert validate(plan, asked, NOW)[1].submitted_at_us == NOW + 60_000_000
    asked.application.submitted_at.FromMicroseconds(NOW + 3_600_000_000)
    with pytest.raises(RequestError):
        validate(plan, asked, NOW)


fields = st.dictionaries(
    st.sampled_from(["income", "debts", "born", "insolvent", "employment_band", "other_plans", "residence_band"]),
    st.one_of(
        st.builds(lambda x: ("number", x), st.floats()),
        st.builds(lambda x: ("integer", x), st.integers(-(2**63), 2**63 - 1)),
        st.builds(lambda x: ("flag", x), st.booleans()),
        st.builds(lambda x: ("text", x), st.sampled_from(["none", "bank", "x"])),
    ),
)


@given(sent=fields)
def test_what_passes_is_finite_or_missing_and_in_range(plan: BundlePlan, sent: dict[str, tuple[str, Any]]) -> None:
    asked = request()
    for name, (kind, value) in sent.items():
        setattr(asked.application.fields[name], kind, value)
    try:
        flow, valid = validate(plan, asked, NOW)
    except RequestError as error:
        faulty = {v.field.split('"')[1] for v in error.violations}
        assert faulty <= set(sent)
        return
    lower = flow.features.lower[flow.features.request_start : flow.features.derived_start]
    upper = flow.features.upper[flow.features.request_start : flow.features.derived_start]
    for value, low, high in zip(valid.request, lower, upper, strict=True):
        assert math.isnan(value) or (math.isfinite(value) and low <= value <= high)


@pytest.mark.parametrize("bad", ["", "a b", "a\nb", "\n", "a\n", "\na", "x" * 129, "é"])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_an_entity_id_that_is_none_is_told_by_its_place(bad: str, place: int) -> None:
    asked = apps.consumer("s")
    asked.application.entities[place].id = bad
    with pytest.raises(RequestError) as caught:
        validate(shipped().plan, asked, apps.now_us())
    assert [v.field for v in caught.value.violations] == [f"application.entities[{place}].id"]
