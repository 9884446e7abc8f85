"""The trace context of a call: what the caller sent (W3C Trace Context), new ids, whether to record, and the context
that ordinary OpenTelemetry spans made during the call nest under.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.telemetry.tracing.settings import Sampler

_traceparent = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_TRACESTATE_MAX = 512
_TRACESTATE_MEMBERS_MAX = 32
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_member = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]").fullmatch
SAMPLED = 1
_RANDOM_BITS = 56
# A plain tuple is made twice as fast.
_new = tuple.__new__

# A generator of our own: whoever seeds the shared one for a test or a model must not make ids repeat. A fork would
# leave parent and child with the same numbers to come.
_random = random.Random(os.urandom(32))
_bits = _random.getrandbits
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


class CallContext(NamedTuple):
    """Where a call stands: its trace, its own span's id, the caller's span (None without), tracestate and flags."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    tracestate: str | None
    flags: int

    @property
    def traceparent(self) -> str:
        """The header for calls that this call makes."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{self.flags:02x}"


def new_span_id() -> bytes:
    """8 random bytes, not all zero."""
    return (_bits(64) or 1).to_bytes(8, "big")


def begin(traceparent: str | None = None, tracestate: str | None = None) -> CallContext:
    """The context of a call that has just come in. Headers that make no sense are as good as none.

    tracestate: all headers of that name, joined with commas.
    """
    if traceparent is not None:
        match = _traceparent(traceparent)
        if match is not None:
            version, trace, parent, flags, rest = match.groups()
            # A later version may have more to say, and begins with what this one says; 255 is none.
            if trace != _NO_TRACE and parent != _NO_SPAN and version != "ff" and (rest is None or version != "00"):
                state = parse_tracestate(tracestate) if tracestate else None
                known = int(flags, 16) & 3
                return _new(CallContext, (bytes.fromhex(trace), new_span_id(), bytes.fromhex(parent), state, known))
    ids = _bits(192).to_bytes(24, "big")
    return _new(CallContext, (ids[:16], ids[16:], None, None, SAMPLED))


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> CallContext:
    """The context of a call by its metadata (gRPC's: names in small letters)."""
    traceparent = tracestate = None
    for name, value in metadata:
        if name == "traceparent":
            # Twice is once too often: nobody can say which is meant.
            traceparent = "" if traceparent is not None or isinstance(value, bytes) else value
        elif name == "tracestate" and isinstance(value, str):
            tracestate = value if tracestate is None else f"{tracestate},{value}"
    return begin(traceparent, tracestate)


def parse_tracestate(text: str) -> str | None:
    """The list as it is passed on: members apart by a comma alone. None for a list that breaks W3C's rules, which is
    to be dropped whole."""
    if len(text) > _TRACESTATE_MAX:
        return None
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _TRACESTATE_MEMBERS_MAX or len(keys) != len(members) or not all(map(_member, members)):
        return None
    return ",".join(members) or None


@dataclass(frozen=True, slots=True)
class HeadRule:
    """Whether a call is recorded at all, known when it begins; the tail rule has the last word.

    sampler: by OpenTelemetry's names. `always_on` records every call, also those whose caller does not sample: a
    lender needs the trace of each decision, whoever asked for it. The `parentbased_*` go by the caller's flag where
    there is a caller; `traceidratio` by the trace id.
    """

    sampler: Sampler = "always_on"
    ratio: float = 1.0

    def records(self, call: CallContext) -> bool:
        """Whether this call is recorded."""
        sampler = self.sampler
        if sampler == "always_on":
            return True
        if sampler.startswith("parentbased_") and call.parent_id is not None:
            return bool(call.flags & SAMPLED)
        if sampler.endswith("always_on"):
            return True
        if sampler.endswith("always_off"):
            return False
        random_part = int.from_bytes(call.trace_id[-(_RANDOM_BITS // 8) :], "big")
        return random_part >= (1.0 - self.ratio) * (1 << _RANDOM_BITS)


def publish(call: CallContext, span_id: bytes | None = None) -> object | None:
    """Makes a call's span (or a stage's, by its id) the current one for OpenTelemetry's API in this thread, so that
    spans which plug-ins make nest under it. Costs a look into a dict while nothing in the process uses OpenTelemetry.

    Gives what `withdraw` takes.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None or not hasattr(trace, "NonRecordingSpan"):  # still being imported by another thread
        return None
    from opentelemetry import context

    state = trace.TraceState.from_header([call.tracestate]) if call.tracestate else None
    span_context = trace.SpanContext(
        int.from_bytes(call.trace_id, "big"),
        int.from_bytes(span_id or call.span_id, "big"),
        False,
        # What is recorded here is sampled for those inside, whatever the caller's flag says.
        trace.TraceFlags(call.flags | SAMPLED),
        state,
    )
    token: object = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span_context)))
    return token


def withdraw(token: object | None) -> None:
    """Takes back what `publish` did. In the same thread, in the reverse order."""
    if token is not None:
        from opentelemetry import context

        context.detach(token)  # type: ignore[arg-type]
