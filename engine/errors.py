"""The errors of the engine.

    AssayError
    ├── BundleError          a bundle cannot be loaded; carries every Problem found
    ├── ConfigError          the settings cannot be used; carries every Problem found
    ├── RequestError         the request is at fault; carries every FieldViolation found
    ├── Refusal              the call cannot be answered for a named, foreseen cause
    ├── StoreError           a store failed, was late or answered nonsense
    ├── ModelError           a model's file or answer cannot be used
    └── RecordError          a decision could not be written to the journal

Nothing here knows of gRPC: `engine/rpc/status.py` alone turns these into status codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a bundle or in the settings, for the person who will mend it.

    file: the file, relative to the bundle or as given; place: where in it (a YAML path, a table row, a tensor);
    message: what is wrong; fix: what to do.
    """

    file: str
    place: str
    message: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.place}" if self.place else self.file
        return f"{where}: {self.message}. {self.fix}"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request at fault: its path (`application.fields["income"]`) and what to do about it."""

    field: str
    description: str


class AssayError(Exception):
    """The root of all errors that the engine raises on purpose."""


class _WithProblems(AssayError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


class BundleError(_WithProblems):
    """A bundle cannot be loaded."""


class ConfigError(_WithProblems):
    """The settings cannot be used."""


class RequestError(AssayError):
    """The request is at fault.

    reason: the name of the `ErrorReason`, without its prefix; violations: every field at fault; metadata: small
    facts for the caller's program. None of them holds a value that could be personal data.
    """

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        reason: str = "INVALID_REQUEST",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations)
        self.reason = reason
        self.metadata = dict(metadata or {})
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


@dataclass(slots=True)
class Refusal(AssayError):
    """A call that cannot be answered for a foreseen cause: `reason` is the name of the `ErrorReason`. retry_ms: after
    how long to try again; None: what goes with the reason."""

    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_ms: int | None = None

    def __str__(self) -> str:
        return self.message


class StoreError(AssayError):
    """A store failed, was late or answered nonsense."""


class ModelError(AssayError):
    """A model's file or answer cannot be used."""


class RecordError(AssayError):
    """A decision could not be written to the journal, or a journal cannot be read."""
