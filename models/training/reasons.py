"""The reasons that the credit models can give: groups of correlated inputs, each with a stable code.

`python -m models.training.reasons` writes `reason_codes.md` from this list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.scoring.manifest import ReasonGroup

OTHER = "other"


@dataclass(frozen=True, slots=True)
class CreditReason:
    """One reason. applicant_en, applicant_zh: what an applicant may be told; regulation_b: the sample reason of form
    C-1 that says the same, or OTHER where none fits and the applicant's text stands in its place."""

    code: str
    features: tuple[str, ...]
    applicant_en: str
    applicant_zh: str
    regulation_b: str = OTHER


CONSUMER_REASONS = (
    CreditReason(
        "CR_UTILIZATION",
        ("revolving_utilization",),
        "Proportion of balances to credit limits on revolving accounts is too high",
        "循环信用账户的额度使用率过高",
    ),
    CreditReason(
        "CR_DELINQUENCY",
        ("past_due_30_59_count", "past_due_60_89_count", "past_due_90_count"),
        "Delinquent past or present credit obligations with others",
        "在其他机构有过往或当前的逾期记录",
        "Delinquent past or present credit obligations with others",
    ),
    CreditReason("CR_AGE", ("age_years",), "Age", "年龄"),
    CreditReason(
        "CR_DEBT_BURDEN",
        ("debt_ratio",),
        "Excessive obligations in relation to income",
        "债务负担相对收入过高",
        "Excessive obligations in relation to income",
    ),
    CreditReason("CR_INCOME", ("monthly_income",), "Level of income", "收入水平偏低"),
    CreditReason(
        "CR_OPEN_LINES",
        ("open_credit_lines_count",),
        "Number of open credit lines and loans",
        "未结清的信贷账户数量",
    ),
    CreditReason(
        "CR_REAL_ESTATE",
        ("real_estate_loans_count",),
        "Number of mortgage and real estate loans",
        "住房及不动产贷款数量",
    ),
    CreditReason("CR_DEPENDENTS", ("dependents_count",), "Number of dependents", "需供养的家属人数"),
)

SME_REASONS = (
    CreditReason("CR_SME_AMOUNT", ("requested_amount_usd",), "Amount of credit requested", "申请的贷款金额"),
    CreditReason("CR_SME_SIZE", ("employees_count",), "Number of employees of the business", "企业员工人数"),
    CreditReason(
        "CR_SME_JOBS",
        ("jobs_created_count", "jobs_retained_count"),
        "Number of jobs that the loan is to create or retain",
        "贷款预计新增或保留的就业岗位数",
    ),
    CreditReason("CR_SME_NEW_BUSINESS", ("new_business",), "Length of time in business", "企业经营时间"),
    CreditReason("CR_SME_FRANCHISE", ("franchise",), "Whether the business is a franchise", "企业是否为特许经营"),
    CreditReason("CR_SME_CREDIT_TYPE", ("revolving_line",), "Type of credit requested", "申请的信贷类型"),
    CreditReason("CR_SME_SECTOR", ("naics_sector",), "Line of business", "企业所属行业"),
)


def groups(reasons: Sequence[CreditReason]) -> tuple[ReasonGroup, ...]:
    """As the manifest holds them."""
    return tuple(ReasonGroup(code=reason.code, features=reason.features) for reason in reasons)


_HEAD = """# Reasons of the credit models

Written from `models/training/reasons.py`; do not edit. `other` means that no sample reason of Regulation B, appendix C,
form C-1 fits: the applicant's text is used in its place. Counsel must check all of it.

Each reason stands for what was scored. A value that was missing is scored too: where it lowered the score, say that the
fact could not be verified, not that it was adverse.
"""


def markdown() -> str:
    """The list as a document."""
    parts = [_HEAD]
    models = (("credit_pd, credit_scorecard, credit_ebm", CONSUMER_REASONS), ("sme_pd", SME_REASONS))
    for title, reasons in models:
        parts.append(f"## {title}\n")
        parts.append("| code | inputs | applicant (en) | applicant (zh) | Regulation B, C-1 |\n|---|---|---|---|---|")
        for reason in reasons:
            inputs = ", ".join(f"`{name}`" for name in reason.features)
            cells = (reason.code, inputs, reason.applicant_en, reason.applicant_zh, reason.regulation_b)
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def write() -> None:
    """Write `reason_codes.md` beside this file."""
    Path(__file__).with_name("reason_codes.md").write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    write()
