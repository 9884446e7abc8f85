"""Calls a server's AdminService, for the command line."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from assay.admin.v1 import admin_service_pb2 as pb
from assay.admin.v1 import admin_service_pb2_grpc
from engine.errors import AssayError, Problem

_CHUNK = 512 * 1024
_CHANGE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: the CA of the server's certificate, and the caller's own certificate and key."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


class AdminError(AssayError):
    """A call failed. problems: everything that the server said is wrong."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__(message)


class AdminClient:
    """One connection. Its methods are those of the service, and raise AdminError."""

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        """Raises OSError for files that cannot be read."""
        if tls is None:
            self._channel = grpc.insecure_channel(address)
        else:
            own = [None if path is None else path.read_bytes() for path in (tls.key, tls.certificate)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(tls.ca.read_bytes(), *own))
        self._address = address
        self._stub: Any = admin_service_pb2_grpc.AdminServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def bundles(self) -> pb.ListBundlesResponse:
        """ListBundles."""
        return self._call(self._stub.ListBundles, pb.ListBundlesRequest())  # type: ignore[no-any-return]

    def load(self, author: pb.Author, path: str) -> pb.LoadBundleResponse:
        """LoadBundle."""
        return self._call(self._stub.LoadBundle, pb.LoadBundleRequest(author=author, path=path))  # type: ignore[no-any-return]

    def upload(self, author: pb.Author, root: Path) -> pb.UploadBundleResponse:
        """UploadBundle, of a directory here. Raises OSError."""
        content = zip_bundle(root)

        def parts() -> Iterator[pb.UploadBundleRequest]:
            yield pb.UploadBundleRequest(author=author)
            for at in range(0, len(content), _CHUNK):
                yield pb.UploadBundleRequest(chunk=content[at : at + _CHUNK])

        return self._call(self._stub.UploadBundle, parts())  # type: ignore[no-any-return]

    def activate(self, request: pb.ActivateRequest) -> pb.ActivateResponse:
        """Activate."""
        return self._call(self._stub.Activate, request)  # type: ignore[no-any-return]

    def rollback(self, author: pb.Author) -> pb.RollbackResponse:
        """Rollback."""
        return self._call(self._stub.Rollback, pb.RollbackRequest(author=author))  # type: ignore[no-any-return]

    def set_traffic(self, request: pb.SetTrafficRequest) -> pb.SetTrafficResponse:
        """SetTraffic."""
        return self._call(self._stub.SetTraffic, request)  # type: ignore[no-any-return]

    def traffic(self) -> pb.GetTrafficResponse:
        """GetTraffic."""
        return self._call(self._stub.GetTraffic, pb.GetTrafficRequest())  # type: ignore[no-any-return]

    def shadows(self, flow: str) -> pb.GetShadowReportResponse:
        """GetShadowReport."""
        return self._call(self._stub.GetShadowReport, pb.GetShadowReportRequest(flow=flow))  # type: ignore[no-any-return]

    def changes(self, limit: int) -> pb.ListChangesResponse:
        """ListChanges."""
        return self._call(self._stub.ListChanges, pb.ListChangesRequest(limit=limit))  # type: ignore[no-any-return]

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=_CHANGE_TIMEOUT_S)
        except grpc.RpcError as error:
            raise _failure(error, self._address) from error


def zip_bundle(root: Path) -> bytes:
    """A bundle's files, hidden ones left out, as a ZIP file. Raises OSError."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            name = file.relative_to(root)
            if file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
                archive.write(file, name.as_posix())
    return content.getvalue()


def _failure(error: Any, address: str) -> AdminError:
    problems = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            problems = _problems(value)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not error.trailing_metadata():
        return AdminError(f"No server answers at {address}: {error.details()}")
    return AdminError(error.details() or error.code().name, problems)


def _problems(content: bytes) -> list[Problem]:
    bad, bundle, found = BadRequest(), pb.BundleProblems(), []
    try:
        details = Status.FromString(content).details
    except DecodeError:
        return []
    for detail in details:
        if detail.Unpack(bad):
            found += [Problem("request", v.field, v.description, "Correct it.") for v in bad.field_violations]
        elif detail.Unpack(bundle):
            found += [Problem(one.file, one.place, one.message, one.fix) for one in bundle.problems]
            if bundle.count > len(bundle.problems):
                more = f"there are {bundle.count - len(bundle.problems)} more"
                found.append(Problem("bundle", "", more, "Run `assay check` on the directory to see all."))
    return found
