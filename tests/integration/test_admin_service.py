"""AdminService over gRPC, with real bundles: what is served changes while calls go on, and nothing goes wrong by it."""

from __future__ import annotations

import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from assay.admin.v1 import admin_service_pb2 as pb
from assay.admin.v1 import admin_service_pb2_grpc, traffic_pb2
from assay.decision.v1 import decision_pb2
from assay.decision.v1.decision_pb2 import VERDICT_DECLINE
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind
from engine.rpc.admin_access import AdminAccess
from engine.rpc.admin_server import AdminServer, AdminServerSettings
from engine.rpc.admin_servicer import AdminServicer
from engine.traffic.intake import BundleIntake
from tests.support.redis_servers import Certificates
from tests.support.tiny import change
from tests.support.traffic import Host, decide, host, tiny_variant

FLOW = "tiny_loan.application"
ANN = pb.Author(who="ann", why="a test")


@dataclass
class Admin:
    """A host, the server of its changes, and a stub of that."""

    host: Host
    stub: Any
    bundles: Path

    def load(self, version: str, rate_percent: float = 6.0) -> str:
        """Loads another version of the tiny bundle as an operator does; its digest."""
        root = tiny_variant(self.bundles / version, version, rate_percent)
        digest: str = self.stub.LoadBundle(pb.LoadBundleRequest(author=ANN, path=str(root))).bundle.digest
        return digest

    def variant(self, version: str, rate_percent: float = 6.0) -> str:
        """Puts another version of the tiny bundle into the registry, without the check of it; its digest."""
        with self.host.registry.incoming(tiny_variant(self.bundles / version, version, rate_percent)) as incoming:
            return self.host.registry.keep(incoming, "tiny", version, [FLOW])[0].digest


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    bundles = tmp_path / "allowed"
    first = tiny_variant(bundles / "0.1.0", "0.1.0")
    with host(tmp_path / "home", first) as opened:
        intake = BundleIntake(opened.control, [bundles], bytes_max=10_000_000)
        server = AdminServer(
            AdminServicer(opened.control, intake, upload_bytes_max=2_000_000), AdminServerSettings("127.0.0.1:0")
        )
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Admin(opened, admin_service_pb2_grpc.AdminServiceStub(channel), bundles)
        server.stop()


@dataclass
class Failure:
    """What a call failed with."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: list[str]
    problems: pb.BundleProblems


def _failure(call: Any, request: Any) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    error: Any = caught.value
    (content,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    info, bad, problems = ErrorInfo(), BadRequest(), pb.BundleProblems()
    for detail in Status.FromString(content).details:
        assert detail.Unpack(info) or detail.Unpack(bad) or detail.Unpack(problems)
    assert info.domain == "assay.admin.v1"
    return Failure(error.code(), info.reason, error.details(), [v.field for v in bad.field_violations], problems)


def _journalled(opened: Host, kind: FrameKind) -> list[Frame]:
    reader = JournalReader(opened.home / "decisions")
    frames = [item for item in reader.frames("w0") if isinstance(item, Frame)]
    return [frame for frame in frames if frame.kind == kind]


# --- loading ------------------------------------------------------------------------------------------------------


def test_a_bundle_is_loaded_listed_activated_and_rolled_back(admin: Admin) -> None:
    first = admin.host.decide()
    digest = admin.load("0.2.0", 7.5)
    listed = admin.stub.ListBundles(pb.ListBundlesRequest()).bundles
    assert [(one.version, list(one.roles)) for one in listed] == [("0.2.0", []), ("0.1.0", ["default", "configured"])]
    assert listed[0].flows == [FLOW] and listed[0].bytes > 1_000 and not listed[0].HasField("served_at")
    # Loading changed nothing that is served.
    assert admin.host.decide().bundle.digest == first.bundle.digest != digest

    answer = admin.stub.Activate(pb.ActivateRequest(author=ANN, digest=digest.removeprefix("sha256:")[:12]))
    assert (answer.changed, answer.workers, answer.traffic.generation) == (True, 1, 2)
    assert (answer.traffic.default_bundle, answer.traffic.previous_bundle) == (digest, first.bundle.digest)
    second = admin.host.decide()
    assert (second.bundle.version, second.offer.annual_rate_percent) == ("0.2.0", 7.5)
    assert admin.host.switches == [1, 2]

    again = admin.stub.Activate(pb.ActivateRequest(author=ANN, digest=digest))
    assert not again.changed and again.traffic.generation == 2
    back = admin.stub.Rollback(pb.RollbackRequest(author=pb.Author(who="ann", why="rates", expected_generation=2)))
    assert back.traffic.default_bundle == first.bundle.digest
    assert admin.host.decide().offer.annual_rate_percent == 6.0
    served = admin.stub.GetTraffic(pb.GetTrafficRequest())
    assert served.traffic == back.traffic
    assert [(one.worker, one.generation, one.trouble) for one in served.workers] == [("w0", 3, "")]


def test_every_change_is_in_the_journal_with_who_and_why(admin: Admin) -> None:
    digest = admin.load("0.2.0")
    admin.stub.Activate(pb.ActivateRequest(author=pb.Author(who="bob", why="利率 test"), digest=digest))
    changes = admin.stub.ListChanges(pb.ListChangesRequest()).changes
    kinds = [traffic_pb2.ChangeKind.Name(one.kind).removeprefix("CHANGE_KIND_") for one in changes]
    assert kinds == ["ACTIVATE", "LOAD", "START"]
    assert [(one.who, one.why, one.authenticated) for one in changes[:2]] == [
        ("bob", "利率 test", False),
        ("ann", "a test", False),
    ]
    assert changes[0].before == changes[2].after and changes[0].after.default_bundle == digest
    assert changes[1].bundle.digest == digest and not changes[1].HasField("after")
    journalled = _journalled(admin.host, FrameKind.CHANGE)
    assert [traffic_pb2.ChangeRecord.FromString(frame.payload) for frame in journalled] == list(reversed(changes))
    assert len(admin.stub.ListChanges(pb.ListChangesRequest(limit=1)).changes) == 1
    assert _failure(admin.stub.ListChanges, pb.ListChangesRequest(limit=-1)).fields == ["limit"]


def test_all_mistakes_of_a_bundle_are_told_and_nothing_is_kept(admin: Admin) -> None:
    root = tiny_variant(admin.bundles / "bad", "0.2.0")
    change(root / "reasons.yaml", ["reasons", "PL_INSOLVENT"], None)
    change(root / "policy" / "price.json", ["nodes", 1, "content", "rules", 0, "o0"], "banana(")
    failure = _failure(admin.stub.LoadBundle, pb.LoadBundleRequest(author=ANN, path=str(root)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_BUNDLE")
    assert failure.problems.count >= 2 and len(failure.problems.problems) == failure.problems.count
    assert {one.file for one in failure.problems.problems} == {"policy/knock_outs.json", "policy/price.json"}
    assert all(one.fix for one in failure.problems.problems)
    assert len(admin.stub.ListBundles(pb.ListBundlesRequest()).bundles) == 1
    assert len(_journalled(admin.host, FrameKind.CHANGE)) == 1


def test_a_scenario_that_gives_another_answer_keeps_a_bundle_out(admin: Admin) -> None:
    root = tiny_variant(admin.bundles / "bad", "0.2.0")
    change(root / "scenarios" / "tiny_loan.yaml", ["scenarios", 0, "expect", "verdict"], "DECLINE")
    failure = _failure(admin.stub.LoadBundle, pb.LoadBundleRequest(author=ANN, path=str(root)))
    assert failure.reason == "INVALID_BUNDLE" and failure.problems.problems[0].file == "scenarios/tiny_loan.yaml"


def test_a_model_that_is_garbage_harms_nobody(admin: Admin) -> None:
    root = tiny_variant(admin.bundles / "bad", "0.2.0")
    (root / "tiny_german" / "model.onnx").write_bytes(b"\x08\x07" + bytes(100_000))
    assert _failure(admin.stub.LoadBundle, pb.LoadBundleRequest(author=ANN, path=str(root))).reason == "INVALID_BUNDLE"
    assert admin.host.decide().bundle.version == "0.1.0"


@pytest.mark.parametrize("path", ["", "relative", "/etc", "{allowed}/../home", "{allowed}/link"])
def test_only_directories_that_are_allowed_are_read(admin: Admin, path: str) -> None:
    (admin.bundles / "link").symlink_to("/etc")
    request = pb.LoadBundleRequest(author=ANN, path=path.format(allowed=admin.bundles))
    failure = _failure(admin.stub.LoadBundle, request)
    assert failure.reason in ("PATH_NOT_ALLOWED", "INVALID_REQUEST")
    assert failure.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)


def _zipped(root: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root))
    return content.getvalue()


def _parts(content: bytes, size: int = 10_000) -> Iterator[pb.UploadBundleRequest]:
    yield pb.UploadBundleRequest(author=ANN)
    for at in range(0, len(content), size):
        yield pb.UploadBundleRequest(chunk=content[at : at + size])


def test_a_bundle_that_is_sent_is_the_same_as_one_that_is_there(admin: Admin, tmp_path: Path) -> None:
    root = tiny_variant(tmp_path / "mine", "0.3.0", 8.0)
    answer = admin.stub.UploadBundle(_parts(_zipped(root)))
    assert (answer.bundle.version, answer.known, answer.scenarios) == ("0.3.0", False, 1)
    (admin.bundles / "same").mkdir()
    same = admin.stub.LoadBundle(
        pb.LoadBundleRequest(author=ANN, path=str(tiny_variant(admin.bundles / "same" / "b", "0.3.0", 8.0)))
    )
    assert same.known and same.bundle.digest == answer.bundle.digest


def test_what_is_sent_is_bounded_and_in_order(admin: Admin) -> None:
    assert "2000000 bytes" in _failure(admin.stub.UploadBundle, _parts(bytes(2_100_000), 500_000)).message
    assert _failure(admin.stub.UploadBundle, _parts(b"not a zip")).reason == "INVALID_BUNDLE"
    assert _failure(admin.stub.UploadBundle, iter([])).fields == ["author"]
    chunk_first = iter([pb.UploadBundleRequest(chunk=b"x")])
    assert _failure(admin.stub.UploadBundle, chunk_first).fields == ["author"]
    twice = iter([pb.UploadBundleRequest(author=ANN), pb.UploadBundleRequest(author=ANN)])
    assert _failure(admin.stub.UploadBundle, twice).fields == ["chunk"]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_changes_are_refused_for_what_they_lack(admin: Admin) -> None:
    stub = admin.stub
    failure = _failure(stub.Rollback, pb.RollbackRequest(author=ANN))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_PREVIOUS_BUNDLE")
    assert _failure(stub.Rollback, pb.RollbackRequest()).fields == ["author.who", "author.why"]
    unknown = _failure(stub.Activate, pb.ActivateRequest(author=ANN, digest="sha256:" + "0" * 64))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "BUNDLE_NOT_FOUND")
    late = pb.Author(who="ann", why="a test", expected_generation=9)
    stale = _failure(stub.Activate, pb.ActivateRequest(author=late, digest=admin.variant("0.2.0")))
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "GENERATION_CHANGED")
    other = traffic_pb2.FlowTraffic(
        flow="boat_loan.application",
        shadows=[traffic_pb2.Shadow(name="next", bundle=admin.host.control.serving.default.bundle)],
    )
    unfit = _failure(stub.SetTraffic, pb.SetTrafficRequest(author=ANN, flows=[other]))
    assert unfit.fields == [
        'flows["boat_loan.application"].shadows["next"].bundle',
        'flows["boat_loan.application"].flow',
    ]
    assert admin.host.control.serving.generation == 1


def test_a_bundle_spoilt_in_the_registry_is_not_put_in_service(admin: Admin) -> None:
    digest = admin.variant("0.2.0")
    place = admin.host.registry.path_of(digest)
    change(place / "bundle.yaml", ["version"], "9.9.9")
    failure = _failure(admin.stub.Activate, pb.ActivateRequest(author=ANN, digest=digest))
    assert failure.reason == "INVALID_BUNDLE" and "other files" in failure.message
    assert admin.host.decide().bundle.version == "0.1.0"
    assert admin.stub.GetTraffic(pb.GetTrafficRequest()).traffic.generation == 1


# --- champion and challenger --------------------------------------------------------------------------------------


def test_subjects_are_divided_and_stay_where_they_are(admin: Admin) -> None:
    champion, challenger = admin.host.control.serving.default.bundle, admin.variant("0.2.0", 9.0)
    arms = [
        traffic_pb2.Arm(name="champion", bundle=champion, share_basis_points=7_000),
        traffic_pb2.Arm(name="challenger", bundle=challenger, share_basis_points=3_000),
    ]
    flow = traffic_pb2.FlowTraffic(flow=FLOW, experiment=traffic_pb2.Experiment(name="rate", arms=arms))
    admin.stub.SetTraffic(pb.SetTrafficRequest(author=ANN, flows=[flow]))
    subjects = [f"p{n}" for n in range(100)]
    rates = {subject: admin.host.decide(subject).offer.annual_rate_percent for subject in subjects}
    assert set(rates.values()) == {6.0, 9.0}
    assert 12 <= list(rates.values()).count(9.0) <= 48
    assert {s: admin.host.decide(s).offer.annual_rate_percent for s in subjects[:20]} == {
        s: rates[s] for s in subjects[:20]
    }
    roles = {one.version: list(one.roles) for one in admin.stub.ListBundles(pb.ListBundlesRequest()).bundles}
    assert roles == {"0.1.0": ["default", f"{FLOW}/champion", "configured"], "0.2.0": [f"{FLOW}/challenger"]}
    third = admin.variant("0.3.0", 5.0)
    refused = _failure(admin.stub.Activate, pb.ActivateRequest(author=ANN, digest=third))
    assert refused.reason == "EXPERIMENTS_RUNNING"
    kept = pb.ActivateRequest(author=ANN, digest=third, running_experiments=pb.RUNNING_EXPERIMENTS_KEEP)
    admin.stub.Activate(kept)
    assert {admin.host.decide(s).offer.annual_rate_percent for s in subjects[:20]} == {6.0, 9.0}
    ended = pb.ActivateRequest(author=ANN, digest=third, running_experiments=pb.RUNNING_EXPERIMENTS_END)
    admin.stub.Activate(ended)
    assert {admin.host.decide(s).offer.annual_rate_percent for s in subjects[:20]} == {5.0}


# --- under load ---------------------------------------------------------------------------------------------------


def test_a_switch_under_load_fails_no_call_and_mixes_no_answer(admin: Admin) -> None:
    versions = {"0.1.0": 6.0, "0.2.0": 7.0, "0.3.0": 8.0}
    digests = {"0.1.0": admin.host.control.serving.default.bundle}
    digests |= {version: admin.variant(version, rate) for version, rate in list(versions.items())[1:]}
    stop, lock = threading.Event(), threading.Lock()
    failed: list[BaseException] = []
    answers: list[decision_pb2.Decision] = []

    def call(number: int) -> None:
        done = 0
        while not stop.is_set():
            try:
                serving = admin.host.control.serving
                # The items of one batch: all of one bundle, whatever is switched meanwhile.
                batch = [decide(serving, None, f"p{number}-{done}-{item}") for item in range(3)]
            except BaseException as error:
                failed.append(error)
                return
            done += 1
            with lock:
                answers.extend(batch)
                if len({one.bundle.digest for one in batch}) != 1:
                    failed.append(AssertionError("a batch of two bundles"))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(3)]
    interval_s = sys.getswitchinterval()
    for thread in threads:
        thread.start()
    try:
        for turn in range(6):
            version = ["0.2.0", "0.3.0", "0.1.0"][turn % 3]
            begun = len(answers)
            if turn == 3:
                _failure(admin.stub.Activate, pb.ActivateRequest(author=ANN, digest="0" * 64))
            admin.stub.Activate(pb.ActivateRequest(author=ANN, digest=digests[version]))
            # A call that begins after the change was answered is decided by it.
            assert admin.host.decide().bundle.version == version
            while len(answers) < begun + 30 and not failed:
                stop.wait(0.005)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert {one.bundle.version for one in answers} == set(versions)
    for one in answers:
        assert one.bundle.digest == digests[one.bundle.version]
        assert one.offer.annual_rate_percent == versions[one.bundle.version]
    assert sys.getswitchinterval() == interval_s


# --- the cut-out --------------------------------------------------------------------------------------------------


def test_a_cut_out_falls_back_by_itself_and_says_why(admin: Admin) -> None:
    first, second = admin.host.control.serving.default.bundle, admin.variant("0.2.0")
    admin.stub.Activate(pb.ActivateRequest(author=ANN, digest=second))
    cut_out = traffic_pb2.CutOut(
        bounds=[traffic_pb2.RateBound(verdict=VERDICT_DECLINE, max=0.3)], decisions_min=20, fall_back=True
    )
    cut_out.trip_after.FromMilliseconds(0)
    flow = traffic_pb2.FlowTraffic(flow=FLOW, cut_out=cut_out)
    admin.stub.SetTraffic(pb.SetTrafficRequest(author=ANN, flows=[flow]))
    for _ in range(25):
        admin.host.worker.cut_outs.note(FLOW, VERDICT_DECLINE)
    end = threading.Event()
    for _ in range(1_000):
        if admin.host.control.serving.default.bundle == first:
            break
        end.wait(0.02)
    traffic = admin.stub.GetTraffic(pb.GetTrafficRequest())
    assert (traffic.traffic.default_bundle, traffic.traffic.previous_bundle) == (first, "")
    assert traffic.traffic.who == "cut-out" and "DECLINE is 1.0000 of 25 decisions" in traffic.traffic.why
    # What it falls back to is judged anew, and there is nothing to fall back to from there.
    for _ in range(25):
        admin.host.worker.cut_outs.note(FLOW, VERDICT_DECLINE)
    for _ in range(1_000):
        state = admin.stub.GetTraffic(pb.GetTrafficRequest()).workers[0].cut_outs[0]
        if state.level == pb.CUT_OUT_LEVEL_TRIPPED:
            break
        end.wait(0.02)
    assert (state.flow, state.decisions, state.rates["DECLINE"]) == (FLOW, 25, 1.0) and "DECLINE" in state.facts
    assert admin.stub.GetTraffic(pb.GetTrafficRequest()).traffic.generation == traffic.traffic.generation
    change_kinds = [one.kind for one in admin.stub.ListChanges(pb.ListChangesRequest()).changes]
    assert change_kinds[0] == traffic_pb2.CHANGE_KIND_CUT_OUT


# --- who may ------------------------------------------------------------------------------------------------------


def test_a_certificate_says_who_and_the_list_says_whether(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    first = tiny_variant(tmp_path / "first", "0.1.0")
    with host(tmp_path / "home", first) as opened:
        for names, may in ((("somebody",), False), (("client",), True)):
            settings = AdminServerSettings("127.0.0.1:0", files.server, files.server_key, files.ca, names)
            servicer = AdminServicer(opened.control, BundleIntake(opened.control, [tmp_path]), AdminAccess(names))
            server = AdminServer(servicer, settings)
            server.start()
            credentials = grpc.ssl_channel_credentials(
                files.ca.read_bytes(), files.client_key.read_bytes(), files.client.read_bytes()
            )
            with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
                stub: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
                request = pb.LoadBundleRequest(author=ANN, path=str(first))
                if may:
                    assert stub.LoadBundle(request).known
                    latest = stub.ListChanges(pb.ListChangesRequest(limit=1)).changes[0]
                    assert (latest.who, latest.authenticated, latest.on_behalf_of) == ("client", True, "ann")
                else:
                    failure = _failure(stub.LoadBundle, request)
                    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED")
                    assert _failure(stub.GetTraffic, pb.GetTrafficRequest()).reason == "NOT_PERMITTED"
            with (
                grpc.insecure_channel(f"localhost:{server.port}") as plain,
                pytest.raises(grpc.RpcError) as caught,
            ):
                admin_service_pb2_grpc.AdminServiceStub(plain).GetTraffic(pb.GetTrafficRequest(), timeout=10)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            server.stop()
