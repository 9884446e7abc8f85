"""A whole bundle that loads in a blink: one flow, the tiny German credit model, four small tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import ParseDict

from assay.decision.v1 import decision_service_pb2 as pb
from engine.bundle.load import LoadedBundle, load_bundle
from engine.bundle.rows import RowWriter

from .bundles import FIXTURE_MODELS

FEATURES: dict[str, Any] = {
    "entities": {
        "applicant": {"key": "subject", "description": "Who asks for credit"},
        "address": {"description": "Where the applicant lives"},
    },
    "views": {
        "account": {
            "entity": "applicant",
            "source": "bank",
            "max_age_days": 30,
            "features": {
                "checking_band": {"type": "integer", "range": [0, 2], "description": "Band of the checking account"},
                "savings_band": {"type": "integer", "range": [0, 3], "description": "Band of the savings account"},
                "existing_credits": {
                    "type": "integer",
                    "range": [1, 4],
                    "description": "Credits at this bank",
                    "on_missing": {"default": 1},
                    "on_stale": {"use": "stale_value"},
                    "on_unavailable": {"verdict": "REFER", "reason": "PL_ACCOUNT_UNKNOWN"},
                },
                "credit_history": {
                    "type": "category",
                    "categories": [
                        "no credits taken/ all credits paid back duly",
                        "all credits at this bank paid back duly",
                        "existing credits paid back duly till now",
                        "delay in paying off in the past",
                        "critical account/ other credits existing (not at this bank)",
                    ],
                    "description": "How earlier credits went",
                },
            },
        },
        "home": {
            "entity": "address",
            "source": "land register",
            "caller_may_send": True,
            "features": {
                # Another order than the model's, so that codes must be translated.
                "housing": {"type": "category", "categories": ["rent", "for free", "own"], "description": "Housing"},
                "property": {
                    "type": "category",
                    "categories": [
                        "real estate",
                        "building society savings agreement/ life insurance",
                        "car or other, not in attribute Savings account/bonds",
                        "unknown / no property",
                    ],
                    "description": "What is owned",
                },
                "residence_band": {"type": "integer", "range": [1, 4], "description": "How long at this address"},
            },
        },
    },
    "request": {
        "purpose": {
            "type": "category",
            "categories": [
                "car (new)",
                "car (used)",
                "furniture/equipment",
                "radio/television",
                "domestic appliances",
                "repairs",
                "education",
                "retraining",
                "business",
                "others",
            ],
            "description": "What the money is for",
            "required": True,
        },
        "employment_band": {"type": "integer", "range": [0, 4], "description": "How long employed"},
        "instalment_rate_band": {"type": "integer", "range": [1, 4], "description": "Instalments over income"},
        "other_debtors": {
            "type": "category",
            "categories": ["none", "co-applicant", "guarantor"],
            "description": "Who else is liable",
        },
        "other_plans": {"type": "category", "categories": ["none", "bank", "stores"], "description": "Other plans"},
        "income": {"type": "float", "unit": "EUR/month", "range": [0, 1e6], "description": "Monthly income"},
        "debts": {"type": "float", "unit": "EUR/month", "range": [0, 1e6], "description": "Monthly debt payments"},
        "insolvent": {"type": "boolean", "description": "Whether insolvent"},
        "born": {"type": "timestamp", "description": "Date of birth"},
    },
    "derived": {
        "credit_amount": {"function": "copy", "arguments": ["application.amount"], "description": "Amount"},
        "duration_months": {"function": "copy", "arguments": ["application.term_months"], "description": "Term"},
        "age": {"function": "years_between", "arguments": ["born", "now"], "unit": "years", "description": "Age"},
    },
}

FLOW: dict[str, Any] = {
    "product": "tiny_loan",
    "description": "A loan for tests",
    "subject": "person",
    "currency": "EUR",
    "amount": {"min": 250, "max": 20_000, "step": 50},
    "terms_months": [6, 12, 24, 48],
    "views": ["account", "home"],
    "request": list(FEATURES["request"]),
    "derived": list(FEATURES["derived"]),
    "models": {"credit": {"model": "tiny_german", "component": "credit"}},
    "policy": {
        "tables": {
            "knock_outs": "policy/knock_outs.json",
            "cut_offs": "policy/cut_offs.json",
            "limit": "policy/limit.json",
            "price": "policy/price.json",
        },
        "legal_cap_percent": 30,
        "income": "income",
        "existing_debt_payments": "debts",
    },
}

_CREDIT_CODES = (
    "CR_TEST_CHECKING",
    "CR_TEST_SAVINGS",
    "CR_TEST_HISTORY",
    "CR_TEST_LOAN",
    "CR_TEST_EMPLOYMENT",
    "CR_TEST_PURPOSE",
    "CR_TEST_SECURITY",
    "CR_TEST_HOUSING",
    "CR_TEST_OTHER_PLANS",
)
_POLICY_CODES = (
    "PL_NO_RULE",
    "PL_INCOME_UNKNOWN",
    "PL_DEBT_UNKNOWN",
    "PL_NOT_OFFERED",
    "PL_AMOUNT_LIMIT",
    "PL_AFFORDABILITY",
    "PL_LEGAL_CAP",
    "PL_INSOLVENT",
    "PL_SCORE_LOW",
    "PL_SCORE_UNKNOWN",
    "PL_ACCOUNT_UNKNOWN",
)


def reason(component: str, name: str) -> dict[str, Any]:
    """One entry of reasons.yaml."""
    texts = {lang: {"applicant": f"{name} ({lang})", "internal": f"{name}, internal"} for lang in ("en", "zh")}
    return {"component": component, "texts": texts, "legal": {"regulation_b": "other: " + name}}


REASONS: dict[str, Any] = {
    "reasons": {
        **{code: reason("credit", code) for code in _CREDIT_CODES},
        **{code: reason("policy", code) for code in _POLICY_CODES},
        "CR_TEST_OLD": {**reason("credit", "CR_TEST_OLD"), "retired": "2020-01-01, no longer given"},
    }
}


def table(
    name: str, hit_policy: str, inputs: Sequence[str], outputs: Sequence[str], rules: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """One decision table as a JDM document. rules: a cell for each input, then for each output."""
    ins = [{"id": f"i{n}", "name": field, "field": field} for n, field in enumerate(inputs)]
    outs = [{"id": f"o{n}", "name": field, "field": field} for n, field in enumerate(outputs)]
    columns = [c["id"] for c in (*ins, *outs)]
    rows = [
        {"_id": f"{name}-{n}", "_description": "", **dict(zip(columns, cells, strict=True))}
        for n, cells in enumerate(rules)
    ]
    content = {"hitPolicy": hit_policy, "inputs": ins, "outputs": outs, "rules": rows}
    return {
        "contentType": "application/vnd.gorules.decision",
        "nodes": [
            {"id": "in", "type": "inputNode", "name": "in", "position": {"x": 0, "y": 0}, "content": {"schema": ""}},
            {
                "id": name,
                "type": "decisionTableNode",
                "name": name,
                "position": {"x": 300, "y": 0},
                "content": {
                    **content,
                    "passThrough": False,
                    "inputField": None,
                    "outputPath": None,
                    "executionMode": "single",
                },
            },
            {
                "id": "out",
                "type": "outputNode",
                "name": "out",
                "position": {"x": 600, "y": 0},
                "content": {"schema": ""},
            },
        ],
        "edges": [
            {"id": "a", "type": "edge", "sourceId": "in", "targetId": name},
            {"id": "b", "type": "edge", "sourceId": name, "targetId": "out"},
        ],
    }


TABLES: dict[str, dict[str, Any]] = {
    "knock_outs": table(
        "knock_outs",
        "collect",
        ["insolvent"],
        ["verdict", "reason"],
        [["true", '"DECLINE"', '"PL_INSOLVENT"'], ["null", '"REFER"', '"PL_ACCOUNT_UNKNOWN"']],
    ),
    "cut_offs": table(
        "cut_offs",
        "first",
        ["credit.points"],
        ["verdict", "band", "reason"],
        [
            ["null", '"REFER"', "", '"PL_SCORE_UNKNOWN"'],
            [">= 600", '"PASS"', '"A"', ""],
            ["[500..600)", '"PASS"', '"B"', ""],
            ["< 500", '"DECLINE"', "", '"PL_SCORE_LOW"'],
        ],
    ),
    "limit": table(
        "limit",
        "first",
        ["credit.band"],
        ["amount_max", "payment_to_income_max_percent", "existing_debt"],
        [["'A'", "20000", "40", '"deduct"'], ["'B'", "5000", "30", '"deduct"']],
    ),
    "price": table(
        "price",
        "first",
        ["credit.band", "offer.term_months"],
        ["annual_rate_percent", "fee_percent"],
        [["'A'", "", "6.0", "0.0"], ["'B'", "<= 24", "12.0", "1.0"], ["'B'", "> 24", "13.0", "1.0"]],
    ),
}

BUNDLE: dict[str, Any] = {
    "name": "tiny",
    "version": "0.1.0",
    "languages": ["en", "zh"],
    "flows": ["flows/tiny_loan.yaml"],
    "models": {"tiny_german": {"file": "tiny_german/model.onnx"}},
    "scenarios": ["scenarios/tiny_loan.yaml"],
}

ACCOUNT = {
    "checking_band": 2,
    "savings_band": 3,
    "existing_credits": 1,
    "credit_history": "existing credits paid back duly till now",
}
HOME = {"housing": "own", "property": "real estate", "residence_band": 4}
APPLICATION: dict[str, Any] = {
    "product": "tiny_loan",
    "amount": {"currencyCode": "EUR", "units": "1500"},
    "termMonths": 12,
    "subject": {"id": "p1"},
    "entities": [{"entity": "address", "id": "a1"}],
    "fields": {
        "purpose": {"text": "radio/television"},
        "employment_band": {"integer": "4"},
        "instalment_rate_band": {"integer": "2"},
        "other_debtors": {"text": "none"},
        "other_plans": {"text": "none"},
        "income": {"number": 3000.0},
        "debts": {"number": 200.0},
        "insolvent": {"flag": False},
    },
}
SCENARIO: dict[str, Any] = {
    "title": "A good applicant gets what he asks for",
    "application": APPLICATION,
    "features": {"account": {"values": ACCOUNT}, "home": {"values": HOME}},
    "expect": {"verdict": "APPROVE", "offer": {"amount": 1500, "term_months": 12}, "policy_reasons": []},
}


def write(file: Path, content: Mapping[str, Any]) -> None:
    """One file of a bundle: JSON or YAML by its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(content, indent=2), "utf-8")
    else:
        file.write_text(yaml.dump(dict(content), Dumper=_Plain, allow_unicode=True, sort_keys=False), "utf-8")


class _Plain(yaml.SafeDumper):
    """Writes every value out, as people do."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_bundle(root: Path) -> Path:
    """Writes the tiny bundle into a new directory."""
    write(root / "bundle.yaml", BUNDLE)
    write(root / "features.yaml", FEATURES)
    write(root / "reasons.yaml", REASONS)
    write(root / "flows" / "tiny_loan.yaml", FLOW)
    for role, content in TABLES.items():
        write(root / "policy" / f"{role}.json", content)
    write(root / "scenarios" / "tiny_loan.yaml", {"scenarios": [SCENARIO]})
    (root / "tiny_german").mkdir()
    shutil.copy(FIXTURE_MODELS / "tiny_german" / "model.onnx", root / "tiny_german" / "model.onnx")
    return root


def change(file: Path, path: Sequence[str | int], value: Any) -> None:
    """Puts a value into a YAML or JSON file of a bundle; None takes the entry out."""
    text = file.read_text("utf-8")
    content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    target = content
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    elif isinstance(target, list) and path[-1] == len(target):
        target.append(value)
    else:
        target[path[-1]] = value
    write(file, content)


def load_tiny(factory: Any) -> LoadedBundle:
    """The tiny bundle, written somewhere and loaded. factory: pytest's own of temporary paths."""
    return load_bundle(write_bundle(factory.mktemp("tiny") / "bundle"), scenarios=False)


def request(request_id: str = "r1") -> pb.DecideRequest:
    """The good applicant's request."""
    made = pb.DecideRequest(request_id=request_id)
    ParseDict(APPLICATION, made.application)
    return made


def rows(
    loaded: LoadedBundle,
    now_us: int,
    *,
    account: Mapping[str, Any] | None = None,
    home: Mapping[str, Any] | None = None,
) -> list[bytes]:
    """The good applicant's rows in the order of the flow, with changes."""
    writer = RowWriter(loaded.catalogue)
    return [
        writer.row("account", "p1", {**ACCOUNT, **(account or {})}, now_us).value,
        writer.row("home", "a1", {**HOME, **(home or {})}, now_us).value,
    ]
