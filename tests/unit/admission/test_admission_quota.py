"""Quotas: what a tenant may have in any stretch of time, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.admission.quota import Quotas, QuotaSettings


@pytest.mark.parametrize(
    ("rates", "tenant", "rate"),
    [
        ({}, "bank", None),
        ({"default": 5.0}, "bank", 5.0),
        ({"default": 5.0, "bank": 50.0}, "bank", 50.0),
        ({"default": 5.0, "bank": 50.0}, "other_bank", 5.0),
        ({"bank": 50.0}, "other_bank", None),
        ({"bank": 50.0}, "", None),
    ],
)
def test_a_tenants_rate(rates: dict[str, float], tenant: str, rate: float | None) -> None:
    assert Quotas(QuotaSettings(rates)).rate_of(tenant) == rate


def test_a_burst_then_the_rate() -> None:
    quotas = Quotas(QuotaSettings({"bank": 10.0}, burst_s=2.0))
    assert [quotas.take("bank", 1, 0.0) for _ in range(20)] == [0.0] * 20
    wait_s = quotas.take("bank", 1, 0.0)
    assert wait_s == pytest.approx(0.1)
    assert quotas.take("bank", 1, wait_s / 2) == pytest.approx(wait_s / 2)
    assert quotas.take("bank", 1, wait_s) == 0.0
    assert quotas.take("bank", 1, wait_s) > 0


def test_a_batch_counts_by_its_items() -> None:
    quotas = Quotas(QuotaSettings({"bank": 10.0}, burst_s=2.0))
    assert quotas.take("bank", 15, 0.0) == 0.0
    assert quotas.take("bank", 6, 0.0) == pytest.approx(0.1)
    assert quotas.take("bank", 5, 0.0) == 0.0


def test_a_batch_larger_than_the_burst_is_late_and_not_impossible() -> None:
    quotas = Quotas(QuotaSettings({"bank": 10.0}, burst_s=1.0))
    assert quotas.take("bank", 50, 0.0) == 0.0
    # Its debt is worked off before anything else is given.
    assert quotas.take("bank", 1, 0.0) == pytest.approx(4.1)
    assert quotas.take("bank", 1, 4.1) == 0.0


def test_what_is_given_back_can_be_had() -> None:
    quotas = Quotas(QuotaSettings({"bank": 1.0}, burst_s=1.0))
    assert quotas.take("bank", 1, 0.0) == 0.0
    quotas.give_back("bank", 1)
    assert quotas.take("bank", 1, 0.0) == 0.0
    quotas.give_back("nobody", 1)
    assert quotas.tenants == 1


def test_tenants_do_not_use_up_one_anothers_quota() -> None:
    quotas = Quotas(QuotaSettings({"default": 1.0}, burst_s=1.0))
    assert quotas.take("a", 1, 0.0) == 0.0
    assert quotas.take("a", 1, 0.0) > 0
    assert quotas.take("b", 1, 0.0) == 0.0


def test_only_so_many_tenants_are_remembered() -> None:
    quotas = Quotas(QuotaSettings({"default": 1.0}, burst_s=1.0, tenants_max=3))
    for number in range(1000):
        assert quotas.take(f"made_up_{number}", 1, 0.0) == 0.0
        assert quotas.take("a_real_one", 1, 0.0) == 0.0 if number == 0 else quotas.take("a_real_one", 1, 0.0) > 0
    assert quotas.tenants == 3


def test_names_that_the_settings_do_not_have_share_a_label() -> None:
    quotas = Quotas(QuotaSettings({"default": 1.0, "bank": 2.0}))
    assert (quotas.word_of("bank"), quotas.word_of("made up")) == ("bank", "default")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30)), max_size=200),
    st.floats(0.5, 100),
    st.floats(0.1, 10),
)
def test_no_stretch_of_time_gives_more_than_burst_and_rate(
    asked: list[tuple[float, int]], rate: float, burst_s: float
) -> None:
    quotas = Quotas(QuotaSettings({"bank": rate}, burst_s=burst_s))
    most = max(1.0, rate * burst_s)
    now_s, given_, largest = 0.0, 0, 0
    for passes_s, count in asked:
        now_s += passes_s
        wait_s = quotas.take("bank", count, now_s)
        if not wait_s:
            given_ += count
            largest = max(largest, count)
            # A batch may go into debt, once, by what exceeds a full bucket.
            assert given_ <= most + now_s * rate + max(0.0, largest - most) + 0.001
        else:
            # Who comes back when it was told gets what it asked for.
            quotas_then = now_s + wait_s
            assert quotas.take("bank", count, quotas_then) == 0.0
            given_, largest, now_s = given_ + count, max(largest, count), quotas_then
