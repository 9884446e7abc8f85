"""Golden scenarios: an application, what the stores hold, and the answer that must come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.bundle.compile_features import Catalogue, view_schema
from engine.bundle.schema import Scenario, ScenarioFile, ScenarioRow
from engine.bundle.source import Document, Source
from engine.domain.facts import UNNAMED, UNREAD, Row
from engine.errors import RequestError
from engine.features.encoding import encode
from engine.pipeline import Conclusion, Prepared, conclude, prepare
from engine.plan import BundlePlan

_DAY_US = 86_400_000_000
# Stored scores were written down with this many digits.
_RAW_TOLERANCE = 1e-4
_PERCENT_TOLERANCE = 0.005
_MONEY_TOLERANCE = 0.005


class ScenarioError(Exception):
    """A scenario that cannot be run: what is wrong, and where."""

    def __init__(self, place: Sequence[str | int], message: str) -> None:
        self.place, self.message = tuple(place), message
        super().__init__(message)


def run_scenarios(
    plan: BundlePlan, catalogue: Catalogue, file: ScenarioFile, document: Document, source: Source
) -> int:
    """Runs every scenario of a file; gives how many gave their stored answer, and notes those that did not."""
    passed = 0
    for index, scenario in enumerate(file.scenarios):
        try:
            differences = compare(scenario, decide_scenario(plan, catalogue, scenario))
        except ScenarioError as error:
            where = document.place("scenarios", index, *error.place)
            source.report(document.file, where, error.message, "Correct the scenario.")
            continue
        for key, stored, got in differences:
            source.report(
                document.file,
                document.place("scenarios", index, "expect", *key.split(".")),
                f"scenario {scenario.title!r}: stored {stored}, now {got}",
                "Correct what changed the decision, or, if the change is meant, the stored answer.",
            )
        passed += not differences
    return passed


def decide_scenario(plan: BundlePlan, catalogue: Catalogue, scenario: Scenario) -> Conclusion:
    """Decides one scenario without server or store. Raises ScenarioError."""
    try:
        now = datetime.fromisoformat(scenario.now)
        if now.tzinfo is None:
            raise ValueError("no time zone")
    except ValueError as error:
        raise ScenarioError(["now"], f"{scenario.now!r} is no moment; write 2026-01-15T12:00:00Z") from error
    now_us = round(now.timestamp() * 1_000_000)
    request = DecideRequest(request_id="scenario")
    try:
        ParseDict(scenario.application, request.application)
    except ParseError as error:
        raise ScenarioError(["application"], f"is no Application: {error}") from error
    try:
        prepared = prepare(plan, request, now_us, _no_clock)
    except RequestError as error:
        raise ScenarioError(["application"], f"is refused: {error}") from error
    rows = encode_rows(catalogue, prepared, scenario.features, now_us)
    return conclude(prepared, rows, now_us, _no_clock)


def encode_rows(catalogue: Catalogue, prepared: Prepared, given: Mapping[str, ScenarioRow], now_us: int) -> list[Row]:
    """Rows of a scenario as stores would hand them over. Raises ScenarioError."""
    views = [view.name for view in prepared.flow.features.views]
    for name in given:
        if name not in views:
            raise ScenarioError(["features", name], f"the flow has no view {name!r}; it reads {', '.join(views)}")
    rows: list[Row] = []
    for name, key in zip(views, prepared.reads, strict=True):
        row = given.get(name)
        if key is None:
            if row is not None:
                raise ScenarioError(
                    ["features", name], "the application names no such entity, so this row would never be read"
                )
            rows.append(UNNAMED)
        elif row is None:
            rows.append(None)
        elif row.status == "unavailable":
            rows.append(UNREAD)
        else:
            schema = view_schema(name, catalogue.file.views[name])
            try:
                rows.append(encode(schema, row.values, now_us - round(row.age_days * _DAY_US)))
            except (ValueError, TypeError) as error:
                raise ScenarioError(["features", name], str(error)) from error
    return rows


def _no_clock() -> int:
    return 0


def compare(scenario: Scenario, got: Conclusion) -> list[tuple[str, Any, Any]]:
    """Every difference between the stored answer and the one that came out: (key, stored, got)."""
    expect, found = scenario.expect, []
    if expect.verdict != got.outcome.verdict.name:
        found.append(("verdict", expect.verdict, got.outcome.verdict.name))
    if expect.deciding is not None:
        _differ(found, "deciding", expect.deciding, tuple(c.name for c in got.outcome.deciding))
    _compare_scores(scenario, got, found)
    _compare_offer(scenario, got, found)
    for key in ("credit", "fraud", "policy"):
        stored = getattr(expect, f"{key}_reasons")
        if stored is not None:
            _differ(found, f"{key}_reasons", stored, tuple(r.code for r in getattr(got.reasons, key)))
    if expect.substitutions is not None:
        features = got.prepared.flow.features.features
        named = tuple(sorted(features[s.slot].name for s in got.facts.substitutions))
        _differ(found, "substitutions", tuple(sorted(expect.substitutions)), named)
    return found


def _differ(found: list[tuple[str, Any, Any]], key: str, stored: Any, got: Any) -> None:
    if stored != got:
        found.append((key, _plain(stored), _plain(got)))


def _plain(value: Any) -> Any:
    return "[" + ", ".join(value) + "]" if isinstance(value, tuple) else value


def _compare_scores(scenario: Scenario, got: Conclusion, found: list[tuple[str, Any, Any]]) -> None:
    by_role = {p.role: s for p, s in zip(got.prepared.flow.models, got.scores, strict=True)}
    for role, stored in scenario.expect.scores.items():
        score = by_role.get(role)
        if score is None:
            found.append((f"scores.{role}", "a score", f"no model of this name; there are {', '.join(by_role)}"))
            continue
        for key, tolerance in (("points", 0.0), ("raw", _RAW_TOLERANCE), ("probability", _RAW_TOLERANCE)):
            want, have = getattr(stored, key), getattr(score, key)
            if want is not None and (have is None or not abs(want - have) <= tolerance):
                found.append((f"scores.{role}.{key}", want, have))


def _compare_offer(scenario: Scenario, got: Conclusion, found: list[tuple[str, Any, Any]]) -> None:
    stored, offer = scenario.expect.offer, got.outcome.offer
    if stored is None:
        return
    if offer is None:
        found.append(("offer", "an offer", "none"))
        return
    per = got.prepared.flow.minor_per_major
    have = {
        "amount": offer.amount_minor / per,
        "term_months": offer.term_months,
        "annual_rate_percent": offer.annual_rate_percent,
        "annual_cost_percent": offer.annual_cost_percent,
        "monthly_payment": offer.monthly_payment_minor / per,
    }
    for key, value in have.items():
        want = getattr(stored, key)
        tolerance = _PERCENT_TOLERANCE if key.endswith("percent") else _MONEY_TOLERANCE
        if want is not None and abs(want - value) > tolerance:
            found.append((f"offer.{key}", want, round(value, 4)))
