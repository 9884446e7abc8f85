"""What every method of every service does with what it is handed."""

from __future__ import annotations

import time
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from engine.errors import FieldViolation, RequestError

# gRPC answers with a very large number when the caller set no deadline.
_NO_DEADLINE_S = 86_400.0

M = TypeVar("M", bound=Message)


def parse(kind: type[M], content: bytes) -> M:
    """A request from its bytes. Raises RequestError."""
    try:
        return kind.FromString(content)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise RequestError([FieldViolation("", f"the bytes are no {name}; check the stubs' version")]) from error


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """The caller's deadline on `time.monotonic()`; None without one."""
    remaining_s = context.time_remaining()
    return None if remaining_s > _NO_DEADLINE_S else time.monotonic() + remaining_s
