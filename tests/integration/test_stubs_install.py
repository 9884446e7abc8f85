"""Stubs and client are a distribution of their own: they install and work where the engine is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.server import ServerProcess
from tools.build_stubs import build

ROOT = Path(__file__).resolve().parents[2]

# What a caller's program would do, in an interpreter that sees neither the tree nor the engine. It talks to a server
# made of the same stubs, so that both halves of the generated code run.
CALLER = """
import importlib.util
import sys
from concurrent import futures

assert importlib.util.find_spec("engine") is None, "the engine is visible: the test proves nothing"

import grpc
from assay.decision.v1 import decision_pb2, decision_service_pb2, decision_service_pb2_grpc, error_reason_pb2

class Service(decision_service_pb2_grpc.DecisionServiceServicer):
    def Decide(self, request, context):
        decision = decision_pb2.Decision(request_id=request.request_id, verdict=decision_pb2.VERDICT_REFER)
        return decision_service_pb2.DecideResponse(decision=decision)

server = grpc.server(futures.ThreadPoolExecutor(1))
decision_service_pb2_grpc.add_DecisionServiceServicer_to_server(Service(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    stub = decision_service_pb2_grpc.DecisionServiceStub(channel)
    answer = stub.Decide(decision_service_pb2.DecideRequest(request_id="los-1"), timeout=60)
server.stop(None)
assert answer.decision.request_id == "los-1", answer
assert error_reason_pb2.ErrorReason.Name(1) == "ERROR_REASON_INVALID_REQUEST"
print(decision_pb2.__file__)
"""

# The client, typed errors and all, against a real server whose address it is given; opentelemetry is not there.
CLIENT = """
import importlib.util
import sys

assert importlib.util.find_spec("engine") is None, "the engine is visible: the test proves nothing"
assert importlib.util.find_spec("opentelemetry") is None, "opentelemetry is visible: the client must do without"

import assay.client
from assay.client import Client, Options, errors
from assay.decision.v1.decision_pb2 import Application

with Client(sys.argv[1], Options(timeout_s=60, attempt_timeout_s=60)) as client:
    application = Application(product="consumer_loan", term_months=24)
    application.amount.currency_code, application.amount.units = "USD", 5000
    application.subject.id = "installed-1"
    first = client.decide(application, request_id="installed-1")
    assert client.decide(application, request_id="installed-1").decision_id == first.decision_id
    application.term_months = 25
    try:
        client.decide(application)
    except errors.InvalidRequest as error:
        assert error.field_violations[0].field == "application.term_months" and error.trace_id, error
    else:
        raise AssertionError("a term that nobody offers was decided")
print(assay.client.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


def test_wheel_holds_the_stubs_of_every_proto_and_nothing_of_the_engine(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {name for name in names if ".dist-info/" not in name}
    for proto in (ROOT / "protos").rglob("*.proto"):
        stem = str(proto.relative_to(ROOT / "protos").with_suffix(""))
        assert {f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py"} <= packages
    client = ROOT / "clients" / "python" / "src"
    assert {str(path.relative_to(client)) for path in client.rglob("assay/client/*.py")} <= packages
    assert "assay/client/py.typed" in packages
    assert all(name.startswith("assay/") for name in packages), sorted(packages)
    # A namespace package stays open for other distributions only while nobody gives it an __init__.py.
    assert {name for name in packages if name.endswith("__init__.py")} == {"assay/client/__init__.py"}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel."""
    tmp_path = tmp_path_factory.mktemp("caller")
    # A fresh environment for the stubs; grpcio and protobuf are borrowed from this one by a path file, so that the test
    # needs no network. The engine is in neither.
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    site = Path(
        subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    pip_install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip_install, "--target", str(site), str(wheel)], check=True)
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for package in ("grpc", "google", "typing_extensions.py"):
        (borrowed / package).symlink_to(_installed(package))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    return python


@pytest.mark.parametrize("program", [CALLER, CLIENT], ids=["stubs", "client"])
def test_the_wheel_installs_and_calls_without_the_engine(
    python: Path, program: str, server: ServerProcess, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "-I", "-c", program, server.address],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


def _installed(package: str) -> Path:
    """Where this environment keeps a top-level package or module."""
    for folder in map(Path, sys.path):
        if folder.name == "site-packages" and (folder / package).exists():
            return folder / package
    raise LookupError(f"{package} is not installed here")
