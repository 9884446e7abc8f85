"""Who applies: people and companies with the rows that the feature store is to hold, and what they ask for.

Nobody is real but the companies of the shipped sample (SBA loans, public domain). Consumers are generated from the
quantiles and rank correlations of a public data set, and joined to a generated stream of applications with devices,
phones and the like (`models.training`). The same seed gives the same population on every machine, so that two runs can
be compared, and nothing is downloaded.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.type.money_pb2 import Money

from assay.decision.v1 import decision_pb2, decision_service_pb2
from assay.feature.v1 import feature_pb2, feature_service_pb2
from loadtest.problems import CouldNotRun
from loadtest.scenario import Population as Wanted

_DAY_US = 86_400_000_000
_TERMS_MONTHS = (12, 24, 36, 36, 48, 60)
_COMPANY_TERMS_MONTHS = (36, 48, 60, 84)
_EMPLOYMENT = ("employed", "employed", "employed", "self_employed", "retired")
_ROWS_A_CALL = 500
_LENGTH = struct.Struct("<I")

Scalar = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Population:
    """applications: what consumers and companies ask for, without request ids; rows: what is known of them."""

    consumers: tuple[decision_pb2.Application, ...]
    companies: tuple[decision_pb2.Application, ...]
    rows: tuple[feature_pb2.FeatureRow, ...]

    def put_requests(self) -> Iterator[feature_service_pb2.PutFeaturesRequest]:
        """The rows as calls of PutFeatures."""
        for at in range(0, len(self.rows), _ROWS_A_CALL):
            yield feature_service_pb2.PutFeaturesRequest(rows=self.rows[at : at + _ROWS_A_CALL])


def generate(wanted: Wanted, now_us: int) -> Population:
    """The population of a scenario, its rows dated back from `now_us`."""
    # numpy, and models.training with it, is only needed here: users and drivers read the file that this leaves.
    from models.training.fraud.sample import fraud_rows
    from models.training.samples import generated_consumer_rows, sme_rows

    chance = random.Random(wanted.seed)
    rows: list[feature_pb2.FeatureRow] = []
    people = generated_consumer_rows(wanted.consumers, wanted.seed)
    signals = fraud_rows(wanted.consumers, wanted.seed, fraud_share=wanted.fraud_ratio)
    consumers = []
    for number, (person, event) in enumerate(zip(people, signals, strict=False)):
        subject = f"lt-person-{number:05d}"
        file = person["features"]
        ids = {"applicant": subject, **{k: f"lt-{v}" for k, v in event["entities"].items() if k != "applicant"}}
        income = _number(file.get("monthly_income"))
        consumers.append(_consumer(subject, ids, income, event["application"], chance))
        rows += _consumer_rows(number, subject, file, income, chance, now_us)
        for view, values in event["rows"].items():
            # Counters are the engine's own: it counts the applications that it decides.
            if not view.endswith("_velocity"):
                rows.append(_row(view, ids[view.rpartition("_")[0]], values, now_us - _DAY_US // 10))
    companies = []
    for number, company in enumerate(sme_rows(wanted.companies, wanted.seed)):
        subject = f"lt-company-{number:04d}"
        companies.append(_company(subject, company["features"], chance))
        rows.append(_company_row(subject, company["features"], chance, now_us - 10 * _DAY_US))
    return Population(tuple(consumers), tuple(companies), tuple(rows))


def save(population: Population, path: Path) -> None:
    """Writes the applications to a file, for the processes that send them."""
    with path.open("wb") as file:
        for group in (population.consumers, population.companies):
            file.write(_LENGTH.pack(len(group)))
            for application in group:
                data = application.SerializeToString(deterministic=True)
                file.write(_LENGTH.pack(len(data)) + data)


def read(path: Path) -> Population:
    """The applications that `save` wrote; the rows stay behind. Raises CouldNotRun when the file is no such one."""
    try:
        data = memoryview(path.read_bytes())
        at = 0
        groups: list[tuple[decision_pb2.Application, ...]] = []
        for _ in range(2):
            (count,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            group = []
            for _ in range(count):
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size
                group.append(decision_pb2.Application.FromString(bytes(data[at : at + length])))
                at += length
            groups.append(tuple(group))
    except (OSError, struct.error) as error:
        raise CouldNotRun(f"the population in {path.name} cannot be read: {error}") from None
    return Population(groups[0], groups[1], ())


def needed_flows(population: Population) -> set[str]:
    """The flows that a server must serve for this population."""
    return {f"{one.product}.application" for one in (*population.consumers[:1], *population.companies[:1])}


def request_for(application: decision_pb2.Application, request_id: str) -> decision_service_pb2.DecideRequest:
    """The request of an application, under an id of its own."""
    return decision_service_pb2.DecideRequest(request_id=request_id, application=application)


def _application(product: str, subject: str, amount: int, term_months: int) -> decision_pb2.Application:
    made = decision_pb2.Application(product=product, term_months=term_months)
    made.amount.CopyFrom(Money(currency_code="USD", units=amount))
    made.subject.id = subject
    return made


def _consumer(
    subject: str,
    ids: Mapping[str, str],
    income: float | None,
    stated: Mapping[str, float | int | bool | None],
    chance: random.Random,
) -> decision_pb2.Application:
    """What a consumer asks for; amounts keep the generated application's proportion to income."""
    amount, event_income = _number(stated["amount_usd"]) or 5_000.0, _number(stated["income_monthly_usd"])
    if income and event_income:
        amount *= income / event_income
    units = min(max(round(amount / 50) * 50, 500), 50_000)
    made = _application("consumer_loan", subject, units, chance.choice(_TERMS_MONTHS))
    for entity, entity_id in ids.items():
        if entity != "applicant":
            made.entities.add(entity=entity, id=entity_id)
    if stated_income := income or event_income:
        made.fields["stated_monthly_income"].number = stated_income
        if ratio := _number(stated["income_to_occupation_ratio"]):
            made.fields["occupation_median_income"].number = min(round(stated_income / ratio, 2), 1e6)
    for name in ("form_fill_seconds", "ip_to_address_distance_km"):
        if (value := _number(stated[name])) is not None:
            made.fields[name].number = value
    return made


def _consumer_rows(
    number: int,
    subject: str,
    file: Mapping[str, Scalar],
    income: float | None,
    chance: random.Random,
    now_us: int,
) -> Sequence[feature_pb2.FeatureRow]:
    """The credit file and what the lender knows. One file in twenty is too old to be used, one in twenty not there."""
    debt_ratio = _number(file.get("debt_ratio"))
    credit: dict[str, Scalar] = {
        name: value for name, value in file.items() if name not in ("age_years", "dependents_count", "monthly_income")
    }
    credit["existing_monthly_payments"] = None if debt_ratio is None or not income else round(debt_ratio * income, 2)
    credit["bankruptcy_open"] = False
    person: dict[str, Scalar] = {
        "age_years": file.get("age_years"),
        "dependents_count": file.get("dependents_count"),
        "verified_monthly_income": income,
        "employment_status": chance.choice(_EMPLOYMENT),
    }
    made = [_row("applicant_file", subject, person, now_us - 3 * _DAY_US)]
    age_days = 90.0 if number % 20 == 13 else chance.uniform(0.0, 20.0)
    if number % 20 != 7:
        made.append(_row("credit_file", subject, credit, now_us - round(age_days * _DAY_US)))
    return made


def _company(subject: str, known: Mapping[str, Scalar], chance: random.Random) -> decision_pb2.Application:
    amount = _number(known.get("requested_amount_usd")) or 50_000.0
    units = int(min(max(round(amount / 500) * 500, 5_000), 500_000))
    made = _application("sme_loan", subject, units, chance.choice(_COMPANY_TERMS_MONTHS))
    for name in ("jobs_created_count", "jobs_retained_count"):
        if (value := _number(known.get(name))) is not None:
            made.fields[name].integer = int(value)
    if known.get("revolving_line") is not None:
        made.fields["revolving_line"].flag = bool(known["revolving_line"])
    return made


def _company_row(
    subject: str, known: Mapping[str, Scalar], chance: random.Random, event_time_us: int
) -> feature_pb2.FeatureRow:
    """What is known of a company. Revenue and cash flow, which the public rows lack, are generated."""
    employees = _number(known.get("employees_count"))
    revenue = None if employees is None else round(employees * chance.uniform(60_000, 180_000), -3)
    values: dict[str, Scalar] = {
        name: known.get(name) for name in ("employees_count", "new_business", "franchise", "naics_sector")
    }
    values["annual_revenue"] = revenue
    values["monthly_free_cash_flow"] = None if revenue is None else round(revenue / 12 * chance.uniform(0.02, 0.22), 2)
    return _row("business_file", subject, values, event_time_us)


def _row(view: str, entity_id: str, values: Mapping[str, Scalar], event_time_us: int) -> feature_pb2.FeatureRow:
    made = feature_pb2.FeatureRow(view=view, entity_id=entity_id)
    made.event_time.FromMicroseconds(event_time_us)
    for name, value in values.items():
        # A value that is left out is NULL.
        if isinstance(value, bool):
            made.values[name].flag = value
        elif isinstance(value, int):
            made.values[name].integer = value
        elif isinstance(value, float):
            made.values[name].number = value
        elif value is not None:
            made.values[name].text = value
    return made


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
