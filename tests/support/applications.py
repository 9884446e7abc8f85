"""Requests and the rows behind them: an applicant with nothing against him, and ways to vary him."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Mapping
from typing import Any

from assay.decision.v1 import decision_service_pb2 as pb
from engine.bundle.rows import RowWriter
from engine.features.store import FeatureStore

from .bundles import shipped

DAY_US = 86_400_000_000

# Entities of the shipped consumer flow besides the subject.
ENTITIES = ("device", "phone", "email", "address", "employer", "ip", "agent")

# By view: what is known of a good applicant.
GOOD: dict[str, dict[str, Any]] = {
    "credit_file": {
        "revolving_utilization": 0.05,
        "past_due_30_59_count": 0,
        "past_due_60_89_count": 0,
        "past_due_90_count": 0,
        "open_credit_lines_count": 8,
        "real_estate_loans_count": 1,
        "debt_ratio": 0.15,
        "existing_monthly_payments": 600.0,
        "bankruptcy_open": False,
    },
    "applicant_file": {
        "age_years": 61,
        "dependents_count": 0,
        "verified_monthly_income": 9000.0,
        "employment_status": "employed",
    },
    "applicant_velocity": {
        "applicant_applications_count_24h": 0,
        "applicant_applications_count_30d": 0,
        "applicant_amount_sum_30d": 0.0,
        "applicant_devices_distinct_30d": 0,
        "applicant_phones_distinct_30d": 0,
        "applicant_since_last_application_seconds": 2_000_000.0,
    },
    "applicant_profile": {"identity_match_score": 96.0, "bureau_file_age_months": 240.0},
    "device_velocity": {
        "device_applications_count_1h": 0,
        "device_applications_count_24h": 0,
        "device_applicants_distinct_7d": 0,
        "device_amount_sum_7d": 0.0,
        "device_since_last_application_seconds": 2_000_000.0,
    },
    "device_profile": {"device_age_days": 900.0, "device_emulator_flag": False},
    "phone_velocity": {"phone_applications_count_7d": 0, "phone_applicants_distinct_30d": 0},
    "phone_profile": {"phone_age_days": 2500.0, "phone_voip_flag": False, "phone_name_match_flag": True},
    "email_velocity": {"email_applicants_distinct_30d": 0},
    "email_profile": {"email_age_days": 3000.0},
    "address_velocity": {
        "address_applications_count_7d": 0,
        "address_applicants_distinct_30d": 0,
        "address_phones_distinct_30d": 0,
    },
    "address_profile": {"address_mail_drop_flag": False},
    "employer_velocity": {"employer_applicants_distinct_7d": 1},
    "employer_profile": {"employer_age_days": 5000.0},
    "ip_velocity": {"ip_applications_count_1h": 0, "ip_applicants_distinct_24h": 0},
    "ip_profile": {"ip_proxy_flag": False},
    "agent_velocity": {
        "agent_applications_count_24h": 3,
        "agent_amount_sum_7d": 60_000.0,
        "agent_addresses_distinct_7d": 10,
    },
    "agent_profile": {"agent_tenure_days": 1500.0},
}

# The same for a good company.
GOOD_COMPANY: dict[str, dict[str, Any]] = {
    "business_file": {
        "employees_count": 40,
        "new_business": False,
        "franchise": False,
        "naics_sector": "health_social",
        "annual_revenue": 6_000_000.0,
        "monthly_free_cash_flow": 60_000.0,
    },
}

_count = itertools.count()
_run = uuid.uuid4().hex[:8]


def new_id(prefix: str = "t") -> str:
    """An id that no other test uses."""
    return f"{prefix}-{_run}-{next(_count)}"


def now_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def entity_of(view: str) -> str:
    """The entity that a view is about."""
    return shipped().catalogue.file.views[view].entity


def load_rows(
    store: FeatureStore,
    ids: Mapping[str, str],
    changes: Mapping[str, Mapping[str, Any] | None] | None = None,
    *,
    age_days: Mapping[str, float] | None = None,
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes the rows of one application. ids: by entity, views of others are left out; changes: by view, values to
    put over the good ones, None for no row; age_days: by view; values: absent, those of the good applicant."""
    writer, changes, ages = RowWriter(shipped().catalogue), changes or {}, age_days or {}
    rows = []
    for view, good in (values or GOOD).items():
        entity_id = ids.get(entity_of(view))
        change = changes.get(view, {})
        if entity_id is None or change is None:
            continue
        event_time_us = now_us() - round(ages.get(view, 0.0) * DAY_US)
        rows.append(writer.row(view, entity_id, {**good, **change}, event_time_us))
    store.write(rows)


def all_ids(subject: str) -> dict[str, str]:
    """An id for every entity of an application, made from the subject's."""
    return {"applicant": subject, **{entity: f"{subject}-{entity}" for entity in ENTITIES}}


def consumer(
    subject: str = "",
    *,
    request_id: str | None = None,
    amount: int = 5000,
    term_months: int = 24,
    language: str = "",
    entities: bool = True,
    fields: Mapping[str, float] | None = None,
) -> pb.DecideRequest:
    """A whole, valid request for a consumer loan. subject: absent, one that nothing is known of."""
    request = pb.DecideRequest(request_id=new_id("req") if request_id is None else request_id, language=language)
    application = request.application
    application.product = "consumer_loan"
    application.amount.currency_code, application.amount.units = "USD", amount
    application.term_months = term_months
    application.subject.id = subject or new_id("nobody")
    if entities:
        for entity in ENTITIES:
            application.entities.add(entity=entity, id=f"{application.subject.id}-{entity}")
    stated = {
        "stated_monthly_income": 9000.0,
        "occupation_median_income": 8000.0,
        "form_fill_seconds": 400.0,
        "ip_to_address_distance_km": 4.0,
    }
    for name, value in (stated if fields is None else fields).items():
        application.fields[name].number = value
    return request


def company(
    subject: str = "", *, request_id: str | None = None, amount: int = 400_000, term_months: int = 120
) -> pb.DecideRequest:
    """A whole, valid request for a loan to a small business."""
    request = pb.DecideRequest(request_id=new_id("req") if request_id is None else request_id)
    application = request.application
    application.product = "sme_loan"
    application.amount.currency_code, application.amount.units = "USD", amount
    application.term_months = term_months
    application.subject.id = subject or new_id("nobody")
    application.fields["jobs_created_count"].integer = 2
    application.fields["jobs_retained_count"].integer = 10
    application.fields["revolving_line"].flag = False
    return request
