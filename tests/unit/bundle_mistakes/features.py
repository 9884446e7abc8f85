"""Mistakes in the feature catalogue."""

from __future__ import annotations

from tests.unit.bundle_mistakes.spoil import FEATURES, FLOW, Mistake, put, text

MISTAKES: dict[str, Mistake] = {
    "undeclared entity": (
        put(FEATURES, ["views", "account", "entity"], "bank"),
        FEATURES,
        "views.account.entity (line",
        "bank",
    ),
    "name of a feature twice": (
        put(FEATURES, ["request", "housing"], {"type": "float", "description": "x"}),
        FEATURES,
        "request.housing (line",
        "taken",
    ),
    "category without categories": (
        put(FEATURES, ["request", "purpose", "categories"], None),
        FEATURES,
        "request.purpose (line",
        "categories",
    ),
    "category twice": (
        put(FEATURES, ["request", "other_plans", "categories"], ["none", "bank", "stores", "none"]),
        FEATURES,
        "request.other_plans.categories (line",
        "twice",
    ),
    "empty range": (put(FEATURES, ["request", "income", "range"], [5, 1]), FEATURES, "request.income.range", "empty"),
    "infinite range": (
        text(FEATURES, "- 1000000.0", "- .inf"),
        FEATURES,
        "request.income.range",
        "finite",
    ),
    "age of zero": (
        put(FEATURES, ["views", "account", "max_age_days"], 0),
        FEATURES,
        "views.account.max_age_days (line",
        "",
    ),
    "two rules for one absence": (
        put(FEATURES, ["request", "income", "on_missing"], {"default": 1, "use": "missing"}),
        FEATURES,
        "request.income.on_missing (line",
        "exactly one",
    ),
    "stale value for a missing one": (
        put(FEATURES, ["request", "income", "on_missing"], {"use": "stale_value"}),
        FEATURES,
        "request.income.on_missing (line",
        "stale",
    ),
    "default of another type": (
        put(FEATURES, ["request", "purpose", "on_missing"], {"default": "yacht"}),
        FEATURES,
        "request.purpose.on_missing (line",
        "yacht",
    ),
    "default out of range": (
        put(FEATURES, ["request", "income", "on_missing"], {"default": -1}),
        FEATURES,
        "request.income.on_missing (line",
        "-1",
    ),
    "verdict without a reason": (
        put(FEATURES, ["request", "income", "on_missing"], {"verdict": "REFER"}),
        FEATURES,
        "request.income.on_missing (line",
        "reason",
    ),
    "verdict with an unknown reason": (
        put(FEATURES, ["request", "income", "on_missing"], {"verdict": "REFER", "reason": "PL_WHAT"}),
        FEATURES,
        "request.income.on_missing (line",
        "PL_WHAT",
    ),
    "verdict with a retired reason": (
        put(FEATURES, ["request", "income", "on_missing"], {"verdict": "REFER", "reason": "CR_TEST_OLD"}),
        FEATURES,
        "request.income.on_missing (line",
        "retired",
    ),
    "verdict that approves": (
        put(FEATURES, ["request", "income", "on_missing"], {"verdict": "APPROVE", "reason": "PL_NO_RULE"}),
        FEATURES,
        "request.income.on_missing.verdict (line",
        "",
    ),
    "unknown function": (
        put(FEATURES, ["derived", "age", "function"], "average"),
        FEATURES,
        "derived.age.function (line",
        "average",
    ),
    "wrong number of arguments": (
        put(FEATURES, ["derived", "age", "arguments"], ["born"]),
        FEATURES,
        "derived.age.arguments (line",
        "2 arguments",
    ),
    "unknown argument": (
        put(FEATURES, ["derived", "age", "arguments"], ["birthday", "now"]),
        FLOW,
        "derived.2 (line",
        "birthday",
    ),
}
