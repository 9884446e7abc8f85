"""The command line: check, decide, config. What it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from typer.testing import CliRunner, Result

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from assay.decision.v1 import decision_service_pb2 as service_pb
from engine import offline
from engine.bundle.load import LoadedBundle, load_bundle
from engine.cli import app
from engine.features.stores.embedded import EmbeddedStore
from tests.support.applications import GOOD, all_ids, consumer, load_rows, new_id
from tests.support.bundles import BUNDLE, copy_bundle, edit, shipped
from tests.support.server import Client, environment


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every decision would load the shipped bundle anew, which takes far longer than to decide."""

    def load_once(bundle: Path, *, scenarios: bool = True) -> LoadedBundle:
        return shipped() if bundle == BUNDLE else load_bundle(bundle, scenarios=scenarios)

    monkeypatch.setattr(offline, "load_bundle", load_once)


def run(*arguments: str, text: str | None = None, env: Mapping[str, str] | None = None) -> Result:
    """Runs `assay` in this process. No exception may come through."""
    result = CliRunner().invoke(app, list(arguments), input=text, env={"COLUMNS": "300", **(env or {})})
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def document(request: service_pb.DecideRequest, features: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What `assay decide` reads."""
    application = MessageToDict(request.application, preserving_proto_field_name=True)
    return {"application": application, "features": features, "request_id": request.request_id, **more}


def decide(content: Any, *options: str) -> Result:
    """Decides a document with the shipped bundle."""
    text = content if isinstance(content, str) else json.dumps(content)
    return run("decide", "-", "--bundle", str(BUNDLE), *options, text=text)


# --- check --------------------------------------------------------------------------------------------------------


def test_the_shipped_bundle_can_be_served() -> None:
    result = run("check", str(BUNDLE))
    assert result.exit_code == 0, result.output
    plan = shipped().plan
    models = [f"{m.model.id}@{m.model.version}" for flow in plan.flows.values() for m in flow.models]
    for told in (plan.name, plan.version, plan.digest, *plan.flows, *models):
        assert told in result.output
    assert "golden scenarios give their stored answer" in result.output


def test_the_console_script_ends_with_the_same_codes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine.cli", "check", str(tmp_path)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "bundle.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["missing", "a [/b] strange name", "[red]"])
def test_a_directory_that_is_none_is_a_problem_and_no_crash(tmp_path: Path, name: str) -> None:
    result = run("check", str(tmp_path / name))
    assert result.exit_code == 1
    assert name in result.output


def test_check_tells_every_problem_with_file_place_and_fix(tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "bundle")
    edit(bundle / "features.yaml", "range: [0, 120]", "range: [120, 0]")
    edit(bundle / "bundle.yaml", "languages: [en, zh]", "languages: [en, zh, de]")
    result = run("check", str(bundle))
    assert result.exit_code == 1
    assert "views.applicant_file.features.age_years.range (line" in result.output
    assert "there is no text in 'de'" in result.output
    assert result.output.count("->") >= 2


# --- decide -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"credit_file": {"revolving_utilization": 0.9, "past_due_30_59_count": 3, "debt_ratio": 0.5}},
        {"applicant_file": {"verified_monthly_income": None}, "phone_profile": None},
        {"credit_file": None},
    ],
    ids=["good", "weak", "without proof of income", "without credit file"],
)
def test_offline_gives_the_decision_that_is_served(
    client: Client, store: EmbeddedStore, changes: dict[str, dict[str, Any] | None]
) -> None:
    subject = new_id("offline")
    load_rows(store, all_ids(subject), changes)
    request = consumer(subject, amount=9000, language="zh")
    served = client.stub.Decide(request).decision

    rows = {v: {**good, **(changes.get(v) or {})} for v, good in GOOD.items() if changes.get(v, {}) is not None}
    features = {view: {"values": values} for view, values in rows.items()}
    now = served.decided_at.ToJsonString()
    result = decide(document(request, features, language="zh", now=now))
    assert result.exit_code == 0, result.output
    offline = ParseDict(json.loads(result.stdout), pb.Decision())

    assert offline.record_state == pb.RECORD_STATE_NOT_RECORDED
    for one in (served, offline):
        for own in ("decision_id", "trace_id", "stage_times", "record_state", "decided_at"):
            one.ClearField(own)
    assert offline == served


def test_the_whole_record_adds_up_offline() -> None:
    features = {view: {"values": values} for view, values in GOOD.items()}
    result = decide(document(consumer(), features), "--full")
    assert result.exit_code == 0, result.output
    record = ParseDict(json.loads(result.stdout), record_pb.DecisionRecord())
    assert {f.feature for f in record.facts} >= set(GOOD["credit_file"])
    for run_ in record.runs:
        assert run_.base + sum(run_.contributions) == pytest.approx(run_.raw, abs=1e-4)
        assert len(run_.inputs) == len(run_.contributions)


def test_an_application_alone_is_a_document_too() -> None:
    application = MessageToDict(consumer().application)
    result = decide(application)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verdict"] in ("VERDICT_REFER", "VERDICT_DECLINE")


def test_an_age_makes_a_row_stale_offline() -> None:
    features = {"credit_file": {"values": GOOD["credit_file"], "age_days": 46}}
    result = decide(document(consumer(), features))
    assert result.exit_code == 0, result.output
    by_name = {s["feature"]: s["status"] for s in json.loads(result.stdout)["substitutions"]}
    assert by_name["revolving_utilization"] == "FEATURE_STATUS_STALE"


GOOD_APPLICATION = MessageToDict(consumer("p1").application)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "dictionary|JSON object"),
        ("null", "dictionary|JSON object"),
        ('"x"', "dictionary|JSON object"),
        ({"application": None}, "application"),
        ({"application": 5}, "application"),
        ({"application": []}, "application"),
        ({"application": "x"}, "application"),
        ({"application": {"colour": "red"}}, "colour"),
        ({"application": {"amount": "5 dollars"}}, "amount"),
        ({"application": GOOD_APPLICATION, "feature": {}}, "feature"),
        ({"application": GOOD_APPLICATION, "request_id": 5}, "request_id"),
        ({"application": GOOD_APPLICATION, "language": ["en"]}, "language"),
        ({"application": GOOD_APPLICATION, "now": "yesterday"}, "now"),
        ({"application": GOOD_APPLICATION, "now": 5}, "now"),
        ({"application": GOOD_APPLICATION, "now": "2026-01-15T12:00:00"}, "time zone|timezone"),
        ({"application": GOOD_APPLICATION, "features": []}, "features"),
        ({"application": GOOD_APPLICATION, "features": 5}, "features"),
        ({"application": GOOD_APPLICATION, "features": None}, "features"),
        ({"application": GOOD_APPLICATION, "features": {"no_such_view": {}}}, "no_such_view"),
        ({"application": GOOD_APPLICATION, "features": {"credit_file": 5}}, "credit_file"),
        ({"application": GOOD_APPLICATION, "features": {"credit_file": {"values": {"x": 1}}}}, "no such field"),
        (
            {"application": GOOD_APPLICATION, "features": {"credit_file": {"values": {"debt_ratio": "much"}}}},
            "debt_ratio",
        ),
        (
            {"application": GOOD_APPLICATION, "features": {"credit_file": {"values": {}, "age_days": 1e300}}},
            "age_days",
        ),
        ('{"application": %s, "features": {"credit_file": {"age_days": Infinity}}}', "age_days"),
        ('{"application": %s, "features": {"credit_file": {"age_days": NaN}}}', "age_days"),
        ({"application": {**GOOD_APPLICATION, "entities": []}, "features": {"ip_profile": {}}}, "no such entity"),
    ],
)
def test_a_document_at_fault_is_refused_with_its_place(content: Any, told: str) -> None:
    if isinstance(content, str):
        content = content.replace("%s", json.dumps(GOOD_APPLICATION))
    result = decide(content)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert any(part in result.stderr for part in told.split("|")), result.stderr


def test_a_refused_application_names_every_field() -> None:
    application = {**GOOD_APPLICATION, "termMonths": 5, "fields": {"[/x] [red]": {"number": 1}}}
    result = decide({"application": application, "language": "fr"})
    assert result.exit_code == 1
    for told in ("application.term_months", "[/x] [red]", "language"):
        assert told in result.stderr


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.json", tmp_path, bad):
        result = run("decide", str(path), "--bundle", str(BUNDLE))
        assert result.exit_code == 1
        assert path.name in result.stderr


def test_a_bundle_that_cannot_be_served_decides_nothing(tmp_path: Path) -> None:
    result = run("decide", "-", "--bundle", str(tmp_path), text=json.dumps(GOOD_APPLICATION))
    assert result.exit_code == 1
    assert "bundle.yaml" in result.stderr


# --- config and the rest ------------------------------------------------------------------------------------------


def test_config_prints_settings_that_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run("config", env={"ASSAY_SERVER_THREADS": "7"})
    assert printed.exit_code == 0
    assert tomllib.loads(printed.stdout)["server"]["threads"] == 7
    (tmp_path / "assay.toml").write_text(printed.stdout, "utf-8")
    again = run("config")
    assert again.exit_code == 0, again.output
    assert again.stdout == printed.stdout


def test_config_tells_all_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "assay.toml"
    file.write_text('[server]\nthreads = 0\nthread = 4\n[store]\nkind = "disk"\n', "utf-8")
    result = run("config", "--config", str(file), env={"ASSAY_LOG_LEVEL": "loud"})
    assert result.exit_code == 1
    for told in ("server.threads", "server.thread", "store.kind", "ASSAY_LOG_LEVEL", "4 problems"):
        assert told in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["model", "--help"], ["--version"]])
def test_help_and_version_end_well(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 0


def test_a_model_says_what_it_is() -> None:
    loaded = shipped()
    name, model = next((n, m.manifest) for n, m in loaded.models.items() if m.manifest is not None)
    file = next(BUNDLE.glob(f"{name}/*.onnx"))
    result = run("model", "inspect", str(file))
    assert result.exit_code == 0
    assert json.loads(result.stdout)["version"] == model.version
    assert run("model", "inspect", str(BUNDLE / "bundle.yaml")).exit_code == 1
    assert run("model", "inspect", str(BUNDLE)).exit_code == 1
