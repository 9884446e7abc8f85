"""The inputs of the credit models as their manifests describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.scoring.manifest import FeatureInput, Scaling
from models.training.data import SECTORS, Matrix

SCALING = Scaling(anchor_points=660, anchor_odds=30, points_to_double=40, points_min=300, points_max=850)


@dataclass(frozen=True, slots=True)
class Input:
    """One input. monotone: as in the manifest; why: the reason for the constraint, or for none; missing_is: what the
    model makes of a missing value, where it is bound to treat it as the end of the scale that does not hurt or that
    the data shows."""

    name: str
    type: Literal["float", "integer", "boolean", "category"]
    unit: str
    description: str
    monotone: Literal[-1, 0, 1]
    why: str
    missing_is: Literal["low", "high"] = "low"


CONSUMER_INPUTS = (
    Input(
        "revolving_utilization",
        "float",
        "ratio",
        "Balances on cards and personal lines divided by the sum of their limits; 1 is fully used",
        1,
        "using more of the limits is never better",
    ),
    Input(
        "age_years",
        "float",
        "years",
        "Age of the applicant",
        -1,
        "an older applicant is never treated worse",
        "high",
    ),
    Input(
        "past_due_30_59_count",
        "integer",
        "count",
        "Times 30 to 59 days past due, but not worse, in the last two years",
        1,
        "a delinquency more is never better",
        "high",
    ),
    Input(
        "debt_ratio",
        "float",
        "ratio",
        "Monthly debt payments, alimony and living costs divided by gross monthly income; missing without an income",
        1,
        "a higher burden is never better",
    ),
    Input(
        "monthly_income",
        "float",
        "USD/month",
        "Gross income a month",
        -1,
        "a higher income is never worse",
        "high",
    ),
    Input(
        "open_credit_lines_count",
        "integer",
        "count",
        "Open loans and lines of credit",
        0,
        "few lines are a thin file and many are a load: the risk is U-shaped",
    ),
    Input(
        "past_due_90_count",
        "integer",
        "count",
        "Times 90 days or more past due",
        1,
        "a delinquency more is never better",
        "high",
    ),
    Input(
        "real_estate_loans_count",
        "integer",
        "count",
        "Mortgages and other loans on real estate, home equity lines among them",
        0,
        "one or two show a vetted borrower with property, many show a load: the risk is U-shaped",
    ),
    Input(
        "past_due_60_89_count",
        "integer",
        "count",
        "Times 60 to 89 days past due, but not worse, in the last two years",
        1,
        "a delinquency more is never better",
        "high",
    ),
    Input(
        "dependents_count",
        "integer",
        "count",
        "Dependants in the family, without the applicant",
        0,
        "no direction that credit sense demands; income and debt carry the load",
    ),
)

SME_INPUTS = (
    Input(
        "requested_amount_usd",
        "float",
        "USD",
        "Amount applied for (trained on the amount that the lender approved)",
        0,
        "small loans came through fast, unsecured programmes and failed more often, so neither direction is sense",
    ),
    Input(
        "employees_count",
        "integer",
        "count",
        "Employees before the loan, the owner among them",
        -1,
        "a larger business is never worse",
    ),
    Input("jobs_created_count", "integer", "count", "Jobs that the loan is to create", 0, "a plan, not a fact"),
    Input("jobs_retained_count", "integer", "count", "Jobs that the loan is to retain", 0, "a plan, not a fact"),
    Input(
        "new_business",
        "boolean",
        "",
        "In business for two years or less",
        1,
        "a business without a history is never better",
    ),
    Input("franchise", "boolean", "", "Operates under a franchise", 0, "depends on the brand"),
    Input("revolving_line", "boolean", "", "A revolving line of credit, not a term loan", 0, "a type of credit"),
    Input("naics_sector", "category", "", "Sector of the business by its NAICS code", 0, "a category"),
)


def feature_inputs(inputs: tuple[Input, ...], rows: Matrix) -> tuple[FeatureInput, ...]:
    """For the manifest: each input with the range that its training rows span."""
    return tuple(
        FeatureInput(
            name=one.name,
            type=one.type,
            unit=one.unit,
            description=one.description,
            missing="learned",
            range=(float(np.nanmin(rows[:, at])), float(np.nanmax(rows[:, at]))),
            categories=SECTORS if one.type == "category" else (),
            monotone=one.monotone,
        )
        for at, one in enumerate(inputs)
    )
