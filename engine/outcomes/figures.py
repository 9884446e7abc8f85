"""What a report holds, for whoever shows it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from assay.decision.v1 import decision_pb2 as pb
from engine.outcomes.labels import Definition
from engine.outcomes.metrics import Auc, Band, Ks, Psi

REJECT_NOTE = (
    "Only loans that were paid out show how they are repaid. Figures of a score hold for those, and say nothing of the "
    "applicants who were declined: where this score declined them, its power over all applicants is usually greater "
    "than measured here, and its calibration beyond the cut-off is not measured at all."
)
COMPONENTS: dict[int, str] = {pb.COMPONENT_CREDIT: "credit", pb.COMPONENT_FRAUD: "fraud", pb.COMPONENT_POLICY: "policy"}
VERDICTS: dict[int, str] = {
    pb.VERDICT_APPROVE: "approve",
    pb.VERDICT_COUNTER_OFFER: "counter_offer",
    pb.VERDICT_REFER: "refer",
    pb.VERDICT_DECLINE: "decline",
}


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % Wilson interval; value None where there is nothing to divide by."""

    part: int
    whole: int
    value: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PsiMonth:
    """The stability of a score in one month, against the base month."""

    month: str
    count: int
    psi: Psi


@dataclass(slots=True)
class Segment:
    """One model over some decisions. by, value: "all" or what the decisions have in common (version, arm, flow).
    states: decisions by what can be said of them; early_bads: immature ones that are bad already. The figures are over
    good and bad ones alone; psi is over all decisions."""

    model: str
    component: str
    by: str
    value: str
    decisions: int
    states: dict[str, int]
    early_bads: int
    bad_rate: Share
    auc: Auc | None
    gini: float | None
    ks: Ks | None
    brier: float | None
    brier_of_base_rate: float | None
    expected_bads: float | None
    calibration_error: float | None
    calibration: list[Band]
    roc: list[tuple[float, float]]
    ks_curves: list[tuple[float, float, float]]
    psi_base: str
    psi: list[PsiMonth]


@dataclass(slots=True)
class Vintage:
    """Loans by month of decision. curve: the cumulative share of bad after 1, 2, ... months on book, as far as the
    whole cohort has come; lows, highs: its 95 % Wilson intervals."""

    arm: str
    month: str
    booked: int
    curve: list[float]
    lows: list[float]
    highs: list[float]


@dataclass(slots=True)
class Verdicts:
    """What was decided. by, value: as for a segment."""

    by: str
    value: str
    decisions: int
    shares: dict[str, Share]


@dataclass(slots=True)
class Overrides:
    """What people changed. changes: by the engine's verdict and the person's. rates: of decisions with this verdict of
    the engine, the share in which a person gave another; referred: of those referred, how many a person decided.
    performance: bad rate of loans that stand only because a person approved them, by the engine's verdict, and of
    loans that the engine approved itself."""

    changes: dict[str, dict[str, int]]
    rates: dict[str, Share]
    referred: Share
    performance: dict[str, Share]


@dataclass(slots=True)
class FraudCapture:
    """What the fraud gate caught. recall: of confirmed fraud, the share that the gate stopped; precision: of what the
    gate stopped and was looked into, the share that was fraud; flagged, investigated: how many of each."""

    flagged: int
    investigated: int
    confirmed: int
    recall: Share
    precision: Share


@dataclass(slots=True)
class Report:
    """Everything. sources: where it came from; left_out: decisions and outcomes that are in no figure."""

    as_of: str
    definition: Definition
    decisions: int
    segments: list[Segment] = field(default_factory=list)
    vintages: list[Vintage] = field(default_factory=list)
    verdicts: list[Verdicts] = field(default_factory=list)
    overrides: Overrides | None = None
    fraud: FraudCapture | None = None
    sources: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    note: str = REJECT_NOTE


def as_json(report: Report) -> str:
    """The report as JSON; what is not defined is null."""
    content = asdict(report)
    content["definition"]["text"] = str(report.definition)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
