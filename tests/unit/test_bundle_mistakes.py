"""Every mistake in a bundle is found at load, and told with its file, its place and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.bundle.load import load_bundle
from engine.errors import BundleError, Problem
from tests.support import tiny
from tests.support.bundles import FIXTURE_MODELS, edit, problems_of

Spoil = Callable[[Path], object]
FEATURES, FLOW, REASONS, BUNDLE = "features.yaml", "flows/tiny_loan.yaml", "reasons.yaml", "bundle.yaml"
MODEL, SCENARIOS = "tiny_german/model.onnx", "scenarios/tiny_loan.yaml"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.write_bundle(tmp_path / "tiny")


def put(file: str, path: Sequence[str | int], value: Any) -> Spoil:
    """Changes one entry of a file; None takes it out."""
    return lambda root: tiny.change(root / file, path, value)


def both(*spoils: Spoil) -> Spoil:
    """One mistake that takes several changes."""
    return lambda root: [spoil(root) for spoil in spoils]


def text(file: str, old: str, new: str) -> Spoil:
    return lambda root: edit(root / file, old, new)


def rule(file: str, number: int, column: str, cell: str) -> Spoil:
    return put(f"policy/{file}.json", ["nodes", 1, "content", "rules", number, column], cell)


def drop_rule(file: str, number: int) -> Spoil:
    return put(f"policy/{file}.json", ["nodes", 1, "content", "rules", number], None)


def foreign(**more: Any) -> Spoil:
    """The forest in place of the explained model."""
    entry = {
        "file": "forest.onnx",
        "explanation": "none",
        "version": "1.0.0",
        "inputs": {"features": list(_german_inputs())},
        "scaling": {
            "anchor_points": 600,
            "anchor_odds": 5,
            "points_to_double": 40,
            "points_min": 300,
            "points_max": 850,
        },
        **more,
    }
    entry = {k: v for k, v in entry.items() if v is not None}

    def spoil(root: Path) -> None:
        name = entry.pop("source", "forest_plain.onnx")
        (root / "forest.onnx").write_bytes((FIXTURE_MODELS / "foreign" / str(name)).read_bytes())
        tiny.change(root / BUNDLE, ["models"], {"forest": entry})
        tiny.change(root / FLOW, ["models", "credit", "model"], "forest")

    return spoil


def _german_inputs() -> tuple[str, ...]:
    import json

    model = onnx.load(str(FIXTURE_MODELS / "tiny_german" / "model.onnx"))
    manifest = next(p.value for p in model.metadata_props if p.key == "assay.manifest")
    return tuple(f["name"] for f in json.loads(manifest)["features"])


def graph(change: Callable[[onnx.ModelProto], None]) -> Spoil:
    def spoil(root: Path) -> None:
        model = onnx.load(str(root / MODEL))
        change(model)
        onnx.save(model, str(root / MODEL))

    return spoil


def _after(model: onnx.ModelProto, tensor: str, operator: str, constant: float) -> None:
    """Lets `tensor` pass through one more node with a constant."""
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == tensor:
                node.output[index] = tensor + "_before"
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = tensor + "_before"
    number = numpy_helper.from_array(np.array(constant, dtype=np.float32), tensor + "_constant")
    model.graph.initializer.append(number)
    model.graph.node.append(helper.make_node(operator, [tensor + "_before", tensor + "_constant"], [tensor]))


def _manifest(change: Callable[[dict[str, Any]], None]) -> Spoil:
    import json

    def rewrite(model: onnx.ModelProto) -> None:
        entry = next(p for p in model.metadata_props if p.key == "assay.manifest")
        content = json.loads(entry.value)
        change(content)
        entry.value = json.dumps(content)

    return graph(rewrite)


def _retype(model: onnx.ModelProto) -> None:
    """An input of 13 columns in place of 14."""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 13


def _sum_wrong(manifest: dict[str, Any]) -> None:
    manifest["attribution"]["base_value"] += 0.01


def _golden_wrong(manifest: dict[str, Any]) -> None:
    manifest["golden_rows"][1]["raw"] += 0.001


def _ungroup(manifest: dict[str, Any]) -> None:
    manifest["reasons"] = [r for r in manifest["reasons"] if r["code"] != "CR_TEST_PURPOSE"]


def _no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def _link_outside(root: Path) -> None:
    (root / "policy" / "price.json").unlink()
    os.symlink("/etc/hostname", root / "policy" / "price.json")


# name: (what is spoilt, the file of the problem, a part of its place or "", parts of its text)
MISTAKES: dict[str, tuple[Spoil, str, str, str]] = {
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
    "unknown entry": (put(FLOW, ["colour"], "red"), FLOW, "colour (line", "Extra inputs"),
    "missing entry": (put(FLOW, ["currency"], None), FLOW, "currency", "required"),
    "wrong type of entry": (put(FLOW, ["terms_months"], "12"), FLOW, "terms_months (line", ""),
    "bad name": (put(FLOW, ["product"], "Tiny-Loan"), FLOW, "product (line", ""),
    "bad version": (put(BUNDLE, ["version"], "one"), BUNDLE, "version (line", ""),
    "no language": (put(BUNDLE, ["languages"], []), BUNDLE, "languages (line", ""),
    # features
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
    # flows
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
    # reasons
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
        "required",
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
    # tables
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
    # models
    "no ONNX file": (lambda r: (r / MODEL).write_bytes(b"hello"), MODEL, "", "ONNX Runtime"),
    "empty ONNX file": (lambda r: (r / MODEL).write_bytes(b""), MODEL, "", ""),
    "half an ONNX file": (lambda r: (r / MODEL).write_bytes((r / MODEL).read_bytes()[:-2000]), MODEL, "", ""),
    "no manifest": (graph(_no_metadata), MODEL, "metadata", "explanation: none"),
    "id of another model": (
        both(
            put(BUNDLE, ["models"], {"other": {"file": MODEL}}),
            put(FLOW, ["models", "credit", "model"], "other"),
        ),
        MODEL,
        "manifest id",
        "tiny_german",
    ),
    "input of another width": (graph(_retype), MODEL, "", ""),
    "NaN raw score": (graph(lambda m: _after(m, "raw", "Add", np.nan)), MODEL, "", "finite"),
    "NaN probability": (graph(lambda m: _after(m, "probability", "Add", np.nan)), MODEL, "", ""),
    "NaN points": (graph(lambda m: _after(m, "points", "Add", np.nan)), MODEL, "", ""),
    "NaN contributions": (graph(lambda m: _after(m, "contributions", "Mul", np.nan)), MODEL, "", ""),
    "infinite probability": (graph(lambda m: _after(m, "probability", "Add", np.inf)), MODEL, "", ""),
    "weights tampered with": (graph(lambda m: _after(m, "raw", "Add", 0.01)), MODEL, "golden row", "off by"),
    "contributions that do not add up": (
        graph(lambda m: _after(m, "contributions", "Mul", 1.01)),
        MODEL,
        "",
        "",
    ),
    "another base": (_manifest(_sum_wrong), MODEL, "contributions", "differ"),
    "golden rows tampered with": (_manifest(_golden_wrong), MODEL, "golden row 1", "off by"),
    "input without a reason": (_manifest(_ungroup), FLOW, "models.credit", "no reason code"),
    "manifest of a later form": (
        _manifest(lambda m: m.update(manifest_schema=2)),
        MODEL,
        "manifest manifest_schema",
        "",
    ),
    # foreign models
    "foreign model called exact": (foreign(explanation=None, inputs=None), "forest.onnx", "metadata", "explanation"),
    "foreign model without version": (foreign(version=None), BUNDLE, "models.forest.version", "version"),
    "foreign model without inputs": (foreign(inputs=None), BUNDLE, "models.forest.inputs", "inputs"),
    "foreign model of another width": (foreign(inputs={"features": ["income"]}), "forest.onnx", "models.forest", "14"),
    "foreign model's output unknown": (foreign(output={"tensor": "score"}), "forest.onnx", "models.forest", "score"),
    "foreign model's class unknown": (foreign(output={"bad_class": 7}), "forest.onnx", "models.forest", "7"),
    "foreign model's class unknown in its maps": (
        foreign(output={"bad_class": "bad"}, source="forest_zipmap.onnx"),
        "forest.onnx",
        "models.forest",
        "'bad'",
    ),
    # scenarios
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


def _told(problems: Sequence[Problem], file: str, place: str, part: str) -> bool:
    return any(
        (not file or p.file == file) and place in p.place and part in f"{p.message} {p.fix} {p.place} {p.file}"
        for p in problems
    )


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_file_and_place(bundle: Path, name: str) -> None:
    spoil, file, place, part = MISTAKES[name]
    spoil(bundle)
    problems = problems_of(bundle, scenarios=True)
    assert _told(problems, file, place, part), [str(p) for p in problems]
    for problem in problems:
        assert problem.file
        assert problem.message
        assert problem.fix, "every problem says what to do"


def test_the_bundle_that_they_spoil_is_good(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.scenarios == 1
    assert list(loaded.plan.flows) == ["tiny_loan.application"]


# The one that the YAML writer would mend comes last.
TEN = (
    "empty range",
    "category twice",
    "unknown function",
    "default out of range",
    "language missing",
    "retired code given by a model",
    "amounts the wrong way",
    "shadowed rule",
    "golden rows tampered with",
    "key twice",
)


def test_a_bundle_with_ten_mistakes_tells_all_ten(bundle: Path) -> None:
    for name in TEN:
        MISTAKES[name][0](bundle)
    problems = problems_of(bundle)
    untold = [name for name in TEN if not _told(problems, *MISTAKES[name][1:])]
    assert not untold, "\n".join(map(str, problems))


def test_a_model_that_fails_is_the_only_problem(bundle: Path) -> None:
    """What follows from it alone is not told as a mistake of its own."""
    (bundle / MODEL).write_bytes(b"hello")
    problems = problems_of(bundle)
    assert [p.file for p in problems] == [MODEL], [str(p) for p in problems]


def test_a_failed_load_leaves_no_half_bundle(bundle: Path) -> None:
    (bundle / SCENARIOS).unlink()
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    assert len(caught.value.problems) == 1
    assert "tiny_loan.yaml" in str(caught.value)


def test_units_must_agree(bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["features"][0]["unit"] = "days"

    _manifest(change)(bundle)
    tiny.change(bundle / FEATURES, ["views", "account", "features", "checking_band", "unit"], "years")
    problems = problems_of(bundle)
    assert _told(problems, FLOW, "models.credit (line", "unit clash"), [str(p) for p in problems]


def test_a_graph_that_fails_on_some_rows_is_a_problem_of_the_model(bundle: Path) -> None:
    """It answers the input's shape and breaks when it is run."""
    width = 14
    table = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["X"], ["index"], to=TensorProto.INT64),
        helper.make_node("Add", ["index", "seven"], ["far"]),
        helper.make_node("Gather", ["table", "far"], ["gathered"]),
        helper.make_node("ReduceSum", ["gathered", "axis"], ["score"], keepdims=1),
    ]
    made = helper.make_graph(
        nodes,
        "breaks",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [
            table,
            numpy_helper.from_array(np.array(7, dtype=np.int64), "seven"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
        ],
    )
    foreign()(bundle)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(bundle / "forest.onnx"))
    problems = problems_of(bundle)
    assert _told(problems, "forest.onnx", "", ""), [str(p) for p in problems]
