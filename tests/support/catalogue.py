"""A feature catalogue with a rule of every kind, for those who write and read features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.bundle.catalogue import Catalogue
from engine.bundle.write_plan import read_catalogue

from .tiny import write

NOW_US = 1_760_000_000_000_000
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

FEATURES: dict[str, Any] = {
    "entities": {
        "applicant": {"key": "subject", "description": "Who asks for credit"},
        "device": {"description": "What he asks with"},
    },
    "views": {
        "file": {
            "entity": "applicant",
            "source": "bureau",
            "max_age_days": 30,
            "features": {
                "income": {
                    "type": "float",
                    "unit": "EUR/month",
                    "range": [0, 100_000],
                    "description": "Income",
                    "cleaning": {"units": {"EUR/year": 1 / 12, "USD/month": 0.9}},
                },
                "balance": {"type": "float", "unit": "EUR", "description": "Balance, of any size"},
                "utilisation": {
                    "type": "float",
                    "unit": "ratio",
                    "range": [0, 2],
                    "description": "Utilisation",
                    "cleaning": {"units": {"percent": 0.01}, "outside": "clip"},
                },
                "accounts": {
                    "type": "integer",
                    "unit": "count",
                    "range": [0, 500],
                    "description": "Accounts",
                    "cleaning": {"units": {"dozens": 12}, "outside": "drop"},
                },
                "arrears": {"type": "integer", "description": "Arrears, of any number"},
                "employed": {"type": "boolean", "description": "Whether employed"},
                "status": {
                    "type": "category",
                    "categories": ["single", "married", "widowed"],
                    "description": "Family",
                    "cleaning": {"map": {"S": "single", "M": "married", "1": "single"}},
                },
                "branch": {
                    "type": "category",
                    "categories": ["north", "south"],
                    "description": "Branch",
                    "cleaning": {"unknown": "drop"},
                },
                "default_at": {"type": "timestamp", "description": "When he defaulted"},
                "defaulted": {
                    "type": "boolean",
                    "description": "Whether he did",
                    "expiry": {"since": "default_at", "after_days": 1826, "then": False},
                },
                "member_since": {
                    "type": "timestamp",
                    "range": [946_684_800, 4_102_444_800],
                    "max_age_days": 1000,
                    "description": "Member since",
                    "cleaning": {"outside": "clip"},
                },
            },
        },
        "device_file": {
            "entity": "device",
            "source": "device intelligence",
            "features": {"device_age_days": {"type": "float", "unit": "days", "range": [0, 1e5], "description": "Age"}},
        },
        "seen": {
            "entity": "device",
            "source": "events",
            "features": {
                "device_count_24h": {
                    "type": "integer",
                    "description": "Applications",
                    "counter": {"what": "count", "window": "24h"},
                },
                "device_applicants_7d": {
                    "type": "integer",
                    "description": "Applicants",
                    "counter": {"what": "distinct", "of": "applicant", "window": "7d"},
                },
                "device_amount_7d": {
                    "type": "float",
                    "unit": "EUR",
                    "description": "Amount",
                    "counter": {"what": "sum", "of": "amount", "window": "7d"},
                },
                "device_since": {
                    "type": "float",
                    "unit": "seconds",
                    "description": "Since the last",
                    "counter": {"what": "time_since", "window": "30d"},
                },
            },
        },
    },
}

# A row of the view `file` with nothing wrong, as Python values of a typed file.
GOOD: dict[str, Any] = {
    "income": 2500.0,
    "balance": -12.5,
    "utilisation": 0.4,
    "accounts": 3,
    "arrears": 0,
    "employed": True,
    "status": "married",
    "branch": "north",
    "default_at": "2015-05-01T00:00:00Z",
    "defaulted": False,
    "member_since": "2010-01-01T00:00:00Z",
}


def write_catalogue(root: Path, features: dict[str, Any] | None = None) -> Path:
    """Writes what of a bundle concerns writers into a directory."""
    write(root / "features.yaml", FEATURES if features is None else features)
    write(root / "reasons.yaml", {"reasons": {}})
    return root


def catalogue_in(root: Path, features: dict[str, Any] | None = None) -> Catalogue:
    """The catalogue, read and checked."""
    return read_catalogue(write_catalogue(root, features))
