"""Turns errors of the engine into gRPC statuses. The only place that knows both."""

from __future__ import annotations

import logging
import uuid
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from engine.errors import AssayError, RecordError, Refusal, RequestError

DOMAIN = "assay.decision.v1"
# gRPC refuses trailers of more than 8 KiB, and a status travels in them twice: its text percent-encoded (three bytes
# for one that is not ASCII), itself in base64. So a refused request names as many fields as fit; the count is whole.
_DETAILS_BYTES_MAX = 3_200
_MESSAGE_BYTES_MAX = 500

_CODES = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_FLOW": grpc.StatusCode.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "DUPLICATE_IN_BATCH": grpc.StatusCode.INVALID_ARGUMENT,
    "BATCH_TOO_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "DECISION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "NO_BUNDLE": grpc.StatusCode.UNAVAILABLE,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "RECORD_FAILED": grpc.StatusCode.UNAVAILABLE,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DEADLINE_TOO_SHORT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
    "DECISION_IN_PROGRESS": grpc.StatusCode.ABORTED,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "NO_COUNTERS": grpc.StatusCode.FAILED_PRECONDITION,
    "OUTCOME_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "OUTCOME_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "DECISION_ERASED": grpc.StatusCode.FAILED_PRECONDITION,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# Every ErrorReason there is.
REASONS = tuple(_CODES)
_RETRY_AFTER_MS = {
    "NO_BUNDLE": 1000,
    "RECORD_FAILED": 500,
    "OVERLOADED": 200,
    "QUOTA_EXCEEDED": 1000,
    "DECISION_IN_PROGRESS": 100,
    "STORE_UNAVAILABLE": 1000,
}

_log = logging.getLogger("assay.rpc")


def code_of(reason: str) -> grpc.StatusCode:
    """The status code that goes with an ErrorReason."""
    return _CODES[reason]


def status_of(error: BaseException, prefix: str = "") -> Status:
    """The status of any error. prefix: put before each field path, for items of a batch ("requests[3].").

    An error that the engine did not foresee becomes INTERNAL with an incident id; its text goes to the log only.
    """
    if isinstance(error, RequestError):
        return _bad_request(error, prefix)
    if isinstance(error, Refusal):
        return _status(error.reason, error.message, error.metadata, error.retry_ms)
    if isinstance(error, RecordError):
        _log.error("the journal failed", exc_info=error)
        return _status("RECORD_FAILED", "The journal of decisions cannot be used now; retry with the same id.", {})
    incident_id = uuid.uuid4().hex
    _log.error("unforeseen error", exc_info=error, extra={"incident_id": incident_id})
    kind = "The engine failed" if isinstance(error, AssayError) else "An unforeseen error happened"
    message = f"{kind}; the server's log has it under incident {incident_id}."
    return _status("INTERNAL", message, {"incident_id": incident_id})


def _bad_request(error: RequestError, prefix: str) -> Status:
    bad, lines, told, count = BadRequest(), "", 0, len(error.violations)
    for index, violation in enumerate(error.violations):
        bad.field_violations.add(field=prefix + violation.field, description=violation.description)
        if index and bad.ByteSize() > _DETAILS_BYTES_MAX:
            del bad.field_violations[-1]
            break
        line = f"{prefix}{violation.field} {violation.description}"
        if len((lines + line).encode()) <= _MESSAGE_BYTES_MAX:
            lines += f"; {line}" if lines else line
            told += 1
    noun = "field is" if count == 1 else "fields are"
    if told < count:
        lines += f"{'; and ' if told else ''}{count - told} more" if told else "see the details"
    message = f"{count} {noun} at fault: {lines}."
    status = _status(error.reason, message, {"fields": str(count), **error.metadata})
    _pack(status, bad)
    return status


def _status(reason: str, message: str, metadata: dict[str, str], retry_ms: int | None = None) -> Status:
    status = Status(code=_CODES[reason].value[0], message=message)
    _pack(status, ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    if retry_ms is None:
        retry_ms = _RETRY_AFTER_MS.get(reason)
    if retry_ms is not None:
        _pack(status, RetryInfo(retry_delay=Duration(seconds=retry_ms // 1000, nanos=retry_ms % 1000 * 1_000_000)))
    return status


def _pack(status: Status, detail: BadRequest | ErrorInfo | RetryInfo) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def word_of(status: Status) -> tuple[str, str]:
    """The name of a status' code and the ErrorReason that it gives."""
    info = ErrorInfo()
    reason = next((info.reason for detail in status.details if detail.Unpack(info)), "INTERNAL")
    return _BY_NUMBER[status.code].name, reason


def abort(context: grpc.ServicerContext, status: Status, trailing: tuple[tuple[str, str], ...] = ()) -> NoReturn:
    """Ends the call with a status. trailing: metadata that goes with it. Always raises."""
    context.set_trailing_metadata((*trailing, ("grpc-status-details-bin", status.SerializeToString())))
    context.abort(_BY_NUMBER[status.code], status.message)
    raise AssertionError("unreachable")
