"""What a call can fail with: one class for each family of `assay.decision.v1.ErrorReason`.

    try:
        decision = client.decide(application)
    except errors.InvalidRequest as error:
        for violation in error.field_violations: ...
    except errors.AssayError as error:
        log(error.reason, error.request_id, error.trace_id)

A reason that this client does not know, of a newer server, has the class of its status code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "assay.decision.v1"
_DETAILS = "grpc-status-details-bin"
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class FieldViolation(NamedTuple):
    """One field at fault. field: its path, `application.fields["stated_monthly_income"].number`."""

    field: str
    description: str


class AssayError(Exception):
    """A call failed.

    code: the gRPC status. reason: the name of the ErrorReason, "" where gRPC itself or a gateway refused the call.
    message: for a person; may change. metadata: of the reason. field_violations: every field at fault.
    retry_after_s: after how long the server wants to be asked again, None where it said nothing. trace_id: of the
    failed attempt, 32 hexadecimal digits, "" where no server answered. host: the address that was asked, "" where none
    was. attempts: how often the call was sent, hedges not counted. request_id: what to ask again with, "" for calls
    without one. stopped_by: why no further attempt was made: "", "attempts", "budget" or "deadline".
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Iterable[FieldViolation] = (),
        retry_after_s: float | None = None,
        trace_id: str = "",
        host: str = "",
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_after_s, self.trace_id, self.host = retry_after_s, trace_id, host
        self.attempts, self.request_id, self.stopped_by = 1, "", ""

    @property
    def incident_id(self) -> str:
        """What finds an INTERNAL error in the server's log; "" for others."""
        return self.metadata.get("incident_id", "")

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is copied and pickled by its args alone otherwise, and has more to say.
        return _again, (type(self), self.__dict__)

    def __str__(self) -> str:
        facts = {"request id": self.request_id, "host": self.host, "trace": self.trace_id, "ended by": self.stopped_by}
        told = "".join(f"{name} {value}, " for name, value in facts.items() if value)
        head = f"{self.code.name}/{self.reason}" if self.reason else self.code.name
        return f"{head}: {self.message} ({told}attempts {self.attempts})"


def _again(kind: type[AssayError], facts: dict[str, Any]) -> AssayError:
    error = kind.__new__(kind, facts["message"])
    error.__dict__.update(facts)
    return error


class InvalidRequest(AssayError):
    """The request is at fault; `field_violations` says where. As it is, it fails again."""


class UnknownFlow(InvalidRequest):
    """No flow decides this product at this moment; `metadata["known"]` lists what there is."""


class IdReused(AssayError):
    """The request id or outcome id stands for something else already; `metadata["differs"]` names the fields."""


class NotFound(AssayError):
    """Nothing is stored under this id."""


class NotPossible(AssayError):
    """The server's state forbids it, and a repeat changes nothing: a person was erased, there are no counters."""


class Erased(NotPossible):
    """The request was decided and the person erased since."""


class AccessDenied(AssayError):
    """Whoever lets callers in (a gateway, TLS) does not let this one in."""


class Unavailable(AssayError):
    """The host has gone, drains, or cannot work now."""


class StoreUnavailable(Unavailable):
    """The feature store, which hosts share, failed."""


class Overloaded(AssayError):
    """More is asked than the server or the caller's quota takes; `retry_after_s` says when to come back."""


class InProgress(AssayError):
    """The same request id is being decided by another call right now."""


class DeadlineExceeded(AssayError):
    """There was no answer in time. The decision may have been made: ask again with the same request id."""


class Cancelled(AssayError):
    """The call was cancelled."""


class ServerFailed(AssayError):
    """The server met what it did not foresee; report `incident_id`."""


_BY_CODE: dict[grpc.StatusCode, type[AssayError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: IdReused,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: NotPossible,
    grpc.StatusCode.UNIMPLEMENTED: NotPossible,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.ABORTED: InProgress,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}
_BY_REASON: dict[str, type[AssayError]] = {
    "UNKNOWN_FLOW": UnknownFlow,
    "DECISION_ERASED": Erased,
    "STORE_UNAVAILABLE": StoreUnavailable,
}


def class_of(code: grpc.StatusCode, reason: str = "") -> type[AssayError]:
    """The class that a status is raised as."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ServerFailed)


def from_status(status: status_pb2.Status, *, trace_id: str = "", host: str = "") -> AssayError:
    """The error of a `google.rpc.Status`: of a whole call, or of one item of a batch or a stream."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    reason, metadata, violations, retry_after_s = "", {}, [], None
    for detail in status.details:
        if detail.Unpack(info):
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations += [FieldViolation(one.field, one.description) for one in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after_s = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    return class_of(code, reason)(
        code,
        status.message,
        reason=reason,
        metadata=metadata,
        field_violations=violations,
        retry_after_s=retry_after_s,
        trace_id=trace_id,
        host=host,
    )


def from_rpc(error: Any, host: str) -> AssayError:
    """The typed error of what grpc or grpc.aio raised. host: the address that was asked."""
    trailing: dict[str, Any] = dict(error.trailing_metadata() or ())
    trace = str(trailing.get("traceparent", "")).split("-")
    trace_id = trace[1] if len(trace) >= 4 else ""
    status = status_pb2.Status()
    try:
        status.MergeFromString(trailing.get(_DETAILS, b""))
    except Exception:  # a gateway's bytes under this name, which need not be a status
        status.Clear()
    # What gRPC says goes before what the details repeat: a proxy may have changed it.
    status.code, status.message = error.code().value[0], error.details() or status.message
    found = from_status(status, trace_id=trace_id, host=host)
    found.__cause__ = error
    return found
