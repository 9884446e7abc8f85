"""What a row of one view holds: names, kinds and units, and the fingerprint that tells one such schema from another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b


class Kind(StrEnum):
    """What a field holds."""

    FLOAT64 = "float64"
    INT64 = "int64"  # up to 2**53 either way: exact as a double
    BOOLEAN = "boolean"
    CATEGORY = "category"  # kept as its place in `Field.categories`
    STRING = "string"
    TIMESTAMP = "timestamp"  # kept as seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a row. Unit and category list belong to the schema: a change of either changes the meaning."""

    name: str
    kind: Kind
    unit: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowSchema:
    """The fields of one view, in order.

    Raises ValueError for a name that stands twice, and for categories that are missing, doubled or out of place.
    """

    view: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if not self.view or not names or len(set(names)) != len(names):
            raise ValueError(f"view {self.view!r} must have a name and fields, each once")
        for f in self.fields:
            if (f.kind is Kind.CATEGORY) != bool(f.categories) or len(set(f.categories)) != len(f.categories):
                raise ValueError(f"{self.view}.{f.name}: a category field alone lists its categories, each once")

    @cached_property
    def canonical(self) -> bytes:
        """The one JSON form of this schema, from which the fingerprint is taken."""
        fields = [[f.name, f.kind.value, f.unit, list(f.categories)] for f in self.fields]
        return json.dumps({"fields": fields, "layout": 1, "view": self.view}, separators=(",", ":")).encode("ascii")

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that no other schema has."""
        return fingerprint_of(self.canonical)

    @cached_property
    def numeric(self) -> tuple[Field, ...]:
        """The fields kept as doubles: slots 0 to len - 1."""
        return tuple(f for f in self.fields if f.kind is not Kind.STRING)

    @cached_property
    def strings(self) -> tuple[Field, ...]:
        """The fields kept as text: the slots after the numeric ones."""
        return tuple(f for f in self.fields if f.kind is Kind.STRING)

    @cached_property
    def slots(self) -> tuple[Field, ...]:
        """All fields in the order of their slots, which is the order of the presence bits."""
        return self.numeric + self.strings

    @classmethod
    def parse(cls, canonical: bytes) -> RowSchema:
        """A schema from its canonical form. Raises ValueError."""
        try:
            tree = json.loads(canonical)
            if tree["layout"] != 1:
                raise ValueError(f"layout {tree['layout']!r} is not known")
            fields = tuple(Field(n, Kind(k), u, tuple(c)) for n, k, u, c in tree["fields"])
            return cls(tree["view"], fields)
        except (KeyError, TypeError) as e:
            raise ValueError(f"no row schema: {e!r}") from e


def fingerprint_of(canonical: bytes) -> bytes:
    """The fingerprint of a canonical schema: BLAKE2b, eight bytes."""
    return blake2b(canonical, digest_size=8).digest()


def view_of(canonical: bytes) -> str:
    """The view that a canonical schema, of rows or of counters, is of; "" where it is none."""
    try:
        view = json.loads(canonical)["view"]
    except (ValueError, KeyError, TypeError):
        return ""
    return view if isinstance(view, str) else ""
