"""The one error of the exporter: it names everything that is wrong with a model, its draft and its rows at once."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import AssayError, Problem


class ExportError(AssayError):
    """A model cannot be exported; `problems` holds every mistake found. No file is left behind."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


def refuse_if(problems: Sequence[Problem]) -> None:
    """Raise `ExportError` with all `problems`, or do nothing when there are none."""
    if problems:
        raise ExportError(problems)
