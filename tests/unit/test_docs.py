"""The documents say what the code says."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from assay.decision.v1 import error_reason_pb2
from engine.bundle import schema
from engine.bundle.load import load_bundle
from engine.bundle.schema import FeaturesFile, ReasonsFile
from engine.config import Config
from engine.features.stores.embedded import EmbeddedStore
from engine.offline import decide_file
from tests.support.server import ServerProcess
from tools.docs import PAGES, error_reasons, main, stale_pages
from tools.docs_common import BUNDLE, ROOT

PAGES_BY_HAND = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if p.name not in PAGES)
# Regulation B, appendix C, form C-1, part I, word for word.
FORM_C_1 = {
    "Credit application incomplete",
    "Insufficient number of credit references provided",
    "Unacceptable type of credit references provided",
    "Unable to verify credit references",
    "Temporary or irregular employment",
    "Unable to verify employment",
    "Length of employment",
    "Income insufficient for amount of credit requested",
    "Excessive obligations in relation to income",
    "Unable to verify income",
    "Length of residence",
    "Temporary residence",
    "Unable to verify residence",
    "No credit file",
    "Limited credit experience",
    "Poor credit performance with us",
    "Delinquent past or present credit obligations with others",
    "Collection action or judgment",
    "Garnishment or attachment",
    "Foreclosure or repossession",
    "Bankruptcy",
    "Number of recent inquiries on credit bureau report",
    "Value or type of collateral not sufficient",
}


def _reasons() -> ReasonsFile:
    return ReasonsFile.model_validate(yaml.safe_load((BUNDLE / "reasons.yaml").read_text(encoding="utf-8")))


# --- generated pages ----------------------------------------------------------------------------------------------


def test_generated_pages_are_up_to_date() -> None:
    assert stale_pages() == [], "run `make docs`"


def test_a_changed_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.docs.DOCS", tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    page = tmp_path / "errors.md"
    page.write_text(page.read_text(encoding="utf-8") + "by hand\n", encoding="utf-8")
    (tmp_path / "features.md").unlink()
    assert stale_pages() == ["errors.md", "features.md"]
    assert main(["--check"]) == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_says_by_what(name: str) -> None:
    head = (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("<!-- Generated from `") and "`make docs`" in head


def test_every_error_reason_has_its_own_section_and_meaning() -> None:
    names = {n.removeprefix("ERROR_REASON_") for n in error_reason_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    reasons = dict(error_reasons())
    assert set(reasons) == names
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    for name, comment in reasons.items():
        assert f"\n## {name}\n" in text
        assert len(comment) > 20, f"{name} has no comment"


def test_every_setting_feature_and_code_is_on_its_page() -> None:
    settings = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    for section, field in Config.model_fields.items():
        part = field.annotation
        assert isinstance(part, type) and issubclass(part, BaseModel)
        for name in part.model_fields:
            assert f"`ASSAY_{section}_{name}`".upper() in settings.upper()
    features = (ROOT / "docs/features.md").read_text(encoding="utf-8")
    file = FeaturesFile.model_validate(yaml.safe_load((BUNDLE / "features.yaml").read_text(encoding="utf-8")))
    for name in [*file.request, *file.derived, *(f for view in file.views.values() for f in view.features)]:
        assert f"| `{name}`" in features
    codes = (ROOT / "docs/reason-codes.md").read_text(encoding="utf-8")
    for code, entry in _reasons().reasons.items():
        assert f"| `{code}`" in codes
        assert entry.texts["zh"].applicant in codes


# --- the catalogue of reasons -------------------------------------------------------------------------------------


def test_regulation_b_is_quoted_word_for_word() -> None:
    wrong = {
        code: entry.legal.regulation_b
        for code, entry in _reasons().reasons.items()
        if entry.legal.regulation_b not in FORM_C_1 and not re.fullmatch(r"other: \S.+", entry.legal.regulation_b)
    }
    assert wrong == {}


def test_codes_belong_to_the_component_that_their_name_says() -> None:
    for code, entry in _reasons().reasons.items():
        wanted = "policy"
        if code.startswith(("CR_", "PL_SCORE_")):
            wanted = "credit"
        elif code.startswith(("FR_", "PL_FRAUD_")):
            wanted = "fraud"
        assert entry.component == wanted, code


def test_texts_of_fraud_codes_do_not_tip_off() -> None:
    telling = re.compile(
        r"fraud|device|emulator|proxy|vpn|network|velocity|several|shared|recent|欺诈|设备|模拟器|代理|网络|频繁|多名|近期",
        re.I,
    )
    told = {
        code: text.applicant
        for code, entry in _reasons().reasons.items()
        if entry.component == "fraud"
        for text in entry.texts.values()
        if telling.search(text.applicant)
    }
    assert told == {}


def test_chinese_texts_are_chinese_and_every_note_is_there() -> None:
    for code, entry in _reasons().reasons.items():
        for text in (entry.texts["zh"].applicant, entry.texts["zh"].internal):
            assert re.search(r"[\u4e00-\u9fff]", text), code
        assert entry.legal.gdpr and entry.legal.pipl, code


# --- pages by hand ------------------------------------------------------------------------------------------------


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the web."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES_BY_HAND, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def _shaped_examples() -> list[tuple[str, str]]:
    text = (ROOT / "docs/bundle.md").read_text(encoding="utf-8")
    return re.findall(r"<!-- shape: (\w+) -->\n```yaml\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize(("shape", "example"), _shaped_examples(), ids=[s for s, _ in _shaped_examples()])
def test_examples_of_bundle_files_have_the_right_shape(shape: str, example: str) -> None:
    kind = getattr(schema, shape)
    assert issubclass(kind, BaseModel)
    kind.model_validate(yaml.safe_load(example))


def test_every_bundle_file_has_an_example() -> None:
    files = {name for name in vars(schema) if name.endswith("File")}
    assert {shape for shape, _ in _shaped_examples()} == files


def test_the_readme_shows_the_example_as_it_is() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- examples/first_call.py -->\n```python\n(.*?)```", text, flags=re.S)
    assert shown is not None
    source = (ROOT / "examples/first_call.py").read_text(encoding="utf-8")
    without_docstring = source.split('"""', 2)[2].lstrip("\n")
    assert shown[1] == without_docstring
    ast.parse(shown[1])


def test_the_readme_has_a_place_for_figures() -> None:
    assert "<!-- bench -->" in (ROOT / "README.md").read_text(encoding="utf-8")


# --- examples -----------------------------------------------------------------------------------------------------


def test_the_example_application_is_decided_with_nothing_missing_that_matters() -> None:
    file = ROOT / "examples/application.json"
    decision = json.loads(decide_file(BUNDLE, file.read_text(encoding="utf-8"), str(file)))
    assert decision["flow"] == "consumer_loan.application"
    assert {score["status"] for score in decision["scores"]} == {"SCORE_STATUS_OK"}
    assert decision["verdict"] in ("VERDICT_APPROVE", "VERDICT_COUNTER_OFFER")
    assert "policy_reasons" not in decision or decision["verdict"] == "VERDICT_COUNTER_OFFER"


def test_the_example_writer_writes_rows_that_the_flow_reads(
    server: ServerProcess, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["load_features.py", server.address])
    runpy.run_path(str(ROOT / "examples/load_features.py"), run_name="__main__")
    application = json.loads((ROOT / "examples/application.json").read_text(encoding="utf-8"))["application"]
    ids = {"applicant": application["subject"]["id"]} | {e["entity"]: e["id"] for e in application["entities"]}
    flow = load_bundle(BUNDLE, scenarios=False).plan.flows["consumer_loan.application"]
    views = [view for view in flow.features.views if view.entity in ids and view.counters is None]
    values = store.read([view.key(ids[view.entity]) for view in views])
    for view, value in zip(views, values, strict=True):
        assert value is not None, view.name
        view.decoder.decode_into_bytes(value, memoryview(bytearray(8 * view.count)), 0)
