"""What an operator asks of the AdminService while load runs. Nothing that is decided changes: the bundle that is in
service is loaded, sent and put in service again, and a cut-out that only alerts is set.

Two operators at once may be told that what is served changed meanwhile (ABORTED), and a server that has served one
bundle alone has none to go back to: such answers are expected, and no errors (`loadtest.answers`).
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.admin.v1 import admin_service_pb2 as admin
from assay.admin.v1 import traffic_pb2
from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as decision
from loadtest.world import Ask, World

_CHUNK = 256 * 1024
_BUNDLE = Path(__file__).resolve().parents[1] / "models" / "lending"


def _author() -> admin.Author:
    return admin.Author(who="loadtest", why="a load test exercises the operator's calls")


@functools.cache
def _packed() -> bytes:
    """The shipped bundle as a ZIP file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(_BUNDLE.rglob("*")):
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.relative_to(_BUNDLE).as_posix()), file.read_bytes())
    return packed.getvalue()


def list_bundles(world: World) -> Ask:
    """The bundles that the server holds."""
    return Ask("ListBundles", [admin.ListBundlesRequest()])


def load_bundle(world: World) -> Ask:
    """The shipped bundle from its directory on the server's machine, where that is known: on a server of its own, or by
    --bundle-path. Otherwise the bundles are listed."""
    if not world.bundle_path:
        return list_bundles(world)
    return Ask("LoadBundle", [admin.LoadBundleRequest(author=_author(), path=world.bundle_path)])


def upload_bundle(world: World) -> Ask:
    """The shipped bundle, sent."""
    data = _packed()
    messages: list[Any] = [admin.UploadBundleRequest(author=_author())]
    messages += [admin.UploadBundleRequest(chunk=data[at : at + _CHUNK]) for at in range(0, len(data), _CHUNK)]
    return Ask("UploadBundle", messages)


def activate(world: World) -> Ask:
    """The bundle in service is put in service: harmless."""
    if not world.digest:

        def learn(answer: decision.ListFlowsResponse) -> None:
            world.digest = answer.bundle.digest

        return Ask("ListFlows", [decision.ListFlowsRequest()], 0, learn)
    keep = admin.RUNNING_EXPERIMENTS_KEEP
    return Ask("Activate", [admin.ActivateRequest(author=_author(), digest=world.digest, running_experiments=keep)])


def rollback(world: World) -> Ask:
    """Back to the previous bundle, of which there is none where one alone was served."""
    return Ask("Rollback", [admin.RollbackRequest(author=_author())])


def set_traffic(world: World) -> Ask:
    """A cut-out that only alerts."""
    bound = traffic_pb2.RateBound(verdict=decision_pb2.VERDICT_APPROVE, max=1.0)
    flow = traffic_pb2.FlowTraffic(flow="consumer_loan.application", cut_out=traffic_pb2.CutOut(bounds=[bound]))
    return Ask("SetTraffic", [admin.SetTrafficRequest(author=_author(), flows=[flow])])


def get_traffic(world: World) -> Ask:
    """What is served, to whom."""
    return Ask("GetTraffic", [admin.GetTrafficRequest()])


def get_shadow_report(world: World) -> Ask:
    """What challengers would have decided."""
    return Ask("GetShadowReport", [admin.GetShadowReportRequest()])


def list_changes(world: World) -> Ask:
    """The latest changes."""
    return Ask("ListChanges", [admin.ListChangesRequest(limit=20)])


ADMIN_ASKS: tuple[Callable[[World], Ask], ...] = (
    list_bundles,
    load_bundle,
    upload_bundle,
    activate,
    rollback,
    set_traffic,
    get_traffic,
    get_shadow_report,
    list_changes,
)
