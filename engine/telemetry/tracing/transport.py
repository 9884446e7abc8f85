"""How a batch leaves, and what comes of it. OTLP's rules for failures are the same over gRPC and HTTP: some are to be
tried again later, the others never.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from engine.telemetry.tracing.wire import read_fields

_MESSAGE_MAX = 200


class Answer(NamedTuple):
    """What came of sending a batch.

    kind: `taken`; `later`: try again, after `wait_s` when the collector named a time; `refused`: never again.
    rejected: spans that the collector did not want although it took the batch. message: what it said.
    """

    kind: Literal["taken", "later", "refused"]
    message: str = ""
    wait_s: float | None = None
    rejected: int = 0


class Transport(Protocol):
    """One way to a collector. Used from one thread at a time."""

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Sends an ExportTraceServiceRequest. Never raises for anything that the network or the collector does."""

    def close(self) -> None:
        """Lets go of the connection; a `send` under way in another thread ends soon."""


def taken(response: bytes) -> Answer:
    """The answer that an ExportTraceServiceResponse is."""
    try:
        for number, partial in read_fields(response):
            if number == 1 and isinstance(partial, bytes):
                fields = dict(read_fields(partial))
                rejected, message = fields.get(1, 0), fields.get(2, b"")
                if isinstance(rejected, int) and isinstance(message, bytes):
                    return Answer("taken", shorten(message.decode("utf-8", "replace")), None, rejected)
    except ValueError:
        return Answer("taken", "the collector's answer is no ExportTraceServiceResponse")
    return Answer("taken")


def shorten(text: str) -> str:
    """The beginning of a foreign text, on one line."""
    return " ".join(text.split())[:_MESSAGE_MAX]
