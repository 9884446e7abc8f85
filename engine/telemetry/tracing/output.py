"""What every way out has in common: it turns records and spans into the form it wants, and takes batches of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from engine.telemetry.tracing.encode import encode_resource
from engine.telemetry.tracing.trace_record import Scope, Span, TraceRecord

Form = TypeVar("Form")


class Source:
    """A process that makes records: its resource, encoded once. Spans of one source travel together."""

    def __init__(self, resource: Mapping[str, Any]) -> None:
        self.resource = dict(resource)
        self.field = encode_resource(self.resource)


# Spans by who made them: the process, and in it the library.
Groups = Mapping[Source, Mapping[Scope, Sequence[Form]]]


class Output(Protocol[Form]):
    """One way out. All its methods are called from one thread."""

    def forms(self, record: TraceRecord) -> list[Form]:
        """The spans of a trace record, the server span first. Raises whatever a record at fault makes it raise."""

    def form(self, span: Span) -> Form:
        """A span that somebody else made. Raises as `forms`."""

    def export(self, groups: Groups[Form], spans: int) -> None:
        """Takes a batch of so many spans. Raises OSError when it cannot."""

    def close(self) -> None:
        """Lets go of everything."""
