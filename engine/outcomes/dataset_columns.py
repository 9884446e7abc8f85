"""The columns of a data set: what each holds, where it comes from, and when it was known.

Everything that a model may be trained on is read from the record of the decision, as it was then. What was known only
later has the role `label` or `after`, so that nobody takes it for an input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1.decision_record_pb2 import DecisionRecord, FeatureFact, ValueOrigin
from engine.errors import AssayError
from engine.outcomes.figures import COMPONENTS, VERDICTS
from engine.outcomes.labels import Label, State, moment_of
from engine.outcomes.rows import arm_of

Type = Literal["text", "float", "integer", "flag", "moment"]
Role = Literal["id", "context", "feature", "score", "label", "after"]
PARTS = ("used", "read", "status", "age", "origin")
_DAY_US = 86_400_000_000
_KINDS: dict[str, Type] = {
    "float": "float",
    "integer": "integer",
    "boolean": "flag",
    "category": "text",
    "timestamp": "moment",
}


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


def fixed_columns() -> list[Column]:
    """The columns that every data set begins with."""
    return [
        Column("decision_id", "text", "id", "The engine's id of the decision.", lambda t: _decision(t).decision_id),
        Column("decided_at", "moment", "context", "When it was decided.", lambda t: _decided(t)),
        Column("flow", "text", "context", "The flow that decided.", lambda t: _decision(t).flow),
        Column("arm", "text", "context", "The arm of the experiment that decided.", lambda t: arm_of(t.record)),
        Column("bundle", "text", "context", "The bundle's name.", lambda t: _decision(t).bundle.name),
        Column("bundle_version", "text", "context", "The bundle's version.", lambda t: _decision(t).bundle.version),
        Column("bundle_digest", "text", "context", "The digest of the bundle.", lambda t: _decision(t).bundle.digest),
        Column("engine_version", "text", "context", "The engine's version.", lambda t: t.record.engine_version),
        Column(
            "verdict",
            "text",
            "context",
            "What the engine decided. It follows from the features and scores: no input of a model.",
            lambda t: VERDICTS.get(_decision(t).verdict),
        ),
        Column(
            "deciding_components",
            "text",
            "context",
            "The components that the verdict turned on, joined by +.",
            lambda t: "+".join(COMPONENTS.get(one, "") for one in _decision(t).deciding_components),
        ),
        Column("product", "text", "context", "The product applied for.", lambda t: t.record.application.product),
        Column("amount", "float", "feature", "The amount applied for.", lambda t: _money(t.record.application, "amount"), "currency"),
        Column("currency", "text", "context", "The currency of all amounts.", lambda t: t.record.application.amount.currency_code),
        Column("term_months", "integer", "feature", "The term applied for.", lambda t: t.record.application.term_months, "months"),
        Column("offer_amount", "float", "context", "The amount offered.", lambda t: _money(_decision(t).offer, "amount"), "currency"),
        Column("offer_term_months", "integer", "context", "The term offered.", lambda t: _decision(t).offer.term_months or None, "months"),
        Column(
            "offer_annual_rate_percent",
            "float",
            "context",
            "The nominal rate offered.",
            lambda t: _decision(t).offer.annual_rate_percent if _decision(t).HasField("offer") else None,
            "percent",
        ),
    ]  # fmt: skip


def score_columns(models: Iterable[str]) -> list[Column]:
    """What each model said at the decision."""
    found = []
    for model in models:

        def of(told: Told, name: str, model: str = model) -> object:
            for score in told.record.decision.scores:
                if score.model == model and score.status == pb.SCORE_STATUS_OK:
                    return getattr(score, name) if name == "version" or score.HasField(name) else None
            return None

        types: dict[str, tuple[Type, str]] = {
            "raw": ("float", "before calibration; rises with risk"),
            "probability": ("float", "calibrated probability of the bad event"),
            "points": ("integer", "scaled score"),
            "version": ("text", "version of the model"),
        }
        for name, (kind, meaning) in types.items():
            take = _taking(of, name)
            found.append(Column(f"score.{model}.{name}", kind, "score", f"{model}: {meaning}.", take))
    return found


def _taking(of: Callable[[Told, str], object], name: str) -> Callable[[Told], object]:
    return lambda told: of(told, name)


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
        Column(f"{base}.read", kind, "feature", "The value that was read, also where it was not used.", value("value_read"), unit),
        Column(f"{base}.status", "text", "feature", "What was known of it.", status),
        Column(f"{base}.age_days", "float", "feature", "How old it was.", age, "days"),
        Column(f"{base}.origin", "text", "feature", "Where it came from.", origin),
    ]  # fmt: skip


def label_columns(meaning: str, as_of: str) -> list[Column]:
    """What was known later, by a moment. meaning: the definition of bad."""
    by = f"as known at {as_of}"
    return [
        Column("bad", "flag", "label", f"{meaning}, {by}. Absent without a label.", lambda t: _flag(t.credit)),
        Column("label_state", "text", "label", f"What can be said of repayment, {by}.", lambda t: t.credit.state.name.lower()),
        Column("label_at", "moment", "label", "When it went bad, or when the window ended.", lambda t: _moment(t.credit.at_us)),
        Column("label_known_at", "moment", "label", "When the outcome that says so was recorded.", lambda t: _moment(t.credit.known_us)),
        Column("loss", "float", "label", f"What was lost, {by}.", lambda t: t.loss, "currency"),
        Column("fraud", "flag", "label", f"Confirmed fraud, {by}. Absent without a label.", lambda t: _flag(t.fraud)),
        Column("fraud_state", "text", "label", f"What can be said of fraud, {by}.", lambda t: t.fraud.state.name.lower()),
        Column("after.override", "text", "after", f"A person's verdict, {by}.", lambda t: VERDICTS.get(t.override)),
        Column("after.taken_up", "flag", "after", f"Whether the offer was taken up, {by}.", lambda t: t.taken_up),
    ]  # fmt: skip


def listing_of(catalogue: bytes) -> dict[str, Any]:
    """A slot list. Raises DatasetError."""
    try:
        listing = json.loads(catalogue)
        if not all(entry["type"] in _KINDS and entry["name"] for entry in listing["features"]):
            raise ValueError("a type that is not known")
        return dict(listing)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"the slot list of a decision cannot be read: {error}") from error


def _decision(told: Told) -> pb.Decision:
    return told.record.decision


def _decided(told: Told) -> datetime:
    return moment_of(told.record.decision.decided_at.ToMicroseconds())


def _money(message: Any, name: str) -> float | None:
    if not message.HasField(name):
        return None
    money = getattr(message, name)
    return float(money.units + money.nanos / 1e9)


def _moment(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else moment_of(moment_us)


def _flag(label: Label) -> bool | None:
    return label.state is State.BAD if label.state in (State.BAD, State.GOOD) else None


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
