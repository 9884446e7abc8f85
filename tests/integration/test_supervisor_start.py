"""Several workers that cannot start, and several that are changed and asked to forget somebody."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from engine.bundle.load import load_bundle
from tests.support.bundles import BUNDLE
from tests.support.groups import is_alive, metrics, pids, status, wait_for
from tests.support.served_lender import Asking, asking, changing, load_subjects, variant
from tests.support.served_load import Load
from tests.support.server import Client, ServerProcess

SETTINGS = {"ASSAY_SERVER_WORKERS": "2", "ASSAY_SERVER_CONNECTION_AGE_S": "1", "ASSAY_ADMIN_ADDRESS": ""}
SUBJECTS = 40


def ended(home: Path, settings: Mapping[str, str], bundle: Path | None = None) -> tuple[int, str]:
    """The exit code of a server that cannot start, and what it said."""
    server = ServerProcess(home, bundle or BUNDLE, {**SETTINGS, **settings})
    try:
        code = server.process.wait(90)
    finally:
        server.stop(signal.SIGKILL)
    return code, server.output


def test_a_bundle_with_mistakes_ends_the_server_with_all_of_them(tmp_path: Path) -> None:
    bundle = variant(tmp_path / "bundle", "0.1.0", 6.0)
    (bundle / "reasons.yaml").write_text("no reasons at all\n")
    code, said = ended(tmp_path, {}, bundle)
    assert code == 1
    assert "The bundle cannot be served" in said and "reasons.yaml" in said
    assert said.count("The bundle cannot be served") == 1
    assert "assay: ready" not in said


def test_settings_that_several_workers_cannot_have_are_told_at_once(tmp_path: Path) -> None:
    settings = {
        "ASSAY_SERVER_ADDRESS": f"unix:{tmp_path}/s",
        "ASSAY_IDEMPOTENCY_SHARE": "off",
        "ASSAY_STORE_KIND": "memory",
    }
    code, said = ended(tmp_path, settings)
    assert code == 1
    for place in ("server.address", "idempotency.share", "store.kind"):
        assert place in said


def test_a_worker_that_crashes_at_its_start_is_not_started_for_ever(tmp_path: Path) -> None:
    # What a plug-in, a driver or the memory's end may do to it: it is gone without a word.
    code, said = ended(tmp_path, {"ASSAY_TRACING_PLUGINS": "os:abort"})
    assert code == 1
    assert "assay cannot serve: worker w" in said and "ended 3 times in a row: it was ended by SIGABRT" in said
    assert said.count('"message": "worker started"') <= 6


def bundles_that_decide(clients: Sequence[Client]) -> set[str]:
    """The bundles that answer, over connections that the kernel spread over the workers."""
    return {client.stub.Decide(asking("plain", "p0"), timeout=60).decision.bundle.digest for client in clients}


def test_workers_are_changed_together_and_forget_together(tmp_path: Path) -> None:
    first, second = variant(tmp_path / "first", "0.1.0", 6.0), variant(tmp_path / "second", "0.2.0", 7.5)
    home = tmp_path / "home"
    home.mkdir()
    load_subjects(home, load_bundle(first, scenarios=False), SUBJECTS)
    with changing(home, first, {**SETTINGS, "ASSAY_ADMIN_ADDRESS": "127.0.0.1:0"}) as (server, _, admin):
        clients = [Client(server.address) for _ in range(12)]
        before = bundles_that_decide(clients)
        with Load(server.address, Asking(SUBJECTS), ["decide"] * 4) as load:
            load.wait(20)
            digest = admin.load(second)
            changed = admin.activate(digest)
            load.wait(20)
        assert load.failed == []
        assert changed.workers == 2
        assert before != {digest} == bundles_that_decide(clients)
        features = feature_service_pb2_grpc.FeatureServiceStub(clients[0].channel)
        forget = feature_service_pb2.DeleteSubjectRequest(entity="applicant", entity_id="p0")
        assert features.DeleteSubject(forget, timeout=60).rows_removed > 0
        for client in clients:
            client.close()
        counted = metrics(server)["assay_decisions_total"]
        leader = next(one["pid"] for one in status(home)["workers"] if one["leads"])
        os.kill(leader, signal.SIGKILL)
        wait_for(
            "another takes changes",
            lambda: any(one["leads"] and one["pid"] != leader for one in status(home)["workers"]),
        )
        assert metrics(server)["assay_decisions_total"] == counted
        workers = [pid for pid in pids(home) if pid is not None]
        assert server.stop(signal.SIGINT) == 0
        assert not any(is_alive(pid) for pid in workers)
