"""`assay admin` against a server of changes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from typer.testing import CliRunner, Result

from assay.admin.v1 import admin_service_pb2 as pb
from engine.cli_admin import admin_app
from engine.rpc.admin_requests import flows_of
from engine.rpc.admin_server import AdminServer, AdminServerSettings
from engine.rpc.admin_servicer import AdminServicer
from engine.traffic.intake import BundleIntake
from tests.support.tiny import change
from tests.support.traffic import Host, host, tiny_variant

Assay = Callable[..., Result]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path / "home", tiny_variant(tmp_path / "first", "0.1.0")) as one:
        yield one


@pytest.fixture
def assay(opened: Host, tmp_path: Path) -> Iterator[Assay]:
    intake = BundleIntake(opened.control, [tmp_path])
    server = AdminServer(AdminServicer(opened.control, intake), AdminServerSettings("127.0.0.1:0"))
    server.start()

    def run(*words: str, fails: bool = False) -> Result:
        environment = {"ASSAY_ADMIN_ADDRESS": f"127.0.0.1:{server.port}", "COLUMNS": "200"}
        result = CliRunner().invoke(admin_app, list(words), env=environment)
        assert result.exit_code == (1 if fails else 0), result.output
        return result

    yield run
    server.stop()


def test_from_a_directory_to_service_and_back(opened: Host, assay: Assay, tmp_path: Path) -> None:
    second = tiny_variant(tmp_path / "second", "0.2.0", 7.0)
    loaded = assay("load", str(second), "--who", "ann", "--why", "better rates").output
    assert "tiny 0.2.0 is loaded; 1 scenarios agree" in loaded
    digest = loaded.splitlines()[1]
    assert "tiny 0.2.0 was loaded" in assay("load", str(second), "--on-server", "--why", "again").output
    listed = assay("bundles").output
    assert digest[7:19] in listed and "default, configured" in listed

    done = assay("activate", digest[7:19], "--why", "release 12", "--expect", "1").output
    assert "Done, in 1 worker process." in done and "generation 2: ACTIVATE" in done and "why: release 12" in done
    assert "nothing was changed" in assay("activate", digest, "--why", "again").output
    assert opened.decide().bundle.version == "0.2.0"
    assay("rollback", "--who", "bob", "--why", "too dear")
    assert opened.decide().bundle.version == "0.1.0"
    changes = assay("changes").output
    assert all(word in changes for word in ("ROLLBACK", "bob", "too dear", "LOAD", "START", "settings"))
    assert len(json.loads(assay("changes", "--json", "--limit", "2").output)["changes"]) == 2


def test_flows_are_set_from_a_file_and_shown(opened: Host, assay: Assay, tmp_path: Path) -> None:
    with opened.registry.incoming(tiny_variant(tmp_path / "second", "0.2.0", 7.0)) as incoming:
        second = opened.registry.keep(incoming, "tiny", "0.2.0", ["tiny_loan.application"])[0].digest
    first = opened.control.serving.default.bundle
    file = tmp_path / "flows.yaml"
    file.write_text(
        f"""
flows:
  - flow: tiny_loan.application
    experiment:
      name: rate
      arms:
        - {{name: champion, bundle: "{first[7:19]}", share_basis_points: 9000}}
        - {{name: challenger, bundle: "{second}", share_basis_points: 1000}}
    shadows:
      - {{name: next, bundle: "{second}"}}
    cut_out:
      bounds: [{{verdict: VERDICT_DECLINE, max: 0.4}}]
      window: 600s
      decisions_min: 50
      fall_back: true
"""
    )
    assert "SET_TRAFFIC" in assay("traffic", "--set", str(file), "--why", "test of rates").output
    for _ in range(5):
        opened.decide()
    assert opened.shadows.settle(60.0)
    shown = assay("traffic").output
    assert "rate: champion 90 %" in shown and "rate: challenger 10 %" in shown and "shadow next 100 %" in shown
    assert "cut-out: DECLINE 0.0% to 40.0% in 600 s, falls back" in shown
    assert (
        "worker w0: generation 2" in shown and "cut-out tiny_loan.application: OK, 5 decisions APPROVE 100.0%" in shown
    )
    assert "APPROVE -> APPROVE" in assay("shadows").output
    (comparison,) = json.loads(assay("shadows", "--json").output)["comparisons"]
    assert comparison["decided"] == "5"
    refused = assay("activate", second, "--why", "done", fails=True).output
    assert "say whether they end or are kept" in refused
    assay("activate", second, "--why", "done", "--end-experiments")


def test_what_is_wrong_is_told(assay: Assay, tmp_path: Path) -> None:
    bad = tiny_variant(tmp_path / "bad", "0.2.0")
    change(bad / "reasons.yaml", ["reasons", "PL_INSOLVENT"], None)
    output = assay("load", str(bad), "--why", "x", fails=True).output
    assert "policy/knock_outs.json" in output and "->" in output
    assert "is no directory here" in assay("load", str(tmp_path / "none"), "--why", "x", fails=True).output
    assert "at least 8" in assay("activate", "abc", "--why", "x", fails=True).output
    assert "author.why" in assay("rollback", "--why", " ", fails=True).output
    assert "no previous bundle" in assay("rollback", "--why", "x", fails=True).output
    (tmp_path / "flows.yaml").write_text("flows: [{flow: nonsense}, {flo: x}]")
    file = str(tmp_path / "flows.yaml")
    assert "docs/safe-change.md" in assay("traffic", "--set", file, "--why", "x", fails=True).output
    (tmp_path / "flows.yaml").write_text("flows: [{flow: nonsense}]")
    assert "product.moment" in assay("traffic", "--set", file, "--why", "x", fails=True).output
    assert "cannot be read" in assay("traffic", "--set", str(tmp_path / "no"), "--why", "x", fails=True).output


def test_a_server_that_is_not_there_is_told() -> None:
    result = CliRunner().invoke(admin_app, ["bundles", "--address", "127.0.0.1:1"])
    assert result.exit_code == 1 and "No server answers at 127.0.0.1:1" in result.output


def test_the_example_of_the_page_is_one_that_is_taken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "safe-change.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    request = ParseDict(yaml.safe_load(example), pb.SetTrafficRequest())
    flow = flows_of(request.flows, lambda digest: f"sha256:{digest}")["consumer_loan.application"]
    assert flow.experiment is not None and flow.shadows and flow.cut_out is not None and flow.cut_out.fall_back
