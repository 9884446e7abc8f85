"""A server of the tiny bundle that can be changed while it is asked, and what each bundle would have answered."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
from google.protobuf.json_format import ParseDict

from assay.admin.v1 import admin_service_pb2 as admin_pb
from assay.admin.v1 import admin_service_pb2_grpc
from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from engine.bundle.load import LoadedBundle, load_bundle
from engine.bundle.rows import RowWriter
from tests.support import replays
from tests.support.applications import new_id
from tests.support.server import Client, ServerProcess, open_store, running
from tests.support.tiny import ACCOUNT, APPLICATION, HOME, change
from tests.support.traffic import tiny_variant

FLOW = "tiny_loan.application"
# What asks: who gets what he asks for, who gets less, who is declined.
KINDS = ("plain", "much", "insolvent")
_PORT = re.compile(r'"message": "changes are taken", "port": (\d+)')


def variant(root: Path, version: str, rate_percent: float) -> Path:
    """The tiny bundle as another version, with another rate and another text to who is declined."""
    tiny_variant(root, version, rate_percent)
    text = f"Insolvent, says {version}"
    change(root / "reasons.yaml", ["reasons", "PL_INSOLVENT", "texts", "en", "applicant"], text)
    return root


def asking(kind: str, subject: str, request_id: str = "") -> pb.DecideRequest:
    """A request of one of KINDS."""
    made = pb.DecideRequest(request_id=request_id or new_id(kind))
    ParseDict(APPLICATION, made.application)
    made.application.subject.id = subject
    if kind == "much":
        made.application.amount.units = 20_000
        made.application.fields["income"].number = 1500.0
    if kind == "insolvent":
        made.application.fields["insolvent"].flag = True
    return made


class Asking:
    """Makes requests of all kinds, of so many subjects in turn. Threads may share one."""

    def __init__(self, subjects: int, kinds: tuple[str, ...] = KINDS) -> None:
        self._numbers, self._lock, self._subjects, self._kinds = itertools.count(), threading.Lock(), subjects, kinds

    def __call__(self) -> pb.DecideRequest:
        with self._lock:
            n = next(self._numbers)
        return asking(self._kinds[n % len(self._kinds)], f"p{n // len(self._kinds) % self._subjects}")


def load_subjects(home: Path, loaded: LoadedBundle, subjects: int) -> None:
    """Puts the rows of good applicants p0, p1, ... into a server's store."""
    writer, now_us = RowWriter(loaded.catalogue), time.time_ns() // 1000
    rows = [writer.row("account", f"p{n}", ACCOUNT, now_us) for n in range(subjects)]
    with open_store(home) as store:
        store.write([*rows, writer.row("home", "a1", HOME, now_us)])


def expected(directory: Path, root: Path) -> tuple[str, dict[str, decision_pb2.Decision]]:
    """The digest of a bundle, and what it answers to each of KINDS, by a Decider of this process."""
    loaded = load_bundle(root, scenarios=False)
    writer, now_us = RowWriter(loaded.catalogue), time.time_ns() // 1000
    with replays.lending(directory, loaded) as lender:
        lender.store.write([writer.row("account", "p0", ACCOUNT, now_us), writer.row("home", "a1", HOME, now_us)])
        return loaded.plan.digest, {kind: content(lender.decide(asking(kind, "p0"))[0]) for kind in KINDS}


def content(decision: decision_pb2.Decision) -> decision_pb2.Decision:
    """All of an answer that follows from bundle, application and facts."""
    copy = decision_pb2.Decision()
    copy.CopyFrom(decision)
    for name in ("decision_id", "request_id", "trace_id", "decided_at", "stage_times", "replayed"):
        copy.ClearField(name)
    return copy


def kind_of(request: pb.DecideRequest) -> str:
    """The kind that a request was made as."""
    return request.request_id.partition("-")[0]


class Admin:
    """Who changes a server."""

    def __init__(self, server: ServerProcess) -> None:
        match = _PORT.search(server.output)
        assert match is not None, server.output
        self.channel = grpc.insecure_channel(f"127.0.0.1:{match[1]}", [("grpc.use_local_subchannel_pool", 1)])
        self.stub = admin_service_pb2_grpc.AdminServiceStub(self.channel)
        self.author = admin_pb.Author(who="ann", why="a test")

    def load(self, path: Path) -> str:
        """Loads a bundle; gives its digest."""
        return str(self.stub.LoadBundle(admin_pb.LoadBundleRequest(author=self.author, path=str(path))).bundle.digest)

    def activate(self, digest: str) -> admin_pb.ActivateResponse:
        """Puts a loaded bundle in service."""
        return self.stub.Activate(admin_pb.ActivateRequest(author=self.author, digest=digest))

    def rollback(self) -> admin_pb.RollbackResponse:
        """Puts the previous one in service."""
        return self.stub.Rollback(admin_pb.RollbackRequest(author=self.author))

    def set_traffic(self, *flows: Mapping[str, object]) -> admin_pb.SetTrafficResponse:
        """Sets flows, written as in the proto's JSON."""
        request = ParseDict({"flows": list(flows)}, admin_pb.SetTrafficRequest(author=self.author))
        return self.stub.SetTraffic(request)


@contextlib.contextmanager
def changing(
    home: Path, bundle: Path, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[ServerProcess, Client, Admin]]:
    """A server whose changes are taken; it may load bundles from where `bundle` is."""
    further = {"ASSAY_ADMIN_ADDRESS": "127.0.0.1:0", "ASSAY_ADMIN_BUNDLE_DIRECTORIES": str(bundle.parent)}
    with running(home, bundle, {**further, **(settings or {})}) as (server, client):
        admin = Admin(server)
        try:
            yield server, client, admin
        finally:
            admin.channel.close()
