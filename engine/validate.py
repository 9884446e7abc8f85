"""The validate stage: a request is either whole and in bounds, or refused with every field at fault at once.

NaN, infinity, amounts of zero or less, unknown names and oversized strings end here; nothing of them reaches a model.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Any

from engine.domain.application import ValidApplication
from engine.errors import FieldViolation, RequestError
from engine.features.plan import FeaturePlan, FieldPlan
from engine.plan import BundlePlan, FlowPlan

if TYPE_CHECKING:
    from assay.decision.v1.decision_pb2 import Application
    from assay.decision.v1.decision_service_pb2 import DecideRequest

ID_LENGTH_MAX = 128
FIELDS_MAX = 256
ENTITIES_MAX = 32
_INT_EXACT_MAX = 2**53
# Clocks of two machines differ a little; a moment this far ahead is still "now".
_CLOCK_SKEW_US = 5 * 60 * 1_000_000
_NANOS = 1_000_000_000
_NAN = math.nan

is_id = re.compile(r"[A-Za-z0-9._:@-]{1,128}").fullmatch
# The same of several, a line each: one search costs less than several.
_are_ids = re.compile(r"[A-Za-z0-9._:@-]{1,128}(?:\n[A-Za-z0-9._:@-]{1,128})*").fullmatch
_is_name = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch
_ID_RULE = f"1 to {ID_LENGTH_MAX} characters of A-Z a-z 0-9 . _ : @ -"


def validate(bundle: BundlePlan, request: DecideRequest, now_us: int) -> tuple[FlowPlan, ValidApplication]:
    """Finds the flow and checks every field. Raises RequestError with all violations."""
    bad: list[FieldViolation] = []
    request_id = request.request_id
    if is_id(request_id) is None:
        bad.append(_id_violation("request_id", request_id))
    language = request.language or bundle.languages[0]
    if language not in bundle.languages:
        bad.append(FieldViolation("language", f"is not one of {', '.join(bundle.languages)}"))
    application = request.application
    product, moment = application.product, application.moment or "application"
    flow = bundle.flows.get(f"{product}.{moment}")
    if flow is None:
        bad += _unknown_flow(bundle, application)
        bad += _without_flow(application)
        metadata = {"known": ",".join(bundle.flows)}
        if _is_name(product) and _is_name(moment):
            metadata["flow"] = f"{product}.{moment}"
        raise RequestError(bad, "UNKNOWN_FLOW" if product else "INVALID_REQUEST", metadata)

    amount_minor = _amount(flow, application, bad)
    term = application.term_months
    if term not in flow.terms_months:
        offered = ", ".join(str(t) for t in flow.terms_months)
        bad.append(FieldViolation("application.term_months", f"must be one of {offered}; it is {term}"))
    entity_ids = _entities(flow, application, bad)
    values, sent = _fields(flow.features, flow, application, bad)
    submitted_at_us = None
    if application.HasField("submitted_at"):
        submitted_at_us = _moment_us("application.submitted_at", application.submitted_at, bad)
        if submitted_at_us is not None and submitted_at_us > now_us + _CLOCK_SKEW_US:
            bad.append(FieldViolation("application.submitted_at", "lies in the future; check the caller's clock"))
    if bad:
        raise RequestError(bad)
    return flow, ValidApplication(
        request_id, language, amount_minor, term, tuple(entity_ids), tuple(values), tuple(sent), submitted_at_us
    )


def _id_violation(path: str, value: str) -> FieldViolation:
    if not value:
        return FieldViolation(path, f"is required: {_ID_RULE}")
    if len(value) > ID_LENGTH_MAX:
        return FieldViolation(path, f"is {len(value)} characters long; it must be {_ID_RULE}")
    return FieldViolation(path, f"holds a character that is not allowed; it must be {_ID_RULE}")


def _unknown_flow(bundle: BundlePlan, application: Application) -> list[FieldViolation]:
    if not application.product:
        return [FieldViolation("application.product", f"is required; products: {', '.join(_products(bundle))}")]
    if application.product not in _products(bundle):
        hint = _nearest(application.product, _products(bundle))
        return [FieldViolation("application.product", f"is not a product of the bundle in service{hint}")]
    moments = [f.moment for f in bundle.flows.values() if f.product == application.product]
    return [FieldViolation("application.moment", f"is not decided for this product; moments: {', '.join(moments)}")]


def _products(bundle: BundlePlan) -> list[str]:
    return sorted({f.product for f in bundle.flows.values()})


def _without_flow(application: Application) -> list[FieldViolation]:
    """What can be said of an application whose flow is not known."""
    bad: list[FieldViolation] = []
    if not application.HasField("amount"):
        bad.append(FieldViolation("application.amount", "is required"))
    if application.term_months <= 0:
        bad.append(FieldViolation("application.term_months", "must be more than zero"))
    if is_id(application.subject.id) is None:
        bad.append(_id_violation("application.subject.id", application.subject.id))
    return bad


def _amount(flow: FlowPlan, application: Application, bad: list[FieldViolation]) -> int:
    path = "application.amount"
    if not application.HasField("amount"):
        bad.append(FieldViolation(path, "is required"))
        return 0
    minor = _money(path, application.amount, flow, bad)
    if minor is None:
        return 0
    if minor <= 0:
        bad.append(FieldViolation(path, "must be more than zero"))
    elif not flow.amount_min_minor <= minor <= flow.amount_max_minor:
        low, high = flow.amount_min_minor // flow.minor_per_major, flow.amount_max_minor // flow.minor_per_major
        bad.append(FieldViolation(path, f"must be between {low} and {high} {flow.currency}"))
    return minor


def _money(path: str, money: Any, flow: FlowPlan, bad: list[FieldViolation]) -> int | None:
    """Whole minor units; None, with a violation noted, for what is no amount of the flow's currency."""
    units, nanos = money.units, money.nanos
    if money.currency_code != flow.currency:
        given = repr(money.currency_code[:8]) if money.currency_code else "absent"
        bad.append(FieldViolation(f"{path}.currency_code", f"must be {flow.currency}; it is {given}"))
        return None
    if not -_NANOS < nanos < _NANOS or (units > 0 > nanos) or (units < 0 < nanos):
        bad.append(FieldViolation(f"{path}.nanos", "must be within 999999999 of zero and of the sign of units"))
        return None
    nanos_per_minor = _NANOS // flow.minor_per_major
    if nanos % nanos_per_minor:
        bad.append(FieldViolation(f"{path}.nanos", f"must be whole 1/{flow.minor_per_major} {flow.currency}"))
        return None
    if not -(10**15) < units < 10**15:
        bad.append(FieldViolation(f"{path}.units", "is too large"))
        return None
    return int(units * flow.minor_per_major + nanos // nanos_per_minor)


def _entities(flow: FlowPlan, application: Application, bad: list[FieldViolation]) -> list[str | None]:
    subject = application.subject
    subject_id = subject.id
    if is_id(subject_id) is None:
        bad.append(_id_violation("application.subject.id", subject_id))
    if subject.kind not in (0, flow.subject_kind):
        wanted = "SUBJECT_KIND_PERSON" if flow.subject_kind == 1 else "SUBJECT_KIND_COMPANY"
        bad.append(FieldViolation("application.subject.kind", f"must be {wanted} for this product, or absent"))
    places = flow.features.entity_places
    ids: list[str | None] = [None] * (1 + len(places))
    ids[0] = subject_id
    entities = application.entities
    if len(entities) > ENTITIES_MAX:
        bad.append(FieldViolation("application.entities", f"has more than {ENTITIES_MAX} entries"))
        return ids
    found = []
    for entity in entities:
        place = places.get(entity.entity)
        if place is None or ids[place] is not None:
            return _entities_at_fault(flow, application, bad)
        ids[place] = entity_id = entity.id
        found.append(entity_id)
    lines = "\n".join(found)
    if found and (lines.count("\n") != len(found) - 1 or _are_ids(lines) is None):
        return _entities_at_fault(flow, application, bad)
    return ids


def _entities_at_fault(flow: FlowPlan, application: Application, bad: list[FieldViolation]) -> list[str | None]:
    """The same where something is wrong with them: every violation."""
    places = flow.features.entity_places
    ids: list[str | None] = [application.subject.id] + [None] * len(places)
    for index, entity in enumerate(application.entities):
        name, entity_id = entity.entity, entity.id
        place = places.get(name)
        if place is None:
            hint = _nearest(name, places)
            path = f"application.entities[{index}].entity"
            bad.append(FieldViolation(path, f"is not an entity that this flow reads{hint}"))
            if is_id(entity_id) is None:
                bad.append(_id_violation(f"application.entities[{index}].id", entity_id))
            continue
        if ids[place] is not None:
            bad.append(FieldViolation(f"application.entities[{index}].entity", f"{name!r} is named twice"))
        if is_id(entity_id) is None:
            bad.append(_id_violation(f"application.entities[{index}].id", entity_id))
        ids[place] = entity_id
    return ids


def _fields(
    plan: FeaturePlan, flow: FlowPlan, application: Application, bad: list[FieldViolation]
) -> tuple[list[float], list[tuple[int, float]]]:
    request = [_NAN] * plan.request_count
    sent: list[tuple[int, float]] = []
    fields = application.fields
    if len(fields) > FIELDS_MAX:
        bad.append(FieldViolation("application.fields", f"has more than {FIELDS_MAX} entries"))
        return request, sent
    known, start = plan.fields, plan.request_start
    for name in fields:
        field = known.get(name)
        if field is None:
            hint = _nearest(name, known)
            bad.append(FieldViolation(_field_path(name), f"is not a field of this flow{hint}"))
            continue
        value, feature = fields[name], field.feature
        kind, number = feature.kind, None
        # What nearly every request sends; all else, and whatever is at fault, is looked at in full.
        if kind == "float":
            if value.HasField("number"):
                number = value.number
        elif kind == "integer":
            if value.HasField("integer") and -_INT_EXACT_MAX <= value.integer <= _INT_EXACT_MAX:
                number = float(value.integer)
        elif kind == "boolean" and value.HasField("flag"):
            number = float(value.flag)
        # NaN is in no range; infinity less infinity is NaN.
        if number is None or not (feature.lower <= number <= feature.upper and number - number == 0.0):
            number = _number(name, field, value, flow, bad)
            if number is None:
                continue
        slot = field.slot
        if slot >= start:
            request[slot - start] = number
        else:
            sent.append((slot, number))
    for name in plan.required_fields:
        if name not in fields:
            bad.append(FieldViolation(_field_path(name), "is required"))
    return request, sent


def _field_path(name: str) -> str:
    shown = name if len(name) <= 64 else name[:61] + "..."
    return f'application.fields["{shown}"]'


# Which kinds of Value fit which type of feature.
_FITS = {
    "float": {"number", "integer", "money"},
    "integer": {"integer"},
    "boolean": {"flag"},
    "category": {"text"},
    "timestamp": {"time"},
}


def _number(name: str, field: FieldPlan, value: Any, flow: FlowPlan, bad: list[FieldViolation]) -> float | None:
    """The value as the slot's number; None, with a violation noted, when it does not fit."""
    kind = value.WhichOneof("kind")
    feature = field.feature
    path = _field_path(name)
    if kind is None:
        bad.append(FieldViolation(path, "has no value set; leave the field out to say that it is not known"))
        return None
    if kind not in _FITS[feature.kind] or (kind == "money" and not feature.unit.startswith(flow.currency)):
        wanted = " or ".join(sorted(_FITS[feature.kind]))
        bad.append(FieldViolation(f"{path}.{kind}", f"the field is of type {feature.kind}; set {wanted} instead"))
        return None
    number: float
    if kind == "text":
        code = field.categories.get(value.text)
        if code is None:
            shown = ", ".join(feature.categories[:20])
            bad.append(FieldViolation(f"{path}.text", f"must be one of {shown}"))
            return None
        return code
    if kind == "money":
        minor = _money(f"{path}.money", value.money, flow, bad)
        if minor is None:
            return None
        number = minor / flow.minor_per_major
    elif kind == "time":
        moment = _moment_us(f"{path}.time", value.time, bad)
        if moment is None:
            return None
        number = moment / 1e6
    elif kind == "integer":
        if abs(value.integer) > _INT_EXACT_MAX:
            bad.append(FieldViolation(f"{path}.integer", "is too large"))
            return None
        number = float(value.integer)
    else:
        number = float(value.number if kind == "number" else value.flag)
    if not math.isfinite(number):
        bad.append(FieldViolation(f"{path}.{kind}", "must be a finite number, not NaN or infinity"))
        return None
    if not feature.lower <= number <= feature.upper:
        unit = f" {feature.unit}" if feature.unit else ""
        bad.append(FieldViolation(f"{path}.{kind}", f"must be between {feature.lower:g} and {feature.upper:g}{unit}"))
        return None
    return number


def _moment_us(path: str, moment: Any, bad: list[FieldViolation]) -> int | None:
    seconds, nanos = moment.seconds, moment.nanos
    if not (-62_135_596_800 <= seconds <= 253_402_300_799 and 0 <= nanos < _NANOS):
        bad.append(FieldViolation(path, "is not a moment between the years 1 and 9999"))
        return None
    return int(seconds * 1_000_000 + nanos // 1000)


def _nearest(name: str, known: Any) -> str:
    """A hint at the nearest known name, or the list where it is short. What the caller sent is not repeated: it could
    be personal data."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:64], names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""
