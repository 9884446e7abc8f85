"""The shape of the files of a bundle. Pydantic says what is wrong with a file's form; `compile.py` says what is wrong
with its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from engine.scoring.manifest import Scaling

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{2,63}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
FeatureType = Literal["float", "integer", "boolean", "category", "timestamp"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


# --- bundle.yaml --------------------------------------------------------------------------------------------------


class ForeignInput(_Part):
    """How a foreign model's inputs are filled: its columns, in order, by feature name."""

    features: tuple[Name, ...] = Field(min_length=1)
    # Foreign models seldom accept missing values; then a missing value makes the model's score absent and the
    # policy sees null.
    missing: Literal["not_allowed", "nan"] = "not_allowed"


class ForeignOutput(_Part):
    """Which answer of a foreign model is meant, and as what."""

    kind: Literal["probability", "log_odds"] = "probability"
    # The tensor's name. Absent: the only one, or the probabilities beside a classifier's label.
    tensor: str | None = None
    # For two-class answers: the class (its label) whose probability is the bad event's.
    bad_class: int | str = 1


class ModelEntry(_Part):
    """One model of the bundle. Models exported by `assay model export` carry everything else inside the file."""

    file: str
    # "exact" needs the manifest and contributions in the file; "none" takes any single-output or two-class model.
    explanation: Literal["exact", "none"] = "exact"
    version: str | None = None
    inputs: ForeignInput | None = None
    output: ForeignOutput = ForeignOutput()
    scaling: Scaling | None = None


class BundleFile(_Part):
    """bundle.yaml"""

    name: Name
    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    description: str = ""
    languages: tuple[Language, ...] = Field(min_length=1)
    flows: tuple[str, ...] = Field(min_length=1)
    models: dict[Name, ModelEntry]
    scenarios: tuple[str, ...] = ()


# --- features.yaml ------------------------------------------------------------------------------------------------


class Absence(_Part):
    """What stands in for a value that is not there. Exactly one; beside `use: last_good_value`, a default or a verdict
    says what to do when no value was read before either."""

    use: Literal["missing", "stale_value", "last_good_value"] | None = None
    default: float | bool | str | None = None
    verdict: Literal["REFER", "DECLINE"] | None = None
    reason: Code | None = None


class CounterEntry(_Part):
    """A feature that the engine keeps itself: what it counts over the events of its entity in a window that ends now.

    count: events; sum: of the amount `of`; distinct: different ids of the entity `of`; time_since: seconds since the
    last event, missing when there is none in the window.
    """

    what: Literal["count", "sum", "distinct", "time_since"]
    of: Name | None = None
    window: Literal["1m", "1h", "24h", "7d", "30d"]


class ExpiryEntry(_Part):
    """A value that the law lets nobody use for ever: so many days after the moment that another feature of the same
    view holds, the value counts as `then`, whatever the row says."""

    since: Name
    after_days: Annotated[float, Field(gt=0)]
    then: float | bool | str


class CleaningEntry(_Part):
    """What a writer's value goes through before it is a value of the feature.

    units: factors from other units that writers may state to the feature's own; outside: what becomes of a number that
    is not in the feature's range; map: other names of a category, each with the category it means; unknown: what
    becomes of a category that is in neither list. Values are rejected with their row, dropped (NULL) or clipped to the
    range; each is counted.
    """

    units: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    outside: Literal["reject", "drop", "clip"] = "reject"
    map: dict[str, str] = {}
    unknown: Literal["reject", "drop"] = "reject"


class FeatureEntry(_Part):
    """One feature of a view, or one field of the request."""

    type: FeatureType
    unit: str = ""
    description: str
    range: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()
    max_age_days: Annotated[float, Field(gt=0)] | None = None
    # NULL and NOT_FOUND; STALE; UNAVAILABLE. Absent: the model is told that the value is missing.
    on_missing: Absence = Absence(use="missing")
    on_stale: Absence = Absence(use="missing")
    on_unavailable: Absence = Absence(use="missing")
    # Where the application names no such entity, so that nothing is read.
    on_unnamed: Absence = Absence(use="missing")
    # Where the consent that the view needs is not given.
    on_withheld: Absence = Absence(use="missing")
    counter: CounterEntry | None = None
    expiry: ExpiryEntry | None = None
    cleaning: CleaningEntry = CleaningEntry()
    purpose: str = ""
    personal_data: Literal["none", "identifier", "contact", "financial", "behavioural", "special"] = "none"
    required: bool = False


class EntityEntry(_Part):
    """A kind of thing that features are known about."""

    description: str
    # The subject of the application, or one of `Application.entities`.
    key: Literal["subject", "entity"] = "entity"


class ViewEntry(_Part):
    """Features of one entity written together by one source."""

    entity: Name
    source: str
    description: str = ""
    max_age_days: Annotated[float, Field(gt=0)] | None = None
    purpose: str = ""
    # A boolean feature (of a view or of the request) that must be true, or all of this view is WITHHELD.
    consent: Name | None = None
    caller_may_send: bool = False
    features: dict[Name, FeatureEntry] = Field(min_length=1)


class DerivedEntry(_Part):
    """A pure function of other features, computed once a decision."""

    function: str
    arguments: tuple[str | float, ...]
    unit: str = ""
    description: str
    range: tuple[float, float] | None = None


class FeaturesFile(_Part):
    """features.yaml"""

    entities: dict[Name, EntityEntry] = Field(min_length=1)
    views: dict[Name, ViewEntry] = {}
    request: dict[Name, FeatureEntry] = {}
    derived: dict[Name, DerivedEntry] = {}


# --- flows/*.yaml -------------------------------------------------------------------------------------------------


class AmountBounds(_Part):
    """In whole units of the flow's currency."""

    min: Annotated[int, Field(gt=0)]
    max: Annotated[int, Field(gt=0)]
    step: Annotated[int, Field(gt=0)] = 1


class FlowModel(_Part):
    """One model's part in a flow."""

    model: Name
    component: Literal["credit", "fraud"]


class FlowPolicy(_Part):
    """The tables of a flow, by role, as paths in the bundle, and what they need besides."""

    tables: dict[str, str]
    legal_cap_percent: Annotated[float, Field(gt=0)] | None = None
    income: str | None = None
    existing_debt_payments: str | None = None
    debt_ratio: str | None = None


class FlowFile(_Part):
    """flows/*.yaml"""

    product: Name
    moment: Name = "application"
    description: str
    subject: Literal["person", "company"]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    amount: AmountBounds
    terms_months: tuple[Annotated[int, Field(gt=0, le=600)], ...] = Field(min_length=1)
    views: tuple[Name, ...] = ()
    request: tuple[Name, ...] = ()
    derived: tuple[Name, ...] = ()
    # In the order of the answer's scores. The key is the name that policy tables use: "credit.points".
    models: dict[Name, FlowModel]
    policy: FlowPolicy
    # Whether an application decided by this flow is an event that the catalogue's counters count.
    records_events: bool = True
    principal_reasons_max: Annotated[int, Field(ge=1, le=4)] = 4


# --- reasons.yaml -------------------------------------------------------------------------------------------------


class ReasonTexts(_Part):
    """One language's texts. `applicant` may be shown or printed; `internal` is for staff."""

    applicant: str = Field(min_length=1)
    internal: str = Field(min_length=1)


class LegalMapping(_Part):
    """What the reason is in law. Counsel must check."""

    regulation_b: str = Field(min_length=1)
    gdpr: str = ""
    pipl: str = ""


class ReasonEntry(_Part):
    """One reason code. Codes are never reused: a retired one stays with its texts."""

    component: Literal["credit", "fraud", "policy"]
    texts: dict[Language, ReasonTexts]
    legal: LegalMapping
    retired: str | None = None  # the date and why


class ReasonsFile(_Part):
    """reasons.yaml"""

    reasons: dict[Code, ReasonEntry]


# --- scenarios/*.yaml ---------------------------------------------------------------------------------------------


class ScenarioRow(_Part):
    """A row of a view as it stands in the store."""

    age_days: Annotated[float, Field(ge=0, le=36_525, allow_inf_nan=False)] = 0.0
    values: dict[str, Any] = {}
    # Instead of values: what the store does. "unavailable" means that it fails.
    status: Literal["found", "unavailable"] = "found"


class ExpectedScore(_Part):
    """A score that must come out. Absent numbers are not checked."""

    points: int | None = None
    raw: float | None = None
    probability: float | None = None


class ExpectedOffer(_Part):
    """Terms that must come out, in whole currency units with cents."""

    amount: float | None = None
    term_months: int | None = None
    annual_rate_percent: float | None = None
    annual_cost_percent: float | None = None
    monthly_payment: float | None = None


class Expected(_Part):
    """The stored answer of a scenario."""

    verdict: Literal["APPROVE", "DECLINE", "REFER", "COUNTER_OFFER"]
    scores: dict[str, ExpectedScore] = {}
    offer: ExpectedOffer | None = None
    credit_reasons: tuple[str, ...] | None = None
    fraud_reasons: tuple[str, ...] | None = None
    policy_reasons: tuple[str, ...] | None = None
    substitutions: tuple[str, ...] | None = None
    deciding: tuple[Literal["CREDIT", "FRAUD", "POLICY"], ...] | None = None


class Scenario(_Part):
    """One golden case: an application, what the stores hold, and the answer."""

    title: str
    now: str = "2026-01-15T12:00:00Z"
    application: dict[str, Any]  # as Application in proto3 JSON
    features: dict[str, ScenarioRow] = {}
    expect: Expected


class ScenarioFile(_Part):
    """scenarios/*.yaml"""

    scenarios: tuple[Scenario, ...] = Field(min_length=1)
