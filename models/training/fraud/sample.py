"""Applications with the rows that a feature store would hold for them: for demonstrations and tests.

    for row in fraud_rows(200, seed=3):
        store(row["rows"]); decide(row["application"], row["entities"])

Standard library and numpy only; the rows come from a small stream of the same making as the one the model learned
from, with another seed and more frauds.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from models.training.fraud.difficulty import DEFAULT_LEVEL
from models.training.fraud.features import FEATURES, feature_columns
from models.training.fraud.population import DAY_SECONDS, ENTITIES
from models.training.fraud.schemes import FRAUD_TYPES
from models.training.fraud.stream import generate

Scalar = float | int | bool | None
LEGITIMATE_NAME = "legitimate"
_SEED_OFFSET = 1_000_000  # so that no seed gives the stream of training
_WARM_UP_DAYS = 31  # the longest window, and a day


class FraudRow(TypedDict):
    """One application.

    id: "sample-<seed>-<number>"; truth: "legitimate" or one of FRAUD_TYPES; event_time_s: seconds from the start of
    the stream; application: amount_usd (whole USD), income_monthly_usd (None when not stated), and the application's
    own features by name; entities: entity -> id, without those that the application does not have; rows: view ->
    feature -> value as it stood just before the application, None for missing. Numbers are int for integer features,
    bool for boolean ones, else float.
    """

    id: str
    truth: str
    event_time_s: int
    application: dict[str, Scalar]
    entities: dict[str, str]
    rows: dict[str, dict[str, Scalar]]


def fraud_rows(n: int, seed: int = 0, difficulty: str = DEFAULT_LEVEL, *, fraud_share: float = 0.2) -> list[FraudRow]:
    """`n` applications in order of time, the share `fraud_share` of them frauds, as many of each type as can be.

    Each has the features of its own moment. Ids are its own as well, so that a store that holds one row an entity can
    hold all of them at once: what is shared shows in the counters, not in equal ids. Raises ValueError for a negative
    `n`, a share outside 0 to 1, or an unknown difficulty.
    """
    if n < 0 or not 0.0 <= fraud_share <= 1.0:
        raise ValueError(f"n is {n} and fraud_share {fraud_share}; n must not be negative, the share from 0 to 1")
    wanted = round(n * fraud_share)
    days = _WARM_UP_DAYS + 29
    in_stream = 0.05
    daily = max(100.0, 3.0 * (n - wanted) / 29, 1.6 * wanted / (29 * in_stream * 0.7))
    stream = generate(_SEED_OFFSET + seed, days=days, daily=daily, fraud_share=in_stream, level=difficulty)
    rng = np.random.default_rng(seed)
    late = stream.t_s >= _WARM_UP_DAYS * DAY_SECONDS
    chosen: list[int] = []
    for place in range(len(FRAUD_TYPES)):
        share = wanted // len(FRAUD_TYPES) + (place < wanted % len(FRAUD_TYPES))
        pool = np.flatnonzero(late & (stream.kind == place + 1))
        chosen.extend(rng.choice(pool, size=min(share, len(pool)), replace=False).tolist())
    honest = np.flatnonzero(late & (stream.kind == 0))
    chosen.extend(rng.choice(honest, size=min(n - len(chosen), len(honest)), replace=False).tolist())
    columns = feature_columns(stream)
    names = (LEGITIMATE_NAME, *FRAUD_TYPES)
    made: list[FraudRow] = []
    for number, at in enumerate(sorted(chosen)):
        mark = f"{seed}-{number:05d}"
        entities = {name: f"{name}-{mark}" for name in ENTITIES if stream.ids[name][at] >= 0}
        views: dict[str, dict[str, Scalar]] = {}
        for f in FEATURES:
            if f.entity == "application" or f.entity in entities:
                views.setdefault(f.view, {})[f.name] = _plain(float(columns[f.name][at]), f.type)
        application: dict[str, Scalar] = {
            "amount_usd": int(stream.facts["amount"][at]),
            "income_monthly_usd": _plain(float(stream.facts["income_monthly"][at]), "float"),
            **views.pop("application"),
        }
        made.append(
            FraudRow(
                id=f"sample-{mark}",
                truth=names[int(stream.kind[at])],
                event_time_s=int(stream.t_s[at]),
                application=application,
                entities=entities,
                rows=views,
            )
        )
    return made


def vector(row: FraudRow) -> list[float]:
    """The model's input of a sample row, in the order of FEATURES, NaN for missing."""
    found = dict(row["application"])
    for values in row["rows"].values():
        found.update(values)
    values_in_order = (found.get(f.name) for f in FEATURES)
    return [float("nan") if value is None else float(value) for value in values_in_order]


def _plain(value: float, type_name: str) -> Scalar:
    if math.isnan(value):
        return None
    if type_name == "boolean":
        return value != 0.0
    return int(value) if type_name == "integer" else round(value, 6)
