"""The examples of docs/client.md and docs/integrate-your-los.md run; Go and Java have the protos' names."""

from __future__ import annotations

import json
import re
import runpy
from textwrap import indent

import grpc
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from assay.decision.v1 import decision_service_pb2_grpc as rpc
from tests.support.applications import consumer
from tests.support.server import ServerProcess
from tools import docs_clients
from tools.docs_common import ROOT


def run(name: str, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name, server.address])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_one_decision(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("client_decide.py", server, monkeypatch)
    first = capsys.readouterr().out
    run("client_decide.py", server, monkeypatch)
    again = capsys.readouterr().out
    assert re.match(r"[A-Z_]*(REFER|DECLINE|APPROVE|COUNTER_OFFER) \S+ new\n", first), first
    assert again == first.replace(" new\n", " again\n")


def test_many(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("client_many.py", server, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1] == "10 answered, 1 at fault"
    assert lines[3] == "campaign-2026-05-3 INVALID_REQUEST ['requests[3].application.term_months']"


def test_asyncio(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("client_asyncio.py", server, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1] == "20 of 20 decided in one trace"


def test_a_whole_life(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("client_lifecycle.py", server, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 rows written, 0 rejected"
    assert lines[1].startswith("consumer_loan.application decided")
    assert any(line.startswith(("recorded at", "refused")) for line in lines)
    assert re.fullmatch(r"[1-9]\d* rows erased", lines[-1]), (
        "the row that was written, and the counters of the decision"
    )


SHOWN = [
    (page, example, code)
    for page in ("docs/client.md", "docs/integrate-your-los.md")
    for example, code in re.findall(
        r"<!-- (examples/client_\w+\.py) -->\n```python\n(.*?)```",
        (ROOT / page).read_text(encoding="utf-8"),
        flags=re.S,
    )
]


@pytest.mark.parametrize(("page", "example", "code"), SHOWN, ids=[f"{page}:{example}" for page, example, _ in SHOWN])
def test_pages_show_examples_as_they_are(page: str, example: str, code: str) -> None:
    text = (ROOT / example).read_text(encoding="utf-8")
    # A page begins at its margin what stands further in.
    assert any(indent(code.strip(), " " * depth) in text for depth in (0, 4, 8)), f"{example} does not have it"


def test_every_example_is_on_a_page() -> None:
    assert {example for _, example, _ in SHOWN} == {f"examples/{one.name}" for one in ROOT.glob("examples/client_*.py")}


# --- Go and Java --------------------------------------------------------------------------------------------------


def test_the_service_config_is_one_that_grpc_takes_and_covers_every_unary_method(server: ServerProcess) -> None:
    config = docs_clients.service_config()
    named = [(one["service"], one["method"]) for part in config["methodConfig"] for one in part["name"]]
    assert len(named) == len(set(named)) == 10
    assert ("assay.outcome.v1.OutcomeService", "RecordOutcome") in named
    assert not any(method in ("DecideStream", "IngestEvents", "RecordOutcomes") for _, method in named)
    # gRPC drops a config that it does not understand; here its time-out shows that it did understand.
    config["methodConfig"][0]["timeout"] = "0.001s"
    for text, code in ((json.dumps(config), grpc.StatusCode.DEADLINE_EXCEEDED), ("{}", None)):
        options = [("grpc.service_config", text), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options) as channel:
            stub = rpc.DecisionServiceStub(channel)
            if code is None:
                stub.Decide(consumer(), timeout=60)
                continue
            with pytest.raises(grpc.RpcError) as raised:
                stub.Decide(consumer())
            assert raised.value.code() is code
            assert stub.DecideBatch(pb.DecideBatchRequest(requests=[consumer()]), timeout=60).items


@pytest.mark.parametrize("name", ["Aplication", "Application.term", "Verdict.VERDICT_MAYBE", "DecisionService.Decid"])
def test_a_name_that_the_protos_do_not_have_stops_the_generator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs_clients, "_template", lambda _: f"x <<{name}>> y")
    for program in (docs_clients.go_program, docs_clients.java_program):
        with pytest.raises(KeyError, match=re.escape(name)):
            program()


def test_no_name_is_left_as_the_template_has_it() -> None:
    for name, text in docs_clients.files().items():
        assert "<<" not in text and ">>" not in text and "[[" not in text, name
