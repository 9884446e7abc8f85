"""Mistakes in the reason catalogue, and codes that do not fit who gives them."""

from __future__ import annotations

from tests.unit.bundle_mistakes.spoil import REASONS, Mistake, put

MISTAKES: dict[str, Mistake] = {
    "code missing": (put(REASONS, ["reasons", "CR_TEST_LOAN"], None), REASONS, "CR_TEST_LOAN", "missing"),
    "code of the policy missing": (put(REASONS, ["reasons", "PL_NO_RULE"], None), "", "", "PL_NO_RULE"),
    "code of a table missing": (
        put(REASONS, ["reasons", "PL_INSOLVENT"], None),
        "policy/knock_outs.json",
        "",
        "PL_INSOLVENT",
    ),
    "language missing": (
        put(REASONS, ["reasons", "CR_TEST_LOAN", "texts", "zh"], None),
        REASONS,
        "reasons.CR_TEST_LOAN.texts (line",
        "'zh'",
    ),
    "text missing": (
        put(REASONS, ["reasons", "CR_TEST_LOAN", "texts", "zh", "applicant"], ""),
        REASONS,
        "reasons.CR_TEST_LOAN.texts.zh.applicant (line",
        "",
    ),
    "legal mapping missing": (
        put(REASONS, ["reasons", "CR_TEST_LOAN", "legal"], None),
        REASONS,
        "reasons.CR_TEST_LOAN.legal",
        "Add this entry",
    ),
    "retired code given by a model": (
        put(REASONS, ["reasons", "CR_TEST_LOAN", "retired"], "2020-01-01"),
        REASONS,
        "CR_TEST_LOAN",
        "retired",
    ),
    "retired code given by a table": (
        put(REASONS, ["reasons", "PL_INSOLVENT", "retired"], "2020-01-01"),
        "policy/knock_outs.json",
        "",
        "PL_INSOLVENT",
    ),
    "code of another component": (
        put(REASONS, ["reasons", "CR_TEST_LOAN", "component"], "fraud"),
        REASONS,
        "CR_TEST_LOAN",
        "fraud",
    ),
}
