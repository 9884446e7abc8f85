"""The manifest that every explained model carries in its ONNX metadata: all that a lender, an auditor and the engine
need to know of the file, in the file.

It stands as one JSON document under the metadata key `assay.manifest`. Pydantic checks it when a bundle is loaded;
nothing here is touched while a decision is made.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MANIFEST_KEY = "assay.manifest"
MANIFEST_SCHEMA = 1

# The tensors of an explained graph. Input: float32 [rows, features], NaN for missing. Outputs: [rows, 1], [rows, 1],
# [rows, 1] and [rows, features].
INPUT_TENSOR = "features"
RAW_TENSOR = "raw"
PROBABILITY_TENSOR = "probability"
POINTS_TENSOR = "points"
CONTRIBUTIONS_TENSOR = "contributions"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureInput(_Part):
    """One input column, in the order of the tensor."""

    name: str
    type: Literal["float", "integer", "boolean", "category"]
    unit: str = ""
    description: str = ""
    # What the model does with a missing value: it learned from missing rows, or missing never occurred in training.
    missing: Literal["learned", "not_allowed"] = "learned"
    # Values outside were not seen in training; the engine accepts them and drift monitoring counts them.
    range: tuple[float, float] | None = None
    # For categories: the name behind each code 0, 1, 2 ... in the order the model was trained with.
    categories: tuple[str, ...] = ()
    # +1: a higher value never lowers the risk; -1: never raises it; 0: unconstrained.
    monotone: Literal[-1, 0, 1] = 0


class Reference(_Part):
    """The population that contributions are measured against."""

    name: str  # a short id, for example "all_applicants" or "approved_near_cutoff"
    description: str
    rows: int = Field(gt=0)
    sha256: str  # of the float32 matrix, C order, little-endian


class Attribution(_Part):
    """How contributions are made. base_value + sum(contributions) = raw, for every row."""

    method: Literal["interventional_shap", "path_dependent_shap", "additive"]
    reference: Reference
    base_value: float


class Calibration(_Part):
    """probability = sigmoid(slope * raw + intercept)."""

    method: Literal["none", "platt", "prior_shift"]
    slope: float = Field(default=1.0, gt=0)
    intercept: float = 0.0


class Scaling(_Part):
    """points = clip(anchor_points + sign * points_to_double / ln 2 * (ln(good odds) - ln(anchor_odds))), where good
    odds are (1 - probability) / probability and sign is +1 for `safer`, -1 for `riskier`. Rounded to the nearest
    whole number by the engine, not in the graph."""

    anchor_points: float
    anchor_odds: float = Field(gt=0)
    points_to_double: float = Field(gt=0)
    points_min: float
    points_max: float
    higher_is: Literal["safer", "riskier"] = "safer"

    @property
    def points_per_logit(self) -> float:
        """Points that one unit of calibrated log-odds of bad takes away (`safer`) or adds (`riskier`)."""
        return self.points_to_double / math.log(2.0)


class ReasonGroup(_Part):
    """Correlated inputs that make one reason together."""

    code: str
    features: tuple[str, ...] = Field(min_length=1)


class TrainingData(_Part):
    """Where the rows came from."""

    source: str
    licence: str
    sha256: str
    rows: int
    bad_rate: float
    target: str
    window: str


class Bins(_Part):
    """PSI reference: `edges` has n numbers and splits into n + 1 bins (-inf, e0], (e0, e1] ... (en-1, inf);
    `shares` has n + 1 numbers. `missing_share` is the share of missing values; shares and it sum to 1."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    missing_share: float = 0.0

    @model_validator(mode="after")
    def _lengths(self) -> Bins:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} shares, not {len(self.shares)}")
        if abs(sum(self.shares) + self.missing_share - 1.0) > 1e-6:
            raise ValueError("shares and missing_share must sum to 1")
        return self


class PsiReference(_Part):
    """Distributions at training, for drift monitoring."""

    score: Bins  # over points, or over the probability of a model without a scale
    features: dict[str, Bins]


class GoldenRow(_Part):
    """One row and what the graph must answer for it. `null` is missing."""

    inputs: tuple[float | None, ...]
    raw: float
    probability: float
    points: float | None = None
    contributions: tuple[float, ...]


class ExportCheck(_Part):
    """What the exporter measured against the native library."""

    rows: int  # rows whose raw score and probability were compared
    # Rows whose every contribution was compared with an independent computation; the sum is compared on all rows.
    contribution_rows: int = 0
    raw_max_abs: float
    probability_max_abs: float
    contribution_max_abs: float
    top4_agreement: float
    tolerance: float


class Manifest(_Part):
    """Everything known about an explained model."""

    manifest_schema: Literal[1] = 1
    id: str = Field(pattern=r"^[a-z][a-z0-9_]{1,63}$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    kind: str  # "lightgbm", "xgboost", "catboost", "ebm", "woe_scorecard"
    component: Literal["credit", "fraud"]
    title: str
    target: str  # the definition of the bad event
    created: str  # ISO date
    git_commit: str = ""
    features: tuple[FeatureInput, ...] = Field(min_length=1)
    attribution: Attribution
    calibration: Calibration
    scaling: Scaling | None = None
    reasons: tuple[ReasonGroup, ...]
    training: TrainingData
    metrics: dict[str, float]
    psi_reference: PsiReference
    golden_rows: tuple[GoldenRow, ...] = Field(min_length=3)
    export_check: ExportCheck | None = None
    libraries: dict[str, str]
    licence: str
    intended_use: str
    limitations: str
    excluded_attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [f.name for f in self.features]
        if len(set(names)) != len(names):
            raise ValueError("a feature name stands twice")
        seen: dict[str, str] = {}
        for group in self.reasons:
            for feature in group.features:
                if feature not in names:
                    raise ValueError(f"reason {group.code} names {feature!r}, which is no input of the model")
                if feature in seen:
                    raise ValueError(f"feature {feature!r} is in two reasons: {seen[feature]} and {group.code}")
                seen[feature] = group.code
        for row in self.golden_rows:
            if len(row.inputs) != len(names) or len(row.contributions) != len(names):
                raise ValueError(f"a golden row does not have {len(names)} inputs and contributions")
        return self
