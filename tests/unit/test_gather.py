"""The feature stage by itself: what each value is called, and what stands in for it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import pytest

from engine.bundle.load import LoadedBundle
from engine.domain.enums import FeatureStatus as S
from engine.domain.enums import SubstitutionAction as A
from engine.domain.enums import ValueOrigin, Verdict
from engine.domain.facts import UNNAMED, UNREAD, Facts, Row
from engine.features.encoding import Field, Kind, RowSchema, encode
from engine.features.gather import gather
from engine.features.plan import FeaturePlan
from engine.plan import FlowPlan
from engine.validate import validate
from tests.support import tiny

DAY_US = 86_400_000_000
NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return tiny.load_tiny(tmp_path_factory)


@dataclass
class Seen:
    """Facts by name."""

    plan: FeaturePlan
    facts: Facts

    def status(self, name: str) -> int:
        return int(self.facts.statuses[self.plan.slots[name]])

    def value(self, name: str) -> float:
        return float(self.facts.values[self.plan.slots[name]])

    def origin(self, name: str) -> int:
        return int(self.facts.origins[self.plan.slots[name]])

    @property
    def substitutions(self) -> dict[str, tuple[S, A, float | None]]:
        names = [f.name for f in self.plan.features]
        return {names[s.slot]: (s.status, s.action, s.value_used) for s in self.facts.substitutions}


def see(loaded: LoadedBundle, rows: Sequence[Row], sent: Sequence[tuple[str, float]] = ()) -> Seen:
    flow: FlowPlan = loaded.plan.flows["tiny_loan.application"]
    _, valid = validate(loaded.plan, tiny.request(), NOW)
    given = [(flow.features.slots[name], value) for name, value in sent]
    return Seen(flow.features, gather(flow.features, rows, valid.request, given, 1500.0, 12.0, NOW))


def test_a_whole_row_is_present_and_nothing_is_substituted(loaded: LoadedBundle) -> None:
    seen = see(loaded, tiny.rows(loaded, NOW - DAY_US))
    assert not seen.substitutions
    assert not seen.facts.degraded
    assert seen.value("checking_band") == 2.0
    assert seen.value("housing") == 2.0
    assert seen.status("checking_band") == S.PRESENT
    assert seen.origin("checking_band") == ValueOrigin.STORE
    assert seen.origin("purpose") == ValueOrigin.CALLER
    assert seen.origin("credit_amount") == ValueOrigin.DERIVED
    assert (seen.value("credit_amount"), seen.value("duration_months")) == (1500.0, 12.0)


@pytest.mark.parametrize(
    ("age_us", "status"),
    [(0, S.PRESENT), (30 * DAY_US, S.PRESENT), (30 * DAY_US + 1, S.STALE), (4000 * DAY_US, S.STALE)],
)
def test_a_row_is_stale_a_microsecond_after_its_age(loaded: LoadedBundle, age_us: int, status: S) -> None:
    seen = see(loaded, tiny.rows(loaded, NOW - age_us))
    assert seen.status("checking_band") == status
    # A view without a maximum age never ages.
    assert seen.status("housing") == S.PRESENT
    if status is S.STALE:
        assert seen.substitutions == {
            "checking_band": (S.STALE, A.MISSING, None),
            "savings_band": (S.STALE, A.MISSING, None),
            "credit_history": (S.STALE, A.MISSING, None),
            "existing_credits": (S.STALE, A.STALE_VALUE, 1.0),
        }
        assert math.isnan(seen.value("checking_band"))
        assert seen.value("existing_credits") == 1.0
        assert {s.age_us for s in seen.facts.substitutions} == {age_us}


def test_each_absence_has_its_own_status_and_rule(loaded: LoadedBundle) -> None:
    good = tiny.rows(loaded, NOW)
    nulls = tiny.rows(loaded, NOW, account={"existing_credits": None, "savings_band": None})
    seen = see(loaded, nulls)
    assert seen.substitutions == {
        "savings_band": (S.NULL, A.MISSING, None),
        "existing_credits": (S.NULL, A.DEFAULT, 1.0),
    }
    seen = see(loaded, [None, good[1]])
    assert {s for s, _, _ in seen.substitutions.values()} == {S.NOT_FOUND}
    assert seen.substitutions["existing_credits"] == (S.NOT_FOUND, A.DEFAULT, 1.0)
    seen = see(loaded, [UNREAD, good[1]])
    assert seen.substitutions["existing_credits"] == (S.UNAVAILABLE, A.VERDICT, None)
    assert [(d.source, d.verdict, d.reason) for d in seen.facts.degraded] == [
        ("existing_credits", Verdict.REFER, "PL_ACCOUNT_UNKNOWN")
    ]
    assert math.isnan(seen.value("existing_credits"))


def test_a_default_does_not_stand_in_for_an_entity_that_is_not_there(loaded: LoadedBundle) -> None:
    seen = see(loaded, [UNNAMED, tiny.rows(loaded, NOW)[1]])
    assert seen.substitutions["existing_credits"] == (S.NOT_FOUND, A.MISSING, None)
    assert math.isnan(seen.value("existing_credits"))


def test_bytes_that_are_no_row_are_unavailable(loaded: LoadedBundle) -> None:
    good = tiny.rows(loaded, NOW)
    other = encode(RowSchema("account", (Field("x", Kind.FLOAT64, "", ()),)), {"x": 1.0}, NOW)
    flipped = bytearray(good[0])
    flipped[30] ^= 1
    for bad in (b"", b"x", good[0][:-1], good[0] + b"\x00", bytes(flipped), other, good[1]):
        seen = see(loaded, [bad, good[1]])
        assert seen.status("checking_band") == S.UNAVAILABLE
        assert math.isnan(seen.value("checking_band"))
        assert seen.facts.degraded


def _with_number(row: bytes, place: int, number: float) -> bytes:
    """The row with one of its numbers put in place and the checksum made good, as another writer could send it."""
    start = 32 + 8 * place
    body = row[:start] + struct.pack("<d", number) + row[start + 8 : -4]
    return body + struct.pack("<I", crc32(body))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, 3.0, 1e300])
def test_a_number_that_cannot_be_is_not_present(loaded: LoadedBundle, number: float) -> None:
    account, home = tiny.rows(loaded, NOW)
    seen = see(loaded, [_with_number(account, 0, number), home])
    name = "checking_band"
    assert seen.status(name) == S.UNAVAILABLE
    assert math.isnan(seen.value(name))
    assert name in seen.substitutions


def test_a_stale_value_out_of_range_is_not_used(loaded: LoadedBundle) -> None:
    account, home = tiny.rows(loaded, NOW - 31 * DAY_US)
    # existing_credits, in the plan's range of 1 to 4, stands third.
    seen = see(loaded, [_with_number(account, 2, 99.0), home])
    assert math.isnan(seen.value("existing_credits"))
    assert seen.substitutions["existing_credits"][2] is None


def test_a_row_from_the_future_is_not_believed(loaded: LoadedBundle) -> None:
    seen = see(loaded, tiny.rows(loaded, NOW + 60_000_000))
    assert seen.status("checking_band") == S.PRESENT
    seen = see(loaded, tiny.rows(loaded, NOW + 30 * DAY_US))
    assert seen.status("checking_band") == S.UNAVAILABLE


def test_what_the_caller_sends_goes_before_the_store(loaded: LoadedBundle) -> None:
    for row in (tiny.rows(loaded, NOW)[1], None, UNREAD, UNNAMED, b"broken"):
        seen = see(loaded, [tiny.rows(loaded, NOW)[0], row], [("housing", 0.0)])
        assert seen.value("housing") == 0.0
        assert seen.status("housing") == S.PRESENT
        assert seen.origin("housing") == ValueOrigin.CALLER
        assert "housing" not in seen.substitutions


def test_derived_features_take_the_status_of_what_they_lack(loaded: LoadedBundle) -> None:
    seen = see(loaded, tiny.rows(loaded, NOW))
    assert seen.status("born") == S.NOT_FOUND
    assert seen.status("age") == S.NOT_FOUND
    assert math.isnan(seen.value("age"))


def test_the_plan_is_left_as_it_was(loaded: LoadedBundle) -> None:
    plan = loaded.plan.flows["tiny_loan.application"].features
    before = (plan.values_template.tobytes(), plan.statuses_template.tobytes(), plan.origins_template.tobytes())
    see(loaded, [UNREAD, UNNAMED], [("housing", 0.0)])
    see(loaded, tiny.rows(loaded, NOW - 31 * DAY_US))
    after = (plan.values_template.tobytes(), plan.statuses_template.tobytes(), plan.origins_template.tobytes())
    assert after == before
