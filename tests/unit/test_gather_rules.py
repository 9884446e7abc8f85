"""The feature stage: rules of law, consent, last good values, rows of other schemas."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.load import LoadedBundle, load_bundle
from engine.bundle.rows import RowWriter
from engine.domain.enums import FeatureStatus as S
from engine.domain.enums import SubstitutionAction as A
from engine.domain.enums import Verdict
from engine.domain.facts import UNREAD, LastGood, Row
from engine.errors import BundleError
from engine.features.encoding import Field, Kind, RowSchema, encode
from engine.features.evolve import RowTranslator
from engine.features.gather import gather
from engine.validate import validate
from tests.support import tiny
from tests.unit.test_gather import Seen

DAY_US = 86_400_000_000
NOW = 1_800_000_000_000_000
NOW_S = NOW / 1e6
FIVE_YEARS_DAYS = 1826
_ACCOUNT = [
    ("checking_band", "integer"),
    ("savings_band", "integer"),
    ("existing_credits", "integer"),
    ("credit_history", "category"),
]


def features() -> dict[str, Any]:
    """The tiny catalogue with a debt that the law silences, a consent, and values that outlive the store."""
    made = copy.deepcopy(tiny.FEATURES)
    account = made["views"]["account"]["features"]
    account["defaulted"] = {
        "type": "boolean",
        "description": "A loan was not paid back",
        "expiry": {"since": "default_ended_at", "after_days": FIVE_YEARS_DAYS, "then": False},
        "on_stale": {"use": "stale_value"},
        "on_unavailable": {"use": "last_good_value", "verdict": "REFER", "reason": "PL_ACCOUNT_UNKNOWN"},
    }
    account["default_ended_at"] = {"type": "timestamp", "description": "When that was settled"}
    account["checking_band"]["on_unavailable"] = {"use": "last_good_value", "default": 1}
    account["savings_band"]["on_unavailable"] = {"use": "last_good_value"}
    made["views"]["home"]["consent"] = "may_ask"
    made["views"]["home"]["features"]["housing"]["on_withheld"] = {"default": "own"}
    made["request"]["may_ask"] = {"type": "boolean", "description": "The applicant lets us ask the register"}
    # Read by nothing, it would not be listed.
    made["derived"]["defaulted_number"] = {"function": "copy", "arguments": ["defaulted"], "description": "As number"}
    return made


def written(root: Path, catalogue: dict[str, Any]) -> Path:
    tiny.write_bundle(root)
    tiny.write(root / "features.yaml", catalogue)
    flow = {**tiny.FLOW, "request": list(catalogue["request"]), "derived": list(catalogue["derived"])}
    tiny.write(root / "flows" / "tiny_loan.yaml", flow)
    table = tiny.table(
        "knock_outs",
        "collect",
        ["defaulted"],
        ["verdict", "reason"],
        [["true", '"DECLINE"', '"PL_INSOLVENT"'], ["null", '"REFER"', '"PL_ACCOUNT_UNKNOWN"']],
    )
    tiny.write(root / "policy" / "knock_outs.json", table)
    return root


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return load_bundle(written(tmp_path_factory.mktemp("rules") / "bundle", features()), scenarios=False)


def see(loaded: LoadedBundle, rows: Sequence[Row], consent: bool | None = True) -> Seen:
    flow = loaded.plan.flows["tiny_loan.application"]
    request = tiny.request()
    if consent is not None:
        request.application.fields["may_ask"].flag = consent
    _, valid = validate(loaded.plan, request, NOW)
    return Seen(flow.features, gather(flow.features, rows, valid.request, (), 1500.0, 12.0, NOW))


def account(loaded: LoadedBundle, age_us: int = 0, **more: object) -> bytes:
    values = {**tiny.ACCOUNT, "defaulted": False, **more}
    return RowWriter(loaded.catalogue).row("account", "p1", values, NOW - age_us).value


def home(loaded: LoadedBundle) -> bytes:
    return RowWriter(loaded.catalogue).row("home", "a1", tiny.HOME, NOW).value


# --- expiry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended_days_ago", "expired"),
    [(None, False), (0, False), (FIVE_YEARS_DAYS - 1, False), (FIVE_YEARS_DAYS, True), (9000, True), (-10, False)],
)
def test_what_the_law_silences_counts_as_if_it_had_never_been(
    loaded: LoadedBundle, ended_days_ago: int | None, expired: bool
) -> None:
    ended = None if ended_days_ago is None else NOW_S - ended_days_ago * 86_400
    row = account(loaded, DAY_US, defaulted=True, default_ended_at=ended)
    seen = see(loaded, [row, home(loaded)])
    assert seen.value("defaulted") == (0.0 if expired else 1.0)
    assert seen.status("defaulted") == (S.WITHHELD if expired else S.PRESENT)
    if expired:
        assert seen.substitutions["defaulted"] == (S.WITHHELD, A.EXPIRED, 0.0)
        (one,) = [s for s in seen.facts.substitutions if s.slot == seen.plan.slots["defaulted"]]
        assert one.age_us == DAY_US
        # What may not be used is not written down either.
        assert math.isnan(seen.facts.read[seen.plan.slots["defaulted"]])
    # Derived from what may be used.
    assert seen.value("defaulted_number") == seen.value("defaulted")


def test_an_expired_value_is_silenced_in_a_stale_row_as_well(loaded: LoadedBundle) -> None:
    row = account(loaded, 40 * DAY_US, defaulted=True, default_ended_at=NOW_S - 9000 * 86_400)
    seen = see(loaded, [row, home(loaded)])
    assert seen.substitutions["defaulted"] == (S.STALE, A.STALE_VALUE, 0.0)
    assert seen.facts.read[seen.plan.slots["defaulted"]] == 0.0


def test_an_expired_value_is_silenced_in_a_last_good_row_as_well(loaded: LoadedBundle) -> None:
    row = account(loaded, DAY_US, defaulted=True, default_ended_at=NOW_S - 9000 * 86_400)
    seen = see(loaded, [LastGood(row), home(loaded)])
    assert seen.substitutions["defaulted"] == (S.UNAVAILABLE, A.LAST_GOOD_VALUE, 0.0)


def test_a_missing_value_does_not_expire(loaded: LoadedBundle) -> None:
    row = account(loaded, defaulted=None, default_ended_at=NOW_S - 9000 * 86_400)
    seen = see(loaded, [row, home(loaded)])
    assert seen.substitutions["defaulted"] == (S.NULL, A.MISSING, None)


# --- consent ------------------------------------------------------------------------------------------------------


def test_with_consent_a_view_is_read(loaded: LoadedBundle) -> None:
    seen = see(loaded, [account(loaded), home(loaded)], consent=True)
    assert seen.status("housing") == S.PRESENT


@pytest.mark.parametrize("consent", [False, None])
@pytest.mark.parametrize("kind", ["row", "unread", "last_good", "none"])
def test_without_consent_all_of_the_view_is_withheld(loaded: LoadedBundle, consent: bool | None, kind: str) -> None:
    rows: dict[str, Row] = {"row": home(loaded), "unread": UNREAD, "last_good": LastGood(home(loaded)), "none": None}
    seen = see(loaded, [account(loaded), rows[kind]], consent=consent)
    for name in ("housing", "property", "residence_band"):
        assert seen.status(name) == S.WITHHELD
        assert math.isnan(seen.facts.read[seen.plan.slots[name]])
    assert seen.substitutions["housing"] == (S.WITHHELD, A.DEFAULT, 2.0)
    assert seen.substitutions["property"] == (S.WITHHELD, A.MISSING, None)
    assert seen.facts.view_statuses[1] == S.WITHHELD
    assert seen.facts.event_times_us[1] == 0


# --- last good values ---------------------------------------------------------------------------------------------


def test_the_last_good_values_stand_in_for_a_store_that_fails(loaded: LoadedBundle) -> None:
    seen = see(loaded, [LastGood(account(loaded, 3 * DAY_US)), home(loaded)])
    assert seen.substitutions["checking_band"] == (S.UNAVAILABLE, A.LAST_GOOD_VALUE, 2.0)
    assert seen.substitutions["savings_band"] == (S.UNAVAILABLE, A.LAST_GOOD_VALUE, 3.0)
    assert seen.value("checking_band") == 2.0
    # Where the rule does not allow it, it does not stand in.
    assert seen.substitutions["existing_credits"] == (S.UNAVAILABLE, A.VERDICT, None)
    ages = {s.slot: s.age_us for s in seen.facts.substitutions}
    assert ages[seen.plan.slots["checking_band"]] == 3 * DAY_US
    assert ages[seen.plan.slots["existing_credits"]] is None
    assert seen.facts.view_statuses[0] == S.UNAVAILABLE
    assert seen.facts.event_times_us[0] == NOW - 3 * DAY_US


@pytest.mark.parametrize("row", ["none", "old", "corrupt", "future"])
def test_without_a_good_one_the_rule_says_what_else(loaded: LoadedBundle, row: str) -> None:
    cases: dict[str, Row] = {
        "none": UNREAD,
        "old": LastGood(account(loaded, 30 * DAY_US + 1)),
        "corrupt": LastGood(account(loaded)[:-1]),
        "future": LastGood(account(loaded, -DAY_US)),
    }
    seen = see(loaded, [cases[row], home(loaded)])
    assert seen.substitutions["checking_band"] == (S.UNAVAILABLE, A.DEFAULT, 1.0)
    assert seen.substitutions["savings_band"] == (S.UNAVAILABLE, A.MISSING, None)
    assert seen.substitutions["defaulted"] == (S.UNAVAILABLE, A.VERDICT, None)
    assert {d.source: (d.verdict, d.reason) for d in seen.facts.degraded}["defaulted"] == (
        Verdict.REFER,
        "PL_ACCOUNT_UNKNOWN",
    )


def test_a_null_in_the_last_good_row_is_no_value(loaded: LoadedBundle) -> None:
    seen = see(loaded, [LastGood(account(loaded, checking_band=None)), home(loaded)])
    assert seen.substitutions["checking_band"] == (S.UNAVAILABLE, A.DEFAULT, 1.0)


# --- rows of other schemas ----------------------------------------------------------------------------------------


def older(loaded: LoadedBundle, *, kind: Kind = Kind.INT64) -> tuple[RowSchema, bytes]:
    """A row as an earlier bundle wrote it: fewer fields, in another order."""
    categories = loaded.catalogue.file.views["account"].features["credit_history"].categories
    schema = RowSchema(
        "account",
        (Field("credit_history", Kind.CATEGORY, "", tuple(reversed(categories))), Field("checking_band", kind)),
    )
    number = 2 if kind is Kind.INT64 else "two"
    return schema, encode(schema, {"credit_history": categories[3], "checking_band": number}, NOW - DAY_US)


def test_a_row_of_another_schema_is_unavailable_until_its_schema_is_known(loaded: LoadedBundle) -> None:
    schema, row = older(loaded)
    seen = see(loaded, [row, home(loaded)])
    assert seen.status("checking_band") == S.UNAVAILABLE
    (fault,) = seen.facts.faults
    assert fault == ("account", "other_schema", schema.fingerprint)


def test_a_row_of_another_schema_is_read_by_name(loaded: LoadedBundle) -> None:
    schema, row = older(loaded)
    view = loaded.plan.flows["tiny_loan.application"].features.views[0]
    view.translators[schema.fingerprint] = RowTranslator(schema, view.decoder.schema)
    try:
        seen = see(loaded, [row, home(loaded)])
    finally:
        view.translators.clear()
    assert not seen.facts.faults
    assert (seen.status("checking_band"), seen.value("checking_band")) == (S.PRESENT, 2.0)
    assert (seen.status("credit_history"), seen.value("credit_history")) == (S.PRESENT, 3.0)
    # A field that the writer did not know is not known to be absent.
    assert seen.substitutions["existing_credits"] == (S.NOT_FOUND, A.DEFAULT, 1.0)
    assert seen.facts.event_times_us[0] == NOW - DAY_US


# --- mistakes in the catalogue ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["views", "account", "features", "defaulted", "expiry", "since"], "nothing", "names no timestamp"),
        (["views", "account", "features", "defaulted", "expiry", "since"], "savings_band", "names no timestamp"),
        (["views", "account", "features", "defaulted", "expiry", "then"], 3, "is no boolean"),
        (["views", "home", "consent"], "income", "is no boolean"),
        (["views", "home", "consent"], "nobody", "is no boolean"),
        (["views", "account", "features", "savings_band", "on_missing"], {"use": "last_good_value"}, "is there"),
        (
            ["views", "account", "features", "savings_band", "on_unavailable"],
            {"use": "last_good_value", "default": 1, "verdict": "REFER", "reason": "PL_ACCOUNT_UNKNOWN"},
            "exactly one",
        ),
        (
            ["views", "account", "features", "savings_band", "counter"],
            {"what": "count", "window": "1h"},
            "has no `counter`",
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, path: list[str], value: object, told: str) -> None:
    made = features()
    place: Any = made
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(BundleError) as caught:
        load_bundle(written(tmp_path / "bundle", made), scenarios=False)
    assert any(told in str(p) and p.file in ("features.yaml", "flows/tiny_loan.yaml") for p in caught.value.problems)
