"""Mistakes in decision tables."""

from __future__ import annotations

from tests.unit.bundle_mistakes.spoil import Mistake, drop_rule, put, rule

MISTAKES: dict[str, Mistake] = {
    "gap": (drop_rule("cut_offs", 2), "policy/cut_offs.json", "", ""),
    "null not foreseen": (drop_rule("cut_offs", 0), "policy/cut_offs.json", "", "null"),
    "shadowed rule": (rule("cut_offs", 1, "i0", ">= 400"), "policy/cut_offs.json", "", ""),
    "unknown column": (
        put("policy/cut_offs.json", ["nodes", 1, "content", "inputs", 0, "field"], "credit.score"),
        "policy/cut_offs.json",
        "",
        "credit.score",
    ),
    "unknown verdict": (rule("cut_offs", 1, "o0", '"MAYBE"'), "policy/cut_offs.json", "", "MAYBE"),
    "table that approves": (rule("cut_offs", 1, "o0", '"APPROVE"'), "policy/cut_offs.json", "", "APPROVE"),
    "cell that does not parse": (rule("cut_offs", 1, "i0", ">= 600 and"), "policy/cut_offs.json", "", ""),
    "band without a price": (rule("cut_offs", 2, "o1", '"C"'), "policy/price.json", "", ""),
    "rate that is no number": (rule("price", 0, "o0", '"low"'), "policy/price.json", "", ""),
}
