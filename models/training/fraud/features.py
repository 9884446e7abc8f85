"""The inputs of the fraud model: what each is, whose it is, and how it is computed from a stream.

Each feature belongs to an entity. Those of `application` come with the application itself (or are derived from it);
those of other entities stand in rows of the feature store, in one of two views an entity: `<entity>_velocity` (the
counters) and `<entity>_profile` (what a source says of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.training.fraud.counters import DECLARATIONS, Counter, count_stream, counters_from
from models.training.fraud.population import ENTITIES
from models.training.fraud.stream import Stream

FeatureType = Literal["float", "integer", "boolean"]
COUNTERS: tuple[Counter, ...] = counters_from(DECLARATIONS, ENTITIES)
MONTHS_A_YEAR = 12


@dataclass(frozen=True, slots=True)
class FraudFeature:
    """One input.

    range: the smallest and largest value that make sense, in the unit; missing: when there is no value; monotone: +1
    where a higher value never lowers the risk, -1 where it never raises it, among known values; fact: the column of the
    stream that it is copied from, "" for counters and derived features.
    """

    name: str
    entity: str
    type: FeatureType
    unit: str
    range: tuple[float, float]
    missing: str
    description: str
    monotone: Literal[-1, 0, 1] = 0
    fact: str = ""

    @property
    def view(self) -> str:
        """The view that holds it; "application" for what comes with the application."""
        if self.entity == "application":
            return "application"
        return f"{self.entity}_{'profile' if self.fact else 'velocity'}"


_OPTIONAL = ("device", "employer", "ip", "agent")  # what an application may do without
_MOST = {"count": 10_000.0, "sum": 50_000_000.0, "distinct": 10_000.0}


def _of_counter(c: Counter) -> FraudFeature:
    # More of these is never a sign of honesty, and a reason that speaks of many must not come from few. An agent's own
    # counters are left free: both a slack and a frantic one stand out. A device in a shop is told by its agent.
    rising = c.what != "time_since" and c.entity != "agent"
    noun = {
        "count": "Earlier applications",
        "sum": f"Sum of the {c.of} over earlier applications",
        "distinct": f"Different {c.unit} in earlier applications",
        "time_since": "Time since the last earlier application",
    }[c.what]
    missing = f"no {c.entity}" if c.entity in _OPTIONAL else "never"
    if c.what == "time_since":
        missing = f"{missing}, or none in {c.window}" if c.entity in _OPTIONAL else f"none in {c.window}"
    return FraudFeature(
        name=c.name,
        entity=c.entity,
        type="integer" if c.what in ("count", "distinct") else "float",
        unit=c.unit,
        range=(0.0, _MOST.get(c.what, float(c.window_seconds))),
        missing=missing,
        description=f"{noun} of this {c.entity} within {c.window}",
        monotone=1 if rising else 0,
    )


_PROFILES: tuple[FraudFeature, ...] = (
    FraudFeature("identity_match_score", "applicant", "float", "points", (0, 100), "not asked",
                 "How well name, birth date and address agree with the identity source", -1, "identity_match"),
    FraudFeature("bureau_file_age_months", "applicant", "float", "months", (0, 960), "no file",
                 "Age of the oldest entry in the credit file", -1, "file_months"),
    FraudFeature("device_age_days", "device", "float", "days", (0, 7_300), "no device",
                 "Since the device was first seen by the device source", -1, "device_age_days"),
    FraudFeature("device_emulator_flag", "device", "boolean", "", (0, 1), "no device",
                 "The device is an emulator or hides what it is", 1, "device_emulator"),
    FraudFeature("phone_age_days", "phone", "float", "days", (0, 18_250), "not known to the source",
                 "Since the number was activated", -1, "phone_age_days"),
    FraudFeature("phone_voip_flag", "phone", "boolean", "", (0, 1), "never",
                 "The number is an internet number, not a mobile or landline contract", 1, "phone_voip"),
    FraudFeature("phone_name_match_flag", "phone", "boolean", "", (0, 1), "prepaid, or not known to the source",
                 "The subscriber's name is the applicant's", -1, "phone_name_match"),
    FraudFeature("email_age_days", "email", "float", "days", (0, 14_600), "not known to the source",
                 "Since the address was first seen by the e-mail source", -1, "email_age_days"),
    FraudFeature("address_mail_drop_flag", "address", "boolean", "", (0, 1), "never",
                 "The address forwards mail or is a rented box", 1, "mail_drop"),
    FraudFeature("employer_age_days", "employer", "float", "days", (0, 36_500), "no employer, or not in the register",
                 "Since the employer was registered", -1, "employer_age_days"),
    FraudFeature("ip_proxy_flag", "ip", "boolean", "", (0, 1), "no network",
                 "The network address is a proxy, VPN or hosting centre", 1, "ip_proxy"),
    FraudFeature("agent_tenure_days", "agent", "float", "days", (0, 18_250), "no agent",
                 "Since the agent was signed on", 0, "agent_tenure_days"),
)  # fmt: skip

_APPLICATION: tuple[FraudFeature, ...] = (
    FraudFeature("amount_to_income_ratio", "application", "float", "", (0, 20), "income not stated",
                 "Amount asked for over stated income of a year", 1),
    FraudFeature("income_to_occupation_ratio", "application", "float", "", (0, 20), "income not stated",
                 "Stated monthly income over the median of the stated occupation", 1),
    FraudFeature("form_fill_seconds", "application", "float", "seconds", (0, 86_400), "on paper in a branch",
                 "Time from the first to the last field of the form", 0, "form_seconds"),
    FraudFeature("ip_to_address_distance_km", "application", "float", "km", (0, 20_040), "no network, or not located",
                 "Distance between the network address and the home address", 1, "distance_km"),
)  # fmt: skip


def _grouped() -> tuple[FraudFeature, ...]:
    everything = (*(_of_counter(c) for c in COUNTERS), *_PROFILES, *_APPLICATION)
    order = (*ENTITIES, "application")
    return tuple(sorted(everything, key=lambda f: order.index(f.entity)))  # stable: counters before profiles


FEATURES: tuple[FraudFeature, ...] = _grouped()
NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)


def feature_columns(stream: Stream) -> dict[str, npt.NDArray[np.float64]]:
    """The value of each feature for each application of the stream, by name, in the order of FEATURES."""
    amounts = {"amount": stream.facts["amount"].astype(np.int64)}
    columns = count_stream(COUNTERS, stream.t_s, stream.ids, amounts)
    income = stream.facts["income_monthly"]
    columns["amount_to_income_ratio"] = stream.facts["amount"] / (income * MONTHS_A_YEAR)
    columns["income_to_occupation_ratio"] = income / stream.facts["occupation_income"]
    for feature in FEATURES:
        if feature.fact:
            columns[feature.name] = stream.facts[feature.fact]
    return {name: columns[name] for name in NAMES}


def feature_matrix(stream: Stream) -> npt.NDArray[np.float32]:
    """The same as one float32 matrix [applications, features], NaN for missing: what the model takes."""
    return np.column_stack(list(feature_columns(stream).values())).astype(np.float32)
