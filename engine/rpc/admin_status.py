"""Turns errors of changes into gRPC statuses, with the reasons of `assay.admin.v1`."""

from __future__ import annotations

import logging
import uuid
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from assay.admin.v1 import admin_service_pb2 as pb
from engine.errors import BundleError, Refusal, RequestError

DOMAIN = "assay.admin.v1"
# See engine/rpc/status.py: trailers are small.
_DETAILS_BYTES_MAX = 3_200
_MESSAGE_CHARACTERS_MAX = 500

_CODES = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_BUNDLE": grpc.StatusCode.FAILED_PRECONDITION,
    "BUNDLE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "PATH_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
    "GENERATION_CHANGED": grpc.StatusCode.ABORTED,
    "CHANGE_IN_PROGRESS": grpc.StatusCode.ABORTED,
    "PREPARE_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "NO_PREVIOUS_BUNDLE": grpc.StatusCode.FAILED_PRECONDITION,
    "EXPERIMENTS_RUNNING": grpc.StatusCode.FAILED_PRECONDITION,
    "NOT_PERMITTED": grpc.StatusCode.PERMISSION_DENIED,
    "RECORD_FAILED": grpc.StatusCode.UNAVAILABLE,
    "NOT_SERVING": grpc.StatusCode.UNAVAILABLE,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
# What decisions are refused with, in the words of changes.
_ALSO = {"NO_BUNDLE": "NOT_SERVING", "DRAINING": "NOT_SERVING"}
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_log = logging.getLogger("assay.admin")


def code_of(reason: str) -> grpc.StatusCode:
    """The status code that goes with an AdminErrorReason."""
    return _CODES[reason]


def status_of(error: BaseException) -> Status:
    """The status of any error. One that was not foreseen becomes INTERNAL with an incident id; its text goes to the log
    only."""
    if isinstance(error, RequestError):
        return _bad_request(error)
    if isinstance(error, BundleError):
        return _bad_bundle(error)
    if isinstance(error, Refusal):
        return _status(_ALSO.get(error.reason, error.reason), error.message, error.metadata)
    incident_id = uuid.uuid4().hex
    _log.error("unforeseen error", exc_info=error, extra={"incident_id": incident_id})
    message = f"An unforeseen error happened; the server's log has it under incident {incident_id}."
    return _status("INTERNAL", message, {"incident_id": incident_id})


def _bad_request(error: RequestError) -> Status:
    bad = BadRequest()
    for violation in error.violations:
        bad.field_violations.add(field=violation.field, description=violation.description)
        if bad.ByteSize() > _DETAILS_BYTES_MAX and len(bad.field_violations) > 1:
            del bad.field_violations[-1]
            break
    status = _status("INVALID_REQUEST", str(error), {"fields": str(len(error.violations))})
    _pack(status, bad)
    return status


def _bad_bundle(error: BundleError) -> Status:
    found = pb.BundleProblems(count=len(error.problems))
    for problem in error.problems:
        found.problems.add(
            file=problem.file[:300], place=problem.place[:300], message=problem.message[:600], fix=problem.fix[:300]
        )
        if found.ByteSize() > _DETAILS_BYTES_MAX and len(found.problems) > 1:
            del found.problems[-1]
            break
    _log.warning("a bundle has mistakes", extra={"problems": [str(problem) for problem in error.problems[:1000]]})
    noun = "mistake" if found.count == 1 else "mistakes"
    first = str(error.problems[0]) if error.problems else ""
    status = _status("INVALID_BUNDLE", f"The bundle has {found.count} {noun}. First: {first}", {})
    _pack(status, found)
    return status


def _status(reason: str, message: str, metadata: dict[str, str]) -> Status:
    status = Status(code=_CODES[reason].value[0], message=message[:_MESSAGE_CHARACTERS_MAX])
    _pack(status, ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status


def _pack(status: Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def abort(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    """Ends the call with the status of an error. Always raises."""
    status = status_of(error)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(_BY_NUMBER[status.code], status.message)
    raise AssertionError("unreachable")
