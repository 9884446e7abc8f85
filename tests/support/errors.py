"""What a failed call said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True)
class Failure:
    """A failed call, unpacked. fields: description by path; retry_ms: of RetryInfo, None without."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    retry_ms: float | None = None

    @property
    def everything(self) -> str:
        """All text that left the server."""
        parts = [self.message, self.reason, *self.metadata.values(), *self.fields, *self.fields.values()]
        return "\n".join(parts)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def failure_of_status(status: status_pb2.Status) -> Failure:
    """The same for an item of a batch or stream."""
    found: dict[str, Any] = {}
    for detail in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            found |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
        elif detail.Unpack(bad):
            found["fields"] = {v.field: v.description for v in bad.field_violations}
        elif detail.Unpack(retry):
            found["retry_ms"] = retry.retry_delay.ToTimedelta().total_seconds() * 1000
    return Failure(_BY_NUMBER[status.code], status.message, **found)


def failure_of(error: grpc.RpcError) -> Failure:
    """Unpacks the status details of a failed call; without details only code and message are known."""
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            failure = failure_of_status(status_pb2.Status.FromString(value))
            assert failure.code == error.code()
            return failure
    return Failure(error.code(), error.details() or "")
