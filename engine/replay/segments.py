"""Which segments a decision belongs to: product, flow, score band, amount band, month, and named categories."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1.decision_record_pb2 import DecisionRecord

ALL = "all"
DIMENSIONS = ("product", "flow", "month", "score band", "amount band")
NONE = "(none)"
_BAND_POINTS = 50


class Segmenter:
    """Gives the segments of records. features: further dimensions, categories or flags of the records by name."""

    def __init__(self, features: Sequence[str]) -> None:
        self._features = tuple(features)
        self._places: dict[bytes, dict[str, tuple[int, dict[str, Any]]]] = {}

    def of(self, record: DecisionRecord, catalogue: bytes, now_us: int) -> list[tuple[str, str]]:
        """Dimension and segment, the whole first."""
        decision, application = record.decision, record.application
        month = datetime.fromtimestamp(now_us / 1e6, UTC).strftime("%Y-%m")
        found = [
            (ALL, ALL),
            ("product", application.product),
            ("flow", decision.flow),
            ("month", month),
            ("score band", score_band(decision)),
            ("amount band", amount_band(application.amount.units, application.amount.currency_code)),
        ]
        if self._features:
            places = self._listing(catalogue)
            found += [(name, _name(places.get(name), record)) for name in self._features]
        return found

    def _listing(self, catalogue: bytes) -> dict[str, tuple[int, dict[str, Any]]]:
        if catalogue not in self._places:
            try:
                entries = json.loads(catalogue)["features"]
            except (ValueError, KeyError, TypeError):
                entries = []
            self._places[catalogue] = {entry["name"]: (place, entry) for place, entry in enumerate(entries)}
        return self._places[catalogue]


def credit_score(decision: pb.Decision) -> pb.Score | None:
    """What the first credit model said, when it gave a score."""
    for score in decision.scores:
        if score.component == pb.COMPONENT_CREDIT:
            return score if score.status == pb.SCORE_STATUS_OK else None
    return None


def score_band(decision: pb.Decision) -> str:
    """The recorded credit score in bands of 50 points, or its probability in bands where it has no points."""
    score = credit_score(decision)
    if score is None:
        return NONE
    if score.HasField("points"):
        low = score.points // _BAND_POINTS * _BAND_POINTS
        return f"{low}-{low + _BAND_POINTS - 1}"
    return probability_band(score.probability) if score.HasField("probability") else NONE


# Upper ends, in percent; fine where lenders live.
_ENDS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 100)


def probability_band(probability: float) -> str:
    """A probability as a band in percent. Bands sort as texts do."""
    low: float = 0
    for end in _ENDS:
        if probability * 100 < end or end == 100:
            break
        low = end
    return f"{low:04.1f}-{end:04.1f} %"


def amount_band(units: int, currency: str) -> str:
    """An amount in bands of 1, 2, 5, 10, 20, 50, ... by its currency."""
    if units < 1:
        return f"below 1 {currency}"
    ten = 10 ** int(math.log10(units) + 1e-9)
    low, high = next((a, b) for a, b in ((5, 10), (2, 5), (1, 2)) if units >= a * ten)
    return f"{low * ten:,}-{high * ten - 1:,} {currency}"


def _name(found: tuple[int, dict[str, Any]] | None, record: DecisionRecord) -> str:
    if found is None:
        return NONE
    place, entry = found
    raw = record.packed_facts.values[8 * place : 8 * place + 8]
    value = math.nan if len(raw) < 8 else float(memoryview(raw).cast("d")[0])
    if value != value:
        return NONE
    if entry["type"] == "category":
        names: list[str] = entry["categories"]
        return names[int(value)] if 0 <= value < len(names) else NONE
    if entry["type"] == "boolean":
        return "yes" if value else "no"
    return NONE
