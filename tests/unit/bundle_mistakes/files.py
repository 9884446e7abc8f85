"""Mistakes in the files themselves: missing, out of bounds, no YAML or JSON, not of the right form."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.bundle_mistakes.spoil import BUNDLE, FEATURES, FLOW, MODEL, REASONS, SCENARIOS, Mistake, put, text


def _link_outside(root: Path) -> None:
    (root / "policy" / "price.json").unlink()
    os.symlink("/etc/hostname", root / "policy" / "price.json")


MISTAKES: dict[str, Mistake] = {
    # files and syntax
    "no bundle.yaml": (lambda r: (r / BUNDLE).unlink(), "", "", "bundle.yaml"),
    "no features.yaml": (lambda r: (r / FEATURES).unlink(), "", "", "features.yaml"),
    "no flow": (lambda r: (r / FLOW).unlink(), BUNDLE, "", "flows/tiny_loan.yaml"),
    "no table": (lambda r: (r / "policy/price.json").unlink(), FLOW, "", "price.json"),
    "no model": (lambda r: (r / MODEL).unlink(), BUNDLE, "", "model.onnx"),
    "no scenarios": (lambda r: (r / SCENARIOS).unlink(), BUNDLE, "", "tiny_loan.yaml"),
    "a directory for a file": (put(BUNDLE, ["flows", 0], "flows"), BUNDLE, "", "flows"),
    "path outside": (put(BUNDLE, ["flows", 0], "../x.yaml"), "../x.yaml", "", "outside"),
    "absolute path": (put(BUNDLE, ["flows", 0], "/etc/passwd"), "/etc/passwd", "", "outside"),
    "link outside": (_link_outside, "policy/price.json", "", "outside"),
    "hidden file": (put(BUNDLE, ["flows", 0], ".hidden/x.yaml"), "", "", ".hidden"),
    "NUL in a path": (text(BUNDLE, "flows/tiny_loan.yaml", '"a\\0b"'), "", "", ""),
    "YAML syntax": (
        text(
            FLOW,
            "product:",
            "product: [",
        ),
        FLOW,
        "line",
        "YAML",
    ),
    "JSON syntax": (text("policy/price.json", "{", "{,"), "policy/price.json", "line", "JSON"),
    "JSON that is no object": (lambda r: (r / "policy/price.json").write_text("[]"), "policy/price.json", "", "JDM"),
    "no UTF-8": (lambda r: (r / FLOW).write_bytes(b"\xff\xfe"), FLOW, "", "UTF-8"),
    "empty file": (lambda r: (r / FLOW).write_text(""), FLOW, "", ""),
    "key twice": (text(FLOW, "currency: EUR", "currency: EUR\ncurrency: USD"), FLOW, "currency (line", "twice"),
    "billion laughs": (
        lambda r: (r / REASONS).write_text(
            "a: &a [1]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
        ),
        REASONS,
        "",
        "",
    ),
    "YAML that contains itself": (lambda r: (r / REASONS).write_text("a: &a [*a, *a]\n"), REASONS, "", ""),
    "YAML that makes objects": (
        lambda r: (r / REASONS).write_text("a: !!python/object/apply:os.getcwd []\n"),
        REASONS,
        "line",
        "YAML",
    ),
    # form
    "unknown entry": (put(FLOW, ["colour"], "red"), FLOW, "colour (line", "spelling"),
    "missing entry": (put(FLOW, ["currency"], None), FLOW, "currency", "Add this entry"),
    "wrong type of entry": (put(FLOW, ["terms_months"], "12"), FLOW, "terms_months (line", ""),
    "bad name": (put(FLOW, ["product"], "Tiny-Loan"), FLOW, "product (line", ""),
    "bad version": (put(BUNDLE, ["version"], "one"), BUNDLE, "version (line", ""),
    "no language": (put(BUNDLE, ["languages"], []), BUNDLE, "languages (line", ""),
}
