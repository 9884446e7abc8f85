"""Facts made again from what was read, the same to the last bit; and facts carried into other catalogues."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.bundle.load import LoadedBundle, load_bundle
from engine.domain.application import ValidApplication
from engine.domain.enums import FeatureStatus as S
from engine.domain.enums import SubstitutionAction as A
from engine.domain.facts import UNNAMED, Facts, Row
from engine.features.gather import gather
from engine.features.rebuild import Asked, Rebuild, at_terms, known_of
from engine.features.refit import Note, Refit
from engine.plan import FlowPlan
from engine.validate import validate
from tests.support import applications as apps
from tests.support import tiny
from tests.support.bundles import shipped
from tests.support.replays import random_rows
from tests.unit.test_gather_rules import features as ruled_features
from tests.unit.test_gather_rules import written

NOW = 1_800_000_000_000_000
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    """A catalogue with consents, expiries and last good values."""
    return load_bundle(written(tmp_path_factory.mktemp("ruled") / "bundle", ruled_features()), scenarios=False)


def facts_of(flow: FlowPlan, valid: ValidApplication, rows: Sequence[Row], amount: float, term: float) -> Facts:
    return gather(flow.features, rows, valid.request, valid.sent, amount, term, NOW)


def assert_same(got: Facts, want: Facts) -> None:
    for name in ("values", "read"):
        mine, other = getattr(got, name), getattr(want, name)
        assert np.array_equal(np.isnan(mine), np.isnan(other)), name
        assert np.nan_to_num(mine).tobytes() == np.nan_to_num(other).tobytes(), name
    assert got.statuses.tolist() == want.statuses.tolist()
    assert got.origins.tolist() == want.origins.tolist()
    assert np.array_equal(got.vector, want.vector, equal_nan=True)
    assert [plain(s) for s in got.substitutions] == [plain(s) for s in want.substitutions]
    assert got.degraded == want.degraded
    assert got.blocked == want.blocked
    assert got.view_statuses == want.view_statuses
    assert got.event_times_us == want.event_times_us


def plain(one: object) -> tuple[object, ...]:
    assert isinstance(one, tuple)
    return tuple("NaN" if part != part else part for part in one)


def cases(loaded: LoadedBundle, seed: int, count: int) -> list[tuple[FlowPlan, ValidApplication, list[Row], Asked]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        if loaded.plan.name == "tiny":
            request = tiny.request()
            if rng.random() < 0.8 and "may_ask" in loaded.plan.flows["tiny_loan.application"].features.slots:
                request.application.fields["may_ask"].flag = rng.random() < 0.7
            for name, value in (("housing", "own"), ("property", "real estate")):
                if rng.random() < 0.2:
                    request.application.fields[name].text = value
            if rng.random() < 0.2:
                del request.application.entities[:]
        else:
            request = apps.company("c") if rng.random() < 0.2 else apps.consumer("s", entities=rng.random() < 0.7)
        flow, valid = validate(loaded.plan, request, NOW)
        rows = random_rows(rng, loaded, flow, NOW)
        unnamed = [i for i, view in enumerate(flow.features.views) if valid.entity_ids[view.entity_index] is None]
        for place in unnamed:
            rows[place] = UNNAMED
        amount = valid.amount_minor / flow.minor_per_major
        found.append((flow, valid, rows, Asked(amount, float(valid.term_months), NOW, unnamed)))
    return found


@pytest.mark.parametrize("which", ["shipped", "ruled"])
def test_facts_made_again_are_the_same_to_the_last_bit(which: str, ruled: LoadedBundle) -> None:
    met: set[tuple[S, A]] = set()
    for flow, valid, rows, asked in cases(shipped() if which == "shipped" else ruled, 7, 400):
        want = facts_of(flow, valid, rows, asked.amount, asked.term_months)
        rebuild = Rebuild(flow.features)
        got = rebuild.facts(known_of(want), asked)
        assert_same(got, want)
        met |= {(S(s.status), s.action) for s in got.substitutions}
        other = Asked(900.0, 6.0, NOW, asked.unnamed)
        assert_same(at_terms(flow.features, got, other), facts_of(flow, valid, rows, 900.0, 6.0))
    # The cases are worth something only while they meet what there is.
    wanted = {(S.STALE, A.VERDICT), (S.NOT_FOUND, A.DEFAULT), (S.UNAVAILABLE, A.VERDICT), (S.NULL, A.MISSING)}
    if which == "ruled":
        wanted = {(S.STALE, A.STALE_VALUE), (S.UNAVAILABLE, A.LAST_GOOD_VALUE), (S.WITHHELD, A.EXPIRED)}
        wanted |= {(S.WITHHELD, A.DEFAULT), (S.UNAVAILABLE, A.DEFAULT)}
    assert wanted <= met


@pytest.mark.parametrize("which", ["shipped", "ruled"])
def test_carried_into_their_own_catalogue_facts_stay_the_same(which: str, ruled: LoadedBundle) -> None:
    for flow, valid, rows, asked in cases(shipped() if which == "shipped" else ruled, 8, 300):
        want = facts_of(flow, valid, rows, asked.amount, asked.term_months)
        notes: list[Note] = []
        refit = Refit(flow.features.catalogue_json, flow.features)
        assert refit.notes == ()
        assert_same(refit.facts(known_of(want), asked, notes), want)
        assert notes == []


# --- another catalogue --------------------------------------------------------------------------------------------


class Carried:
    """The good applicant of the tiny bundle, seen by a changed catalogue."""

    def __init__(
        self,
        root: Path,
        changes: Sequence[tuple[Sequence[str | int], object]],
        absent: S = S.NOT_FOUND,
        age_us: int = 0,
    ) -> None:
        base = load_bundle(tiny.write_bundle(root / "base"), scenarios=False)
        tiny.write_bundle(root / "other")
        for path, value in changes:
            file = "flows/tiny_loan.yaml" if path[0] == "flow" else "features.yaml"
            tiny.change(root / "other" / file, path[1:] if path[0] == "flow" else path, value)
        other = load_bundle(root / "other", scenarios=False)
        source, self.flow = (one.plan.flows["tiny_loan.application"] for one in (base, other))
        _, valid = validate(base.plan, tiny.request(), NOW)
        rows = tiny.rows(base, NOW - age_us)
        facts = gather(source.features, rows, valid.request, valid.sent, 1500.0, 12.0, NOW)
        self.refit = Refit(source.features.catalogue_json, self.flow.features, absent)
        self.notes: list[Note] = []
        self.facts = self.refit.facts(known_of(facts), Asked(1500.0, 12.0, NOW), self.notes)

    def status(self, name: str) -> S:
        return S(int(self.facts.statuses[self.flow.features.slots[name]]))

    def value(self, name: str) -> float:
        return float(self.facts.values[self.flow.features.slots[name]])


def test_categories_go_by_name(tmp_path: Path) -> None:
    names = ["own", "rent", "for free"]
    seen = Carried(tmp_path, [(["views", "home", "features", "housing", "categories"], names)])
    assert seen.value("housing") == names.index("own")


def test_a_category_that_is_not_listed_is_unavailable(tmp_path: Path) -> None:
    seen = Carried(tmp_path, [(["views", "home", "features", "housing", "categories"], ["rent", "for free"])])
    assert seen.status("housing") is S.UNAVAILABLE
    assert Note("housing", "category not listed") in seen.notes


def test_what_changed_its_unit_or_kind_is_not_carried(tmp_path: Path) -> None:
    place = ["views", "account", "features", "savings_band"]
    seen = Carried(tmp_path, [([*place, "unit"], "band"), (["request", "income", "unit"], "EUR/year")])
    # One of the two states no unit for the band; for the income both do.
    assert seen.status("savings_band") is S.PRESENT
    assert seen.status("income") is S.NOT_FOUND
    assert seen.refit.notes == (Note("income", "is in EUR/month in the record and in EUR/year here"),)


@pytest.mark.parametrize(("absent", "rule"), [(S.NOT_FOUND, "on_missing"), (S.UNAVAILABLE, "on_unavailable")])
def test_a_feature_that_no_record_has_follows_the_catalogue(tmp_path: Path, absent: S, rule: str) -> None:
    entry = {"type": "integer", "range": [0, 9], "description": "New", "on_missing": {"default": 1}}
    entry["on_unavailable"] = {"default": 2}
    derived = {"function": "copy", "arguments": ["new_band"], "description": "As number"}
    seen = Carried(
        tmp_path,
        [
            (["views", "account", "features", "new_band"], entry),
            (["derived", "existing_credits_number"], derived),
            (["flow", "derived"], [*tiny.FLOW["derived"], "existing_credits_number"]),
            (["flow", "policy", "debt_ratio"], "existing_credits_number"),
            (["flow", "policy", "existing_debt_payments"], None),
        ],
        absent,
    )
    assert seen.status("new_band") is absent
    assert seen.value("new_band") == (1.0 if rule == "on_missing" else 2.0)
    assert seen.value("existing_credits_number") == seen.value("new_band")
    assert seen.refit.notes == (Note("new_band", "not recorded"),)


def test_age_is_held_against_the_other_catalogue(tmp_path: Path) -> None:
    stricter = Carried(tmp_path / "a", [(["views", "account", "max_age_days"], 5)], age_us=10 * DAY_US)
    assert stricter.status("existing_credits") is S.STALE
    (one,) = [s for s in stricter.facts.substitutions if s.slot == stricter.flow.features.slots["existing_credits"]]
    assert (one.action, one.value_used, one.age_us) == (A.STALE_VALUE, 1.0, 10 * DAY_US)
    assert stricter.facts.view_statuses[0] is S.STALE
    laxer = Carried(tmp_path / "b", [(["views", "account", "max_age_days"], 50)], age_us=40 * DAY_US)
    assert (laxer.status("checking_band"), laxer.value("checking_band")) == (S.PRESENT, 2.0)
    assert Note("checking_band", "fresh enough for this catalogue") in laxer.notes


def test_a_value_out_of_the_other_range_is_no_fact(tmp_path: Path) -> None:
    seen = Carried(tmp_path, [(["views", "account", "features", "checking_band", "range"], [0, 1])])
    assert seen.status("checking_band") is S.UNAVAILABLE
    assert Note("checking_band", "out of range") in seen.notes


def test_consent_that_the_other_catalogue_asks_for_and_nobody_gave_withholds(tmp_path: Path) -> None:
    flag = {"type": "boolean", "description": "May ask"}
    seen = Carried(
        tmp_path,
        [
            (["views", "home", "consent"], "may_ask"),
            (["request", "may_ask"], flag),
            (["flow", "request"], [*tiny.FLOW["request"], "may_ask"]),
        ],
    )
    assert seen.status("housing") is S.WITHHELD
    assert seen.facts.view_statuses[1] is S.WITHHELD


@pytest.mark.parametrize("listing", [b"", b"[]", b'{"features": [{}], "views": []}', b'{"features": []}'])
def test_bytes_that_are_no_slot_list_are_refused(listing: bytes) -> None:
    plan = shipped().plan.flows["sme_loan.application"].features
    with pytest.raises(ValueError, match="slot list"):
        Refit(listing, plan)


def test_facts_of_another_length_are_refused() -> None:
    flow, valid, rows, asked = cases(shipped(), 3, 1)[0]
    known = known_of(facts_of(flow, valid, rows, asked.amount, asked.term_months))
    with pytest.raises(ValueError, match="values for"):
        Rebuild(flow.features).facts(known._replace(values=known.values[:-1]), asked)
    with pytest.raises(ValueError, match="rows for"):
        Rebuild(flow.features).facts(known._replace(view_statuses=()), asked)
    with pytest.raises(ValueError, match="values for"):
        Refit(flow.features.catalogue_json, flow.features).facts(known._replace(values=known.values[:-1]), asked)
