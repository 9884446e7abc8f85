"""Checks an outcome before it is recorded: everything that is wrong is told at once, and no value is repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from assay.decision.v1 import decision_pb2
from assay.outcome.v1 import outcome_pb2 as pb
from engine.errors import FieldViolation

KINDS = tuple(field.name for field in pb.Outcome.DESCRIPTOR.oneofs_by_name["kind"].fields)
NOTE_MAX = 1_000
CLOCK_SKEW_US = 5 * 60 * 1_000_000

_ID_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : @ -"
_is_id = re.compile(r"[A-Za-z0-9._:@-]{1,128}").fullmatch
_is_source = re.compile(r"[A-Za-z0-9._:@-]{1,64}").fullmatch
_is_code = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_is_type = re.compile(r"[a-z0-9_]{0,64}").fullmatch
_is_currency = re.compile(r"[A-Z]{3}").fullmatch
_NANOS = 1_000_000_000
_FIRST_S, _LAST_S = 0, 253_402_300_799

Violations = list[FieldViolation]


@dataclass(frozen=True, slots=True)
class KnownDecision:
    """What is known of the decision that an outcome is about. subject: its id, empty when the person was erased;
    currency: of the amount applied for, empty when that is not known any more."""

    decision_id: str
    request_id: str
    decided_us: int
    subject: str = ""
    currency: str = ""


def check_outcome(outcome: pb.Outcome, now_us: int) -> Violations:
    """What can be said of an outcome without its decision. Paths begin at the request ("outcome.observed_at")."""
    bad: Violations = []
    _check_id("outcome.outcome_id", outcome.outcome_id, bad)
    named = outcome.WhichOneof("decision")
    if named is None:
        bad.append(FieldViolation("outcome.decision_id", "is required, or request_id in its place"))
    else:
        _check_id(f"outcome.{named}", getattr(outcome, named), bad)
    if _is_source(outcome.source) is None:
        bad.append(FieldViolation("outcome.source", "is required: 1 to 64 characters of A-Z a-z 0-9 . _ : @ -"))
    if outcome.supersedes:
        _check_id("outcome.supersedes", outcome.supersedes, bad)
        if outcome.supersedes == outcome.outcome_id:
            bad.append(FieldViolation("outcome.supersedes", "must name another outcome than this one"))
    _check_observed_at(outcome, now_us, bad)
    kind = outcome.WhichOneof("kind")
    if kind is None:
        bad.append(FieldViolation("outcome.kind", f"is required: one of {', '.join(KINDS)}"))
    else:
        _CHECKS[kind](f"outcome.{kind}", outcome, bad)
    return bad


def check_against(outcome: pb.Outcome, decision: KnownDecision) -> Violations:
    """What the decision says of an outcome: times that cannot be, another currency."""
    bad: Violations = []
    if outcome.observed_at.ToMicroseconds() < decision.decided_us - CLOCK_SKEW_US:
        bad.append(FieldViolation("outcome.observed_at", "lies before the decision"))
    kind = outcome.WhichOneof("kind")
    if decision.currency and kind is not None:
        for name, money in _moneys(getattr(outcome, kind)):
            if money.currency_code != decision.currency:
                path = f"outcome.{kind}.{name}.currency_code"
                bad.append(FieldViolation(path, f"must be {decision.currency}, the currency of the decision"))
    return bad


def differing(first: Message, second: Message, path: str = "") -> list[str]:
    """The paths of the fields in which two messages of one type differ; no value of them."""
    found = []
    for field in first.DESCRIPTOR.fields:
        name = f"{path}{field.name}"
        mine, other = getattr(first, field.name), getattr(second, field.name)
        if field.message_type is not None:
            if first.HasField(field.name) != second.HasField(field.name):
                found.append(name)
            elif mine != other:
                deeper = field.message_type.full_name.startswith("assay.")
                found += differing(mine, other, f"{name}.") if deeper else [name]
        elif mine != other:
            found.append(name)
    return found


def _check_id(path: str, value: str, bad: Violations) -> None:
    if _is_id(value) is None:
        what = "holds a character that is not allowed, or too many" if value else "is required"
        bad.append(FieldViolation(path, f"{what}: {_ID_RULE}"))


def _check_observed_at(outcome: pb.Outcome, now_us: int, bad: Violations) -> None:
    path = "outcome.observed_at"
    if not outcome.HasField("observed_at"):
        bad.append(FieldViolation(path, "is required: the moment when this was true"))
        return
    moment = outcome.observed_at
    if not (_FIRST_S <= moment.seconds <= _LAST_S and 0 <= moment.nanos < _NANOS):
        bad.append(FieldViolation(path, "is no moment between the years 1970 and 9999"))
    elif moment.ToMicroseconds() > now_us + CLOCK_SKEW_US:
        bad.append(FieldViolation(path, "lies more than five minutes ahead; check the source's clock"))


def _moneys(message: Message) -> list[tuple[str, Any]]:
    """The amounts of money that are set, by name."""
    return [
        (field.name, value)
        for field, value in message.ListFields()
        if field.message_type is not None and field.message_type.full_name == "google.type.Money"
    ]


def _check_moneys(path: str, message: Message, bad: Violations) -> None:
    currencies = set()
    for name, money in _moneys(message):
        at = f"{path}.{name}"
        currencies.add(money.currency_code)
        if _is_currency(money.currency_code) is None:
            bad.append(FieldViolation(f"{at}.currency_code", "is required: three letters of ISO 4217"))
        if not 0 <= money.nanos < _NANOS or not 0 <= money.units < 10**15:
            bad.append(FieldViolation(at, "must be zero or more, and less than 10^15"))
    if len(currencies) > 1:
        bad.append(FieldViolation(path, "has amounts of several currencies; all must be of the loan's"))


def _check_status(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    if not 0 <= outcome.repayment_status.days_past_due <= 36_500:
        bad.append(FieldViolation(f"{path}.days_past_due", "must be between 0 and 36500"))
    _check_moneys(path, outcome.repayment_status, bad)


def _check_default(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    default = outcome.default
    _check_enum(f"{path}.cause", default.cause, pb.DefaultCause.values(), bad)
    if not 0 <= default.days_past_due <= 3_650:
        bad.append(FieldViolation(f"{path}.days_past_due", "must be between 0 and 3650"))
    elif default.cause == pb.DEFAULT_CAUSE_ARREARS and default.days_past_due == 0:
        bad.append(FieldViolation(f"{path}.days_past_due", "is required for ARREARS: the threshold of the definition"))
    if not 0 <= default.horizon_months <= 600:
        bad.append(FieldViolation(f"{path}.horizon_months", "must be between 0 and 600"))
    _check_moneys(path, default, bad)


def _check_fraud(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    finding = outcome.fraud_finding
    _check_enum(f"{path}.result", finding.result, pb.FraudResult.values(), bad)
    if _is_type(finding.type) is None:
        bad.append(FieldViolation(f"{path}.type", "must be at most 64 characters of a-z 0-9 _"))
    _check_moneys(path, finding, bad)


def _check_override(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    override = outcome.manual_override
    _check_enum(f"{path}.verdict", override.verdict, decision_pb2.Verdict.values(), bad)
    if _is_code(override.reason_code) is None:
        bad.append(FieldViolation(f"{path}.reason_code", "is required: 1 to 64 characters of A-Z a-z 0-9 . _ -"))
    if len(override.note) > NOTE_MAX:
        bad.append(FieldViolation(f"{path}.note", f"must have at most {NOTE_MAX:,} characters"))
    if _is_id(override.officer) is None:
        bad.append(FieldViolation(f"{path}.officer", f"is required, a pseudonym: {_ID_RULE}"))


def _check_take_up(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    _check_enum(f"{path}.result", outcome.take_up.result, pb.TakeUpResult.values(), bad)
    _check_moneys(path, outcome.take_up, bad)


def _check_retraction(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    del path
    if not outcome.supersedes:
        bad.append(FieldViolation("outcome.supersedes", "is required: the outcome that is taken back"))


def _check_enum(path: str, value: int, known: list[Any], bad: Violations) -> None:
    if value == 0 or value not in known:
        bad.append(FieldViolation(path, "is required, as one of the values of its type"))


def _check_nothing(path: str, outcome: pb.Outcome, bad: Violations) -> None:
    del path, outcome, bad


_CHECKS: dict[str, Callable[[str, pb.Outcome, Violations], None]] = {
    "repayment_status": _check_status,
    "repaid_in_full": _check_nothing,
    "default": _check_default,
    "fraud_finding": _check_fraud,
    "manual_override": _check_override,
    "take_up": _check_take_up,
    "retraction": _check_retraction,
}
