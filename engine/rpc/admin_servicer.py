"""The servicer of changes: parse, check, change once, answer."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from assay.admin.v1 import admin_service_pb2 as pb
from engine.domain.enums import Component
from engine.errors import BundleError, FieldViolation, Problem, Refusal, RequestError
from engine.rpc.admin_access import AdminAccess
from engine.rpc.admin_requests import author_of, flows_of
from engine.rpc.admin_status import abort
from engine.rpc.calls import parse
from engine.traffic.changes import KEPT
from engine.traffic.compare import Pair, Shift, Tally, verdict_pair
from engine.traffic.control import Changed, TrafficControl
from engine.traffic.intake import BundleIntake, Taken, bundle_message
from engine.traffic.messages import moment, traffic_message
from engine.traffic.model import Author, ChangeKind, Traffic
from engine.traffic.moves import Move, activate, rollback, set_flows
from engine.traffic.shadow import shadow_report

ADMIN_SERVICE = "assay.admin.v1.AdminService"
CHUNK_BYTES_MAX = 1 << 20
_CHANGES = 50
_END_EXPERIMENTS = {
    pb.RUNNING_EXPERIMENTS_UNSPECIFIED: None,
    pb.RUNNING_EXPERIMENTS_END: True,
    pb.RUNNING_EXPERIMENTS_KEEP: False,
}
_log = logging.getLogger("assay.admin")
M = TypeVar("M", bound=Message)


class AdminServicer:
    """Serves `assay.admin.v1.AdminService`. access: who may. upload_bytes_max: the largest ZIP file that is taken."""

    def __init__(
        self,
        control: TrafficControl[Any],
        intake: BundleIntake,
        access: AdminAccess | None = None,
        upload_bytes_max: int = 256 << 20,
    ) -> None:
        self._control, self._intake = control, intake
        self._access = access or AdminAccess()
        self._upload_bytes_max = upload_bytes_max

    def list_bundles(self, request: pb.ListBundlesRequest, identity: str) -> pb.ListBundlesResponse:
        """ListBundles."""
        del request, identity
        traffic = self._control.current()
        return pb.ListBundlesResponse(
            bundles=[bundle_message(stored, traffic) for stored in self._control.registry.all()]
        )

    def load_bundle(self, request: pb.LoadBundleRequest, identity: str) -> pb.LoadBundleResponse:
        """LoadBundle."""
        author = author_of(request.author, identity)
        return _taken(pb.LoadBundleResponse(), self._intake.take_path(request.path, author), self._control.current())

    def upload_bundle(self, contents: Iterator[bytes], identity: str) -> pb.UploadBundleResponse:
        """UploadBundle."""
        author: Author | None = None
        size = 0
        with tempfile.TemporaryFile(prefix="assay-upload-") as spool:
            for content in contents:
                part = parse(pb.UploadBundleRequest, content)
                if author is None:
                    if part.WhichOneof("part") != "author":
                        raise RequestError([FieldViolation("author", "must come first")])
                    author = author_of(part.author, identity)
                    continue
                if part.WhichOneof("part") != "chunk":
                    raise RequestError([FieldViolation("chunk", "must be all that follows the author")])
                size += len(part.chunk)
                if size > self._upload_bytes_max:
                    message = f"has more than {self._upload_bytes_max} bytes"
                    raise BundleError(
                        [Problem("upload", "", message, "Send a smaller bundle, or load it by its path.")]
                    )
                spool.write(part.chunk)
            if author is None:
                raise RequestError([FieldViolation("author", "is required, in the first message")])
            spool.seek(0)
            taken = self._intake.take_zip(spool, author)
        return _taken(pb.UploadBundleResponse(), taken, self._control.current())

    def activate(self, request: pb.ActivateRequest, identity: str) -> pb.ActivateResponse:
        """Activate."""
        if request.running_experiments not in _END_EXPERIMENTS:
            raise RequestError([FieldViolation("running_experiments", "is not known")])
        end = _END_EXPERIMENTS[request.running_experiments]

        def move(traffic: Traffic) -> Traffic | None:
            return activate(traffic, self._control.registry.find(request.digest), end)

        return _changed(pb.ActivateResponse(), self._change(ChangeKind.ACTIVATE, request.author, identity, move))

    def rollback(self, request: pb.RollbackRequest, identity: str) -> pb.RollbackResponse:
        """Rollback."""
        return _changed(pb.RollbackResponse(), self._change(ChangeKind.ROLLBACK, request.author, identity, rollback))

    def set_traffic(self, request: pb.SetTrafficRequest, identity: str) -> pb.SetTrafficResponse:
        """SetTraffic."""

        def move(traffic: Traffic) -> Traffic | None:
            return set_flows(traffic, flows_of(request.flows, self._control.registry.find))

        return _changed(pb.SetTrafficResponse(), self._change(ChangeKind.SET_TRAFFIC, request.author, identity, move))

    def get_traffic(self, request: pb.GetTrafficRequest, identity: str) -> pb.GetTrafficResponse:
        """GetTraffic."""
        del request, identity
        answer = pb.GetTrafficResponse(traffic=traffic_message(self._control.current()))
        for name, standing in sorted(self._control.standings().items()):
            worker = answer.workers.add(worker=name, generation=standing.generation, trouble=standing.trouble)
            for state in standing.cut_outs:
                worker.cut_outs.add(**state)
        return answer

    def get_shadow_report(self, request: pb.GetShadowReportRequest, identity: str) -> pb.GetShadowReportResponse:
        """GetShadowReport."""
        del identity
        states = [standing.shadows for standing in self._control.standings().values()]
        found, dropped = shadow_report(states, request.flow)
        return pb.GetShadowReportResponse(
            comparisons=[_comparison(pair, tally) for pair, tally in found.items()], dropped=dropped
        )

    def list_changes(self, request: pb.ListChangesRequest, identity: str) -> pb.ListChangesResponse:
        """ListChanges."""
        del identity
        if not 0 <= request.limit <= KEPT:
            raise RequestError([FieldViolation("limit", f"must be 0 to {KEPT}")])
        return pb.ListChangesResponse(changes=self._control.changes(request.limit or _CHANGES))

    def _change(self, kind: ChangeKind, author: pb.Author, identity: str, move: Move) -> Changed:
        return self._control.change(kind, author_of(author, identity), move)

    def unary(
        self, kind: type[M], method: Callable[[M, str], Message]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """A method as gRPC calls it: who may not is refused, and errors become statuses."""

        def call(content: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return method(parse(kind, content), self._access.identity_of(context)).SerializeToString()
            except Exception as error:
                abort(context, error)

        return call

    def upload(self, contents: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """UploadBundle as gRPC calls it."""
        try:
            return self.upload_bundle(contents, self._access.identity_of(context)).SerializeToString()
        except grpc.RpcError:
            # The caller went away in the middle: there is nobody to answer.
            abort(context, Refusal("NOT_SERVING", "The upload was cut short."))
        except Exception as error:
            abort(context, error)


A = TypeVar("A", pb.ActivateResponse, pb.RollbackResponse, pb.SetTrafficResponse)
L = TypeVar("L", pb.LoadBundleResponse, pb.UploadBundleResponse)


def _changed(answer: A, changed: Changed) -> A:
    answer.traffic.CopyFrom(traffic_message(changed.traffic))
    answer.changed, answer.workers = changed.changed, changed.workers
    return answer


def _taken(answer: L, taken: Taken, traffic: Traffic) -> L:
    answer.bundle.CopyFrom(bundle_message(taken.bundle, traffic))
    answer.known, answer.scenarios = taken.known, taken.scenarios
    answer.notes.extend(taken.notes)
    return answer


def _comparison(pair: Pair, tally: Tally) -> pb.ShadowComparison:
    message = pb.ShadowComparison(
        flow=pair.flow,
        shadow=pair.shadow,
        shadow_bundle=pair.shadow_bundle,
        bundle=pair.bundle,
        decided=tally.decided,
        refused=tally.refused,
        failed=tally.failed,
        carried_by_name=tally.by_name,
        unrecorded=tally.unrecorded,
        reasons_differ=tally.reasons_differ,
        offers_differ=tally.offers_differ,
        differing_decision_ids=tally.differing,
        since=moment(tally.since_us),
    )
    for text, count in sorted(tally.verdicts.items()):
        answered, shadow = verdict_pair(text)
        message.verdicts.add(answered=int(answered), shadow=int(shadow), count=count)
    for component in Component:
        chances = tally.shifts.get(f"{component.name}/probability", Shift())
        points = tally.shifts.get(f"{component.name}/points", Shift())
        if chances.count or points.count:
            message.scores.add(
                component=int(component),
                probabilities=chances.count,
                mean_probability=chances.total / max(1, chances.count),
                mean_absolute_probability=chances.absolute / max(1, chances.count),
                max_absolute_probability=chances.most,
                points=points.count,
                mean_points=points.total / max(1, points.count),
                mean_absolute_points=points.absolute / max(1, points.count),
                max_absolute_points=points.most,
            )
    return message


def admin_handlers(servicer: AdminServicer) -> grpc.GenericRpcHandler:
    """The handlers of the service: bytes in, bytes out."""
    methods: Mapping[str, tuple[type[Any], Callable[[Any, str], Message]]] = {
        "ListBundles": (pb.ListBundlesRequest, servicer.list_bundles),
        "LoadBundle": (pb.LoadBundleRequest, servicer.load_bundle),
        "Activate": (pb.ActivateRequest, servicer.activate),
        "Rollback": (pb.RollbackRequest, servicer.rollback),
        "SetTraffic": (pb.SetTrafficRequest, servicer.set_traffic),
        "GetTraffic": (pb.GetTrafficRequest, servicer.get_traffic),
        "GetShadowReport": (pb.GetShadowReportRequest, servicer.get_shadow_report),
        "ListChanges": (pb.ListChangesRequest, servicer.list_changes),
    }
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(servicer.unary(kind, method))
        for name, (kind, method) in methods.items()
    }
    handlers["UploadBundle"] = grpc.stream_unary_rpc_method_handler(servicer.upload)
    return grpc.method_handlers_generic_handler(ADMIN_SERVICE, handlers)
