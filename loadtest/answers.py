"""What an answer holds: decisions by verdict, and what went wrong inside an answer that came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from assay.decision.v1 import decision_pb2
from assay.feature.v1 import feature_pb2
from loadtest import grpc_errors

_VERDICTS = {number: name.removeprefix("VERDICT_") for name, number in decision_pb2.Verdict.items()}
_REJECTED = {number: name.removeprefix("REJECT_REASON_") for name, number in feature_pb2.RejectReason.items()}
# What operators who do the same at once are told, and a server that served one bundle alone.
EXPECTED: frozenset[tuple[str, str]] = frozenset(
    {
        ("Rollback", "NO_PREVIOUS_BUNDLE"),
        *((rpc, reason) for rpc in ("Activate", "Rollback", "SetTraffic", "LoadBundle", "UploadBundle")
          for reason in ("GENERATION_CHANGED", "CHANGE_IN_PROGRESS")),
    }
)  # fmt: skip


@dataclass(slots=True)
class Found:
    """What was found in the answers of one call.

    decisions: given; verdicts: by name; errors: items that failed, shed: items refused for lack of room, both
    by reason; replayed: decisions given again; retry_after_s: the longest wait that an item was told, None without.
    """

    decisions: int = 0
    replayed: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)
    retry_after_s: float | None = None

    def read(self, rpc: str, answer: Any) -> None:
        """Takes in an answer, or one of a stream."""
        if rpc == "Decide":
            self._decision(answer.decision)
        elif rpc == "DecideBatch":
            for item in answer.items:
                self._item(item)
        elif rpc == "DecideStream":
            self._item(answer)
        elif rpc == "PutFeatures":
            self._rejected(answer.rejected)
        elif rpc == "IngestEvents":
            self._rejected(answer.rejected)
            if answer.unreadable:
                self.errors["UNREADABLE_COUNTERS"] += answer.unreadable
        elif rpc == "RecordOutcomes":
            for one in answer.rejected:
                self._failed(one.error)

    def _item(self, item: Any) -> None:
        if item.HasField("decision"):
            self._decision(item.decision)
        else:
            self._failed(item.error)

    def _decision(self, decision: decision_pb2.Decision) -> None:
        if not decision.decision_id or decision.verdict not in _VERDICTS or not decision.verdict:
            self.errors["EMPTY_DECISION"] += 1
            return
        self.decisions += 1
        self.replayed += decision.replayed
        self.verdicts[_VERDICTS[decision.verdict]] += 1

    def _failed(self, status: Any) -> None:
        failure = grpc_errors.of_status(status)
        if failure.shed:
            self.shed[failure.reason] += 1
            self.retry_after_s = max(self.retry_after_s or 0.0, failure.retry_after_s or 0.0)
        else:
            self.errors[failure.reason] += 1

    def _rejected(self, rows: Any) -> None:
        for row in rows:
            reason = _REJECTED[row.faults[0].reason] if row.faults else "UNSAID"
            self.errors[f"REJECTED_{reason}"] += 1
