"""The columns of a data set: what each holds, where it comes from, and when it was known.

Everything that a model may be trained on is read from the record of the decision, as it was then. What was known only
later has the role `label` or `after`, so that nobody takes it for an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from assay.decision.v1 import decision_pb2 as pb
from engine.outcomes.dataset_column import Column, Told, Type
from engine.outcomes.figures import COMPONENTS, VERDICTS
from engine.outcomes.labels import Label, State, moment_of
from engine.outcomes.rows import arm_of


def fixed_columns() -> list[Column]:
    """The columns that every data set begins with."""
    return [
        Column("decision_id", "text", "id", "The engine's id of the decision.", lambda t: _decision(t).decision_id),
        Column("decided_at", "moment", "context", "When it was decided.", _decided),
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
        Column(
            "amount",
            "float",
            "feature",
            "The amount applied for.",
            lambda t: _money(t.record.application, "amount"),
            "currency",
        ),
        Column(
            "currency",
            "text",
            "context",
            "The currency of all amounts.",
            lambda t: t.record.application.amount.currency_code,
        ),
        Column(
            "term_months",
            "integer",
            "feature",
            "The term applied for.",
            lambda t: t.record.application.term_months,
            "months",
        ),
        Column(
            "offer_amount",
            "float",
            "context",
            "The amount offered.",
            lambda t: _money(_decision(t).offer, "amount"),
            "currency",
        ),
        Column(
            "offer_term_months",
            "integer",
            "context",
            "The term offered.",
            lambda t: _decision(t).offer.term_months or None,
            "months",
        ),
        Column(
            "offer_annual_rate_percent",
            "float",
            "context",
            "The nominal rate offered.",
            lambda t: _decision(t).offer.annual_rate_percent if _decision(t).HasField("offer") else None,
            "percent",
        ),
    ]


def score_columns(models: Iterable[str]) -> list[Column]:
    """What each model said at the decision."""
    found = []
    for model in models:

        def of(told: Told, name: str, model: str = model) -> object:
            for score in told.record.decision.scores:
                if score.model == model and score.status == pb.SCORE_STATUS_OK:
                    return getattr(score, name) if name == "version" or score.HasField(name) else None  # type: ignore[arg-type]
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


def label_columns(meaning: str, as_of: str) -> list[Column]:
    """What was known later, by a moment. meaning: the definition of bad."""
    by = f"as known at {as_of}"
    return [
        Column("bad", "flag", "label", f"{meaning}, {by}. Absent without a label.", lambda t: _flag(t.credit)),
        Column(
            "label_state",
            "text",
            "label",
            f"What can be said of repayment, {by}.",
            lambda t: t.credit.state.name.lower(),
        ),
        Column(
            "label_at",
            "moment",
            "label",
            "When it went bad, or when the window ended.",
            lambda t: _moment(t.credit.at_us),
        ),
        Column(
            "label_known_at",
            "moment",
            "label",
            "When the outcome that says so was recorded.",
            lambda t: _moment(t.credit.known_us),
        ),
        Column("loss", "float", "label", f"What was lost, {by}.", lambda t: t.loss, "currency"),
        Column("fraud", "flag", "label", f"Confirmed fraud, {by}. Absent without a label.", lambda t: _flag(t.fraud)),
        Column(
            "fraud_state", "text", "label", f"What can be said of fraud, {by}.", lambda t: t.fraud.state.name.lower()
        ),
        Column("after.override", "text", "after", f"A person's verdict, {by}.", lambda t: VERDICTS.get(t.override)),
        Column("after.taken_up", "flag", "after", f"Whether the offer was taken up, {by}.", lambda t: t.taken_up),
    ]


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
