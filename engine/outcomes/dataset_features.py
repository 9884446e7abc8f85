"""The columns of a data set that hold features, as they were at the decision."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1.decision_record_pb2 import ValueOrigin
from engine.outcomes.dataset_column import Column, DatasetError, Told, Type
from engine.outcomes.labels import moment_of

PARTS = ("used", "read", "status", "age", "origin")
_DAY_US = 86_400_000_000
_KINDS: dict[str, Type] = {
    "float": "float",
    "integer": "integer",
    "boolean": "flag",
    "category": "text",
    "timestamp": "moment",
}


def feature_columns(listings: Iterable[Mapping[str, Any]], parts: Iterable[str]) -> list[Column]:
    """The features of all slot lists, by name. Raises DatasetError for one that has two types."""
    entries: dict[str, Mapping[str, Any]] = {}
    for listing in listings:
        for entry in listing["features"]:
            first = entries.setdefault(entry["name"], entry)
            if first["type"] != entry["type"]:
                raise DatasetError(
                    f"feature {entry['name']} is of type {first['type']} in one bundle and {entry['type']} in another: "
                    "export their decisions apart, by --flow, --since and --until"
                )
    wanted = tuple(parts)
    found = []
    for name, entry in entries.items():
        found += [one for one in _columns_of(name, entry) if one.name.removeprefix(f"feature.{name}") in _ends(wanted)]
    return found


def _ends(parts: Iterable[str]) -> set[str]:
    ends = {"used": "", "read": ".read", "status": ".status", "age": ".age_days", "origin": ".origin"}
    return {ends[part] for part in parts}


def _columns_of(name: str, entry: Mapping[str, Any]) -> list[Column]:
    kind, unit = _KINDS[entry["type"]], entry.get("unit", "")
    where = f"view {entry['view']}" if entry.get("view") else "request or derived"
    purpose = f"; purpose {entry['purpose']}" if entry.get("purpose") else ""

    def value(field: str) -> Callable[[Told], object]:
        def take(told: Told) -> object:
            fact = told.facts.get(name)
            if fact is None or not fact.HasField(field):  # type: ignore[arg-type]
                return None
            return _typed(getattr(fact, field), kind, told.categories.get(name, []))

        return take

    def status(told: Told) -> object:
        fact = told.facts.get(name)
        return None if fact is None else pb.FeatureStatus.Name(fact.status).removeprefix("FEATURE_STATUS_").lower()

    def age(told: Told) -> object:
        fact = told.facts.get(name)
        return None if fact is None or not fact.HasField("age") else fact.age.ToMicroseconds() / _DAY_US

    def origin(told: Told) -> object:
        fact = told.facts.get(name)
        return None if fact is None else ValueOrigin.Name(fact.origin).removeprefix("VALUE_ORIGIN_").lower()

    base = f"feature.{name}"
    return [
        Column(base, kind, "feature", f"The value that was used ({where}{purpose}).", value("value"), unit),
        Column(
            f"{base}.read",
            kind,
            "feature",
            "The value that was read, also where it was not used.",
            value("value_read"),
            unit,
        ),
        Column(f"{base}.status", "text", "feature", "What was known of it.", status),
        Column(f"{base}.age_days", "float", "feature", "How old it was.", age, "days"),
        Column(f"{base}.origin", "text", "feature", "Where it came from.", origin),
    ]


def listing_of(catalogue: bytes) -> dict[str, Any]:
    """A slot list. Raises DatasetError."""
    try:
        listing = json.loads(catalogue)
        if not all(entry["type"] in _KINDS and entry["name"] for entry in listing["features"]):
            raise ValueError("a type that is not known")
        return dict(listing)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"the slot list of a decision cannot be read: {error}") from error


def _typed(number: float, kind: Type, categories: list[str]) -> object:
    """A slot's number as the feature's own type."""
    if not math.isfinite(number):
        return None
    if kind == "text":
        return categories[int(number)] if 0 <= number < len(categories) else f"{number:g}"
    if kind == "flag":
        return number != 0
    if kind == "integer":
        return round(number)
    if kind == "moment":
        return moment_of(round(number * 1e6))
    return number
