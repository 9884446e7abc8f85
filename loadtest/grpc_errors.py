"""What a failed call, or a failed item of a batch or stream, says: google.rpc.ErrorInfo and RetryInfo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"
_RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call failed. reason: of ErrorInfo, or the status code's name where there is none; retry_after_s: of
    RetryInfo, None without; shed: refused because the server had too much to do."""

    reason: str
    retry_after_s: float | None
    shed: bool


def of_status(status: status_pb2.Status) -> Failure:
    """The failure of an item."""
    reason, retry_after_s = "", None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    name = _NAMES.get(status.code, str(status.code))
    return Failure(reason or f"{name} (no ErrorInfo)", retry_after_s, status.code == _RESOURCE_EXHAUSTED)


def of_error(error: grpc.RpcError) -> Failure:
    """The failure of a call. One that did not come from the server, or says nothing more, goes by its status code."""
    # Both grpc.Call and grpc.aio.AioRpcError have these, and no type in common that says so.
    call: Any = error
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS:
            return of_status(status_pb2.Status.FromString(value))
    code: grpc.StatusCode = call.code()
    return Failure(f"{code.name} (no ErrorInfo)", None, code is grpc.StatusCode.RESOURCE_EXHAUSTED)
