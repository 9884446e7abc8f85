"""Golden scenarios that no longer give their stored answer, or are no scenarios."""

from __future__ import annotations

from tests.unit.bundle_mistakes.spoil import SCENARIOS, Mistake, put

MISTAKES: dict[str, Mistake] = {
    "another verdict": (
        put(SCENARIOS, ["scenarios", 0, "expect", "verdict"], "DECLINE"),
        SCENARIOS,
        "scenarios.0.expect.verdict (line",
        "stored DECLINE, now APPROVE",
    ),
    "another score": (
        put(SCENARIOS, ["scenarios", 0, "expect", "scores"], {"credit": {"points": 123}}),
        SCENARIOS,
        "scenarios.0.expect.scores.credit.points (line",
        "stored 123",
    ),
    "score of no model": (
        put(SCENARIOS, ["scenarios", 0, "expect", "scores"], {"fraud": {"points": 123}}),
        SCENARIOS,
        "scenarios.0.expect.scores.fraud (line",
        "no model",
    ),
    "another offer": (
        put(SCENARIOS, ["scenarios", 0, "expect", "offer", "amount"], 1450),
        SCENARIOS,
        "scenarios.0.expect.offer.amount (line",
        "stored 1450",
    ),
    "another reason": (
        put(SCENARIOS, ["scenarios", 0, "expect", "policy_reasons"], ["PL_NO_RULE"]),
        SCENARIOS,
        "scenarios.0.expect.policy_reasons (line",
        "PL_NO_RULE",
    ),
    "other substitutions": (
        put(SCENARIOS, ["scenarios", 0, "expect", "substitutions"], ["income"]),
        SCENARIOS,
        "scenarios.0.expect.substitutions (line",
        "income",
    ),
    "application at fault": (
        put(SCENARIOS, ["scenarios", 0, "application", "termMonths"], 7),
        SCENARIOS,
        "scenarios.0.application (line",
        "term_months",
    ),
    "application of another form": (
        put(SCENARIOS, ["scenarios", 0, "application", "colour"], 7),
        SCENARIOS,
        "scenarios.0.application (line",
        "colour",
    ),
    "row of an unknown view": (
        put(SCENARIOS, ["scenarios", 0, "features", "bank"], {}),
        SCENARIOS,
        "scenarios.0.features.bank (line",
        "no view",
    ),
    "row of an entity that is not named": (
        put(SCENARIOS, ["scenarios", 0, "application", "entities"], []),
        SCENARIOS,
        "scenarios.0.features.home (line",
        "no such entity",
    ),
    "unknown value in a row": (
        put(SCENARIOS, ["scenarios", 0, "features", "home", "values", "pets"], 2),
        SCENARIOS,
        "scenarios.0.features.home (line",
        "pets",
    ),
    "value of another type in a row": (
        put(SCENARIOS, ["scenarios", 0, "features", "home", "values", "housing"], 2),
        SCENARIOS,
        "scenarios.0.features.home (line",
        "housing",
    ),
    "infinite age": (
        put(SCENARIOS, ["scenarios", 0, "features", "home", "age_days"], float("inf")),
        SCENARIOS,
        "scenarios.0.features.home",
        "",
    ),
    "moment that is none": (
        put(SCENARIOS, ["scenarios", 0, "now"], "noon"),
        SCENARIOS,
        "scenarios.0.now (line",
        "noon",
    ),
    "moment without a time zone": (
        put(SCENARIOS, ["scenarios", 0, "now"], "2026-01-15T12:00:00"),
        SCENARIOS,
        "scenarios.0.now (line",
        "12:00:00Z",
    ),
    "verdict of another form": (
        put(SCENARIOS, ["scenarios", 0, "expect", "verdict"], "OK"),
        SCENARIOS,
        "scenarios.0.expect.verdict (line",
        "",
    ),
}
