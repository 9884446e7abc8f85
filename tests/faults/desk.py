"""Whole decisions with the shipped bundle over a store that a test spoils, and what must be true of every one of them.

    desk = Desk(store, tmp_path)              # a Decider in this process, with a journal of its own
    desk.load()                               # the rows of an applicant with nothing against him
    desk.decide()                             # -> Answer: the decision, how long it took, what it lacked
    Reference(tmp_path).check([answer])       # in time; as the catalogue declares for just these gaps; said so

What the catalogue declares is not written down a second time: a reference desk, whose store gives everything but the
same views, says what the verdict, the reasons and the substitutions must be.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assay.decision.v1 import decision_pb2 as pb
from engine.clock import SystemClock
from engine.decider import Asked, Decider, Served
from engine.domain.facts import UNREAD
from engine.errors import StoreError
from engine.feature_reader import FeatureReader, ReadSettings
from engine.features.store import FeatureStore, parse_key
from engine.features.stores.memory import MemoryStore
from engine.features.stores.partial import PartialRead
from engine.labels import make_labels
from engine.record.log import DecisionLog
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.bundles import shipped
from tests.support.faulty import until

TRACE = "ab" * 16
# The reads' budget, and how long a decision takes as a rule, whatever its store does. The machine may stand still for
# seconds at times; that is no fault of the store's, so the caller's deadline for one decision is far later.
BUDGET_S, USUAL_S, DEADLINE_S = 0.5, 2.0, 20.0
# The same where the store must answer: only a fault of the store's own may take anything from a decision.
PATIENT_BUDGET_S, PATIENT_DEADLINE_S = 60.0, 90.0
LENDS = (pb.VERDICT_APPROVE, pb.VERDICT_COUNTER_OFFER)


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, the seconds it took, and the views whose features it lacked because they were UNAVAILABLE."""

    decision: pb.Decision
    took_s: float
    lost: frozenset[str]

    @property
    def verdict(self) -> str:
        """Its name, without the prefix."""
        return pb.Verdict.Name(self.decision.verdict).removeprefix("VERDICT_")


class Desk:
    """Decides one application of one good applicant over and over, each time under a new request id.

    patient: reads may take as long as a machine that stands still now and then needs.
    """

    def __init__(self, store: FeatureStore, home: Path, subject: str = "", *, patient: bool = False) -> None:
        self.store, self.subject, self.patient = store, subject or new_id("good"), patient
        self._log = DecisionLog.open(home / new_id("decisions"))
        plan = shipped().plan
        reads = ReadSettings(budget_s=PATIENT_BUDGET_S if patient else BUDGET_S)
        self._decider = Decider(FeatureReader(store, reads), self._log, SystemClock())
        self._decider.serve(Served(plan, make_labels(plan, store.name)))
        features = plan.flows["consumer_loan.application"].features
        self._views = {feature.name: feature.view for feature in features.features if feature.view}

    def load(self) -> None:
        """Writes the applicant's rows. Raises StoreError when the store does not take them."""
        load_rows(self.store, all_ids(self.subject))

    def decide(self) -> Answer:
        """One decision."""
        request = consumer(self.subject)
        begin_s = time.monotonic()
        deadline_s = begin_s + (PATIENT_DEADLINE_S if self.patient else DEADLINE_S)
        answer = self._decider.decide(request, Asked(TRACE, deadline_s))
        took_s = time.monotonic() - begin_s
        decision = pb.Decision.FromString(answer)
        lost = {
            self._views[s.feature]
            for s in decision.substitutions
            if s.status == pb.FEATURE_STATUS_UNAVAILABLE and s.feature in self._views
        }
        return Answer(decision, took_s, frozenset(lost))

    def close(self) -> None:
        """Closes the journal and the store."""
        self._log.close()
        self.store.close()


class OpenDesk(Protocol):
    """Makes a desk that is closed when the test is over."""

    def __call__(self, store: FeatureStore, *, patient: bool = False) -> Desk: ...


class _Without(MemoryStore):
    """Gives everything but the rows of some views."""

    views: frozenset[str] = frozenset()

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        found = super().read(keys)
        if self.views:
            gaps = [UNREAD if parse_key(key).view in self.views else row for key, row in zip(keys, found, strict=True)]
            raise PartialRead("as the test wants it", gaps)
        return found


class Reference:
    """What the catalogue declares."""

    def __init__(self, home: Path) -> None:
        self._store = _Without()
        self._desk = Desk(self._store, home, patient=True)
        self._desk.load()
        self._known: dict[frozenset[str], pb.Decision] = {}

    def decision(self, lost: frozenset[str]) -> pb.Decision:
        """The decision when these views are UNAVAILABLE and all others are there."""
        if lost not in self._known:
            self._store.views = lost
            answer = self._desk.decide()
            assert answer.lost == lost, "a view that is lost must be said to be"
            self._known[lost] = answer.decision
        return self._known[lost]

    def check(self, answers: Iterable[Answer]) -> None:
        """The answers came in time; every one has the verdict and the reasons that are declared for what it lacked,
        lists just that, and nobody is lent money to without a credit file."""
        answers = list(answers)
        assert not answers or statistics.median(answer.took_s for answer in answers) < USUAL_S
        for answer in answers:
            decision, declared = answer.decision, self.decision(answer.lost)
            assert answer.took_s < DEADLINE_S
            assert decision.verdict == declared.verdict, answer.lost
            assert _codes(decision) == _codes(declared), answer.lost
            assert _substituted(decision) == _substituted(declared), answer.lost
            assert decision.verdict not in LENDS or "credit_file" not in answer.lost
            assert decision.record_state == pb.RECORD_STATE_RECORDED

    def close(self) -> None:
        """Ends it."""
        self._desk.close()


def _codes(decision: pb.Decision) -> list[str]:
    return sorted(reason.code for reason in decision.policy_reasons)


def _substituted(decision: pb.Decision) -> list[tuple[str, int, int]]:
    return sorted((s.feature, s.status, s.action) for s in decision.substitutions)


def loaded(desk: Desk, timeout_s: float = 60.0) -> None:
    """Writes the applicant's rows as soon as the store takes them."""

    def taken() -> bool:
        try:
            desk.load()
        except StoreError:
            return False
        return True

    until(taken, timeout_s)


def recovered(desk: Desk, timeout_s: float = 60.0) -> float:
    """Waits until a decision lacks nothing. Gives the seconds that took."""
    begin_s = time.monotonic()
    while True:
        answer = desk.decide()
        if not answer.decision.substitutions:
            assert answer.decision.verdict == pb.VERDICT_APPROVE
            return time.monotonic() - begin_s
        assert time.monotonic() - begin_s < timeout_s, "it did not recover"
        time.sleep(0.01)
