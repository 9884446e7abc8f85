"""The W3C trace context of a call."""

from __future__ import annotations

import os
import re

import grpc

_traceparent = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}").fullmatch
_ZERO = "0" * 32


def trace_id_of(context: grpc.ServicerContext) -> str:
    """The trace id that the caller sent in `traceparent`, or a new one: 32 hexadecimal digits."""
    for key, value in context.invocation_metadata():
        if key == "traceparent" and isinstance(value, str):
            match = _traceparent(value)
            if match is not None and match[1] != _ZERO and match[2] != _ZERO[:16]:
                return match[1]
    return os.urandom(16).hex()
