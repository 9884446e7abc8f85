"""The bundle that ships: it loads without a mistake, and every golden scenario gives its stored answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.bundle.load import default_bundle, load_bundle
from engine.bundle.schema import ScenarioFile
from engine.bundle.source import Source
from engine.errors import BundleError

SCENARIOS = sorted((default_bundle() / "scenarios").glob("*.yaml"))


def test_every_scenario_gives_its_stored_answer() -> None:
    wanted = 0
    for path in SCENARIOS:
        file, _ = Source(default_bundle()).read_as(f"scenarios/{path.name}", ScenarioFile, named_by="test")
        assert file is not None
        wanted += len(file.scenarios)
    assert load_bundle(default_bundle()).scenarios == wanted >= 20


def test_every_verdict_of_every_product_has_a_scenario() -> None:
    seen: dict[str, set[str]] = {}
    for path in SCENARIOS:
        file, _ = Source(default_bundle()).read_as(f"scenarios/{path.name}", ScenarioFile, named_by="test")
        assert file is not None
        for scenario in file.scenarios:
            seen.setdefault(scenario.application["product"], set()).add(scenario.expect.verdict)
    assert seen == {
        "consumer_loan": {"APPROVE", "DECLINE", "REFER", "COUNTER_OFFER"},
        "sme_loan": {"APPROVE", "DECLINE", "REFER", "COUNTER_OFFER"},
    }


@pytest.mark.parametrize("model", ["credit_scorecard", "credit_ebm"])
def test_a_lender_can_choose_a_glass_box_model_by_one_word(tmp_path: Path, model: str) -> None:
    bundle = tmp_path / "lending"
    shutil.copytree(default_bundle(), bundle)
    flow = bundle / "flows" / "consumer_loan.yaml"
    text = flow.read_text("utf-8")
    assert "model: credit_pd," in text
    flow.write_text(text.replace("model: credit_pd,", f"model: {model},"), "utf-8")
    loaded = load_bundle(bundle, scenarios=False)
    assert loaded.plan.flows["consumer_loan.application"].models[0].model.id == model
    # The stored scores are another model's, and the check must say so.
    with pytest.raises(BundleError) as error:
        load_bundle(bundle)
    assert {problem.file for problem in error.value.problems} == {"scenarios/consumer_loan.yaml"}
