"""The reasons that the fraud model can give: codes, the features behind each, and their texts.

Every reason has two audiences. The analyst reads what was seen. The applicant reads what the lender could not verify:
true, and as specific as it can be without telling a fraudster which sign gave them away. Where none of the sample
reasons of Regulation B (form C-1) fits, the mapping is `other` and the applicant's text stands in its place. Whether a
text is specific enough for an adverse action notice is a question for counsel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OTHER = "other"
_UNVERIFIED = "Unable to verify application information"
_UNVERIFIED_ZH = "无法核实申请信息"
_CONTACT = "Unable to verify contact information"
_CONTACT_ZH = "无法核实联系方式"


@dataclass(frozen=True, slots=True)
class FraudReason:
    """One reason: a stable code, never reused, and the features that make it together."""

    code: str
    features: tuple[str, ...]
    internal_en: str
    internal_zh: str
    applicant_en: str
    applicant_zh: str
    regulation_b: str


REASONS: tuple[FraudReason, ...] = (
    FraudReason(
        "FR_APPLICANT_VELOCITY",
        ("applicant_applications_count_24h", "applicant_applications_count_30d", "applicant_amount_sum_30d",
         "applicant_since_last_application_seconds"),
        "Applicant has applied often, for much, or again at an unusual interval",
        "申请人申请次数、金额或间隔时间异常",
        "Number of recent applications with us", "近期在本机构的申请次数较多", OTHER,
    ),
    FraudReason(
        "FR_APPLICANT_CONTACTS",
        ("applicant_devices_distinct_30d", "applicant_phones_distinct_30d"),
        "Applicant has used several devices or phone numbers",
        "申请人使用多个设备或电话号码",
        _CONTACT, _CONTACT_ZH, OTHER,
    ),
    FraudReason(
        "FR_IDENTITY_MISMATCH", ("identity_match_score",),
        "Identity details do not agree with the identity source, or were not checked",
        "身份信息与核验来源不一致或未经核验",
        "Unable to verify identity", "无法核实身份信息", OTHER,
    ),
    FraudReason(
        "FR_THIN_FILE", ("bureau_file_age_months",),
        "Credit file is young or missing, as with invented identities",
        "征信记录时间短或缺失，存在虚构身份特征",
        "Limited credit experience", "信用记录有限", "Limited credit experience",
    ),
    FraudReason(
        "FR_DEVICE_VELOCITY",
        ("device_applications_count_1h", "device_applications_count_24h", "device_amount_sum_7d",
         "device_since_last_application_seconds"),
        "Many or large applications from this device, or at unusual intervals",
        "同一设备申请频繁、金额过大或间隔时间异常",
        _UNVERIFIED, _UNVERIFIED_ZH, OTHER,
    ),
    FraudReason(
        "FR_SHARED_DEVICE", ("device_applicants_distinct_7d",),
        "Several applicants have used this device",
        "多名申请人共用同一设备",
        _UNVERIFIED, _UNVERIFIED_ZH, OTHER,
    ),
    FraudReason(
        "FR_DEVICE_UNTRUSTED", ("device_age_days", "device_emulator_flag"),
        "Device is new, an emulator, or hides what it is",
        "设备为新设备、模拟器或隐藏真实特征",
        _UNVERIFIED, _UNVERIFIED_ZH, OTHER,
    ),
    FraudReason(
        "FR_PHONE", ("phone_age_days", "phone_voip_flag", "phone_name_match_flag"),
        "Phone number is new or unknown, an internet number, or in another name",
        "电话号码为新号、无历史记录、网络号码或机主姓名不符",
        "Unable to verify telephone number", "无法核实电话号码", OTHER,
    ),
    FraudReason(
        "FR_SHARED_PHONE", ("phone_applications_count_7d", "phone_applicants_distinct_30d"),
        "Several applications or applicants with this phone number",
        "多笔申请或多名申请人使用同一电话号码",
        "Unable to verify telephone number", "无法核实电话号码", OTHER,
    ),
    FraudReason(
        "FR_EMAIL_NEW", ("email_age_days",),
        "E-mail address is new or unknown",
        "电子邮箱为新注册或无历史记录",
        _CONTACT, _CONTACT_ZH, OTHER,
    ),
    FraudReason(
        "FR_SHARED_EMAIL", ("email_applicants_distinct_30d",),
        "Several applicants with this e-mail address",
        "多名申请人使用同一电子邮箱",
        _CONTACT, _CONTACT_ZH, OTHER,
    ),
    FraudReason(
        "FR_ADDRESS",
        ("address_applications_count_7d", "address_applicants_distinct_30d", "address_phones_distinct_30d",
         "address_mail_drop_flag"),
        "Many applicants or phones at this address, or it only forwards mail",
        "同一地址申请人或电话过多，或为代收邮件地址",
        "Unable to verify residence", "无法核实居住地址", "Unable to verify residence",
    ),
    FraudReason(
        "FR_EMPLOYER", ("employer_applicants_distinct_7d", "employer_age_days"),
        "Employer is new, not in the register, or named by many applicants",
        "雇主为新成立、未登记或被多名申请人填报",
        "Unable to verify employment", "无法核实工作单位", "Unable to verify employment",
    ),
    FraudReason(
        "FR_NETWORK",
        ("ip_applications_count_1h", "ip_applicants_distinct_24h", "ip_proxy_flag", "ip_to_address_distance_km"),
        "Network is shared by many applicants, hidden, or far from the address",
        "网络地址被多人共用、经代理隐藏或与住址相距较远",
        _UNVERIFIED, _UNVERIFIED_ZH, OTHER,
    ),
    FraudReason(
        "FR_AGENT",
        ("agent_applications_count_24h", "agent_amount_sum_7d", "agent_addresses_distinct_7d", "agent_tenure_days"),
        "Unusual volume or tenure of the submitting agent, or a channel without one",
        "提交代理人的业务量或合作时长异常，或渠道无代理人",
        _UNVERIFIED, _UNVERIFIED_ZH, OTHER,
    ),
    FraudReason(
        "FR_INCOME_CLAIM", ("income_to_occupation_ratio",),
        "Stated income is high for the stated occupation",
        "申报收入明显高于所报职业水平",
        "Unable to verify income", "无法核实收入", "Unable to verify income",
    ),
    FraudReason(
        "FR_AMOUNT", ("amount_to_income_ratio",),
        "Amount asked for is high against the stated income",
        "申请金额相对申报收入过高",
        "Income insufficient for amount of credit requested",
        "收入不足以支持所申请的金额",
        "Income insufficient for amount of credit requested",
    ),
    FraudReason(
        "FR_FORM_BEHAVIOUR", ("form_fill_seconds",),
        "Form was filled in unusually fast or slowly",
        "申请表填写速度异常",
        _UNVERIFIED, _UNVERIFIED_ZH, OTHER,
    ),
)  # fmt: skip


def as_table() -> str:
    """All reasons as a Markdown page, the content of reason_codes.md."""
    head = (
        "# Reasons of the application-fraud model\n\n"
        "Generated from `models/training/fraud/reasons.py`; do not edit. Internal texts are for analysts; only the\n"
        "applicant's text may leave the house, and it says what could not be verified, not which sign was seen.\n"
        "`other` means that no sample reason of Regulation B, appendix C, form C-1 fits: the applicant's text is used\n"
        "in its place. Counsel must check both.\n\n"
        "| code | features | internal (en) | internal (zh) | applicant (en) | applicant (zh) | Regulation B, C-1 |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    rows = (
        (r.code, ", ".join(f"`{name}`" for name in r.features), r.internal_en, r.internal_zh, r.applicant_en,
         r.applicant_zh, r.regulation_b)
        for r in REASONS
    )  # fmt: skip
    return head + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def write_table(path: Path) -> None:
    """Write `as_table` to `path`."""
    path.write_text(as_table(), encoding="utf-8")
