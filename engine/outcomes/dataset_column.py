"""What one column of a data set is, and what its values are taken from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from assay.decision.v1.decision_record_pb2 import DecisionRecord, FeatureFact
from engine.errors import AssayError
from engine.outcomes.labels import Label

Type = Literal["text", "float", "integer", "flag", "moment"]
Role = Literal["id", "context", "feature", "score", "label", "after"]


class DatasetError(AssayError):
    """A data set cannot be made."""


@dataclass(frozen=True, slots=True)
class Told:
    """One decision with everything that its row is made of. loss: as last stated; override: a person's verdict, 0
    without one; taken_up: None where nobody said."""

    record: DecisionRecord
    facts: Mapping[str, FeatureFact]
    categories: Mapping[str, list[str]]
    credit: Label
    fraud: Label
    loss: float | None
    override: int
    taken_up: bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. known: `at the decision` or `later`."""

    name: str
    type: Type
    role: Role
    meaning: str
    take: Callable[[Told], object]
    unit: str = ""

    @property
    def known(self) -> str:
        """When its value was known."""
        return "later" if self.role in ("label", "after") else "at the decision"

    def entry(self) -> dict[str, str]:
        """Its entry in the dictionary of columns."""
        return {
            "name": self.name,
            "type": self.type,
            "role": self.role,
            "unit": self.unit,
            "known": self.known,
            "meaning": self.meaning,
        }
