"""Mistakes in a flow."""

from __future__ import annotations

from tests.unit.bundle_mistakes.spoil import BUNDLE, FEATURES, FLOW, Mistake, both, put

MISTAKES: dict[str, Mistake] = {
    "unknown view": (put(FLOW, ["views", 0], "acount"), FLOW, "views.0 (line", "acount"),
    "unknown request field": (put(FLOW, ["request", 0], "reason"), FLOW, "request.0 (line", "reason"),
    "unknown derived feature": (put(FLOW, ["derived", 0], "amount"), FLOW, "derived.0 (line", "amount"),
    "view twice": (put(FLOW, ["views"], ["account", "account", "home"]), FLOW, "views (line", "twice"),
    "derived before its argument": (
        both(
            put(
                FEATURES,
                ["derived", "double_age"],
                {"function": "product", "arguments": ["age", 2], "description": "x"},
            ),
            put(FLOW, ["derived"], ["credit_amount", "duration_months", "double_age", "age"]),
        ),
        FLOW,
        "derived.2 (line",
        "after it",
    ),
    "input that nothing fills": (
        put(FLOW, ["views"], ["account"]),
        FLOW,
        "models.credit (line",
        "'housing'",
    ),
    "unknown model": (put(FLOW, ["models", "credit", "model"], "big_german"), FLOW, "models.credit", "big_german"),
    "model of another component": (
        put(FLOW, ["models", "credit", "component"], "fraud"),
        FLOW,
        "models.credit",
        "component: credit",
    ),
    "amounts the wrong way": (put(FLOW, ["amount", "min"], 30_000), FLOW, "amount (line", "min is above max"),
    "terms out of order": (put(FLOW, ["terms_months"], [12, 6]), FLOW, "terms_months (line", "rise"),
    "unknown role of a table": (
        put(FLOW, ["policy", "tables", "gate"], "policy/price.json"),
        FLOW,
        "policy.tables.gate (line",
        "gate",
    ),
    "no cut-offs": (put(FLOW, ["policy", "tables", "cut_offs"], None), "", "", "cut_offs"),
    "income that is none": (put(FLOW, ["policy", "income"], "salary"), FLOW, "policy.income (line", "salary"),
    "flow twice": (put(BUNDLE, ["flows"], ["flows/tiny_loan.yaml"] * 2), FLOW, "product", "twice"),
    "type clash": (
        put(FEATURES, ["views", "account", "features", "checking_band"], {"type": "timestamp", "description": "x"}),
        FLOW,
        "models.credit (line",
        "type clash",
    ),
    "category that the model does not know": (
        put(FEATURES, ["request", "other_debtors", "categories"], ["none", "co-applicant", "guarantor", "state"]),
        FLOW,
        "models.credit (line",
        "state",
    ),
}
