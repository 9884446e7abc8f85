"""Lets a challenger decide on the facts of an answer: the same rows where it reads the same, otherwise what was known,
by the names of the features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.domain.facts import UNNAMED, Facts, Row, RowFault
from engine.domain.outcome import Terms
from engine.features.plan import FeaturePlan
from engine.features.refit import Asked, Refit, at_terms, known_of
from engine.pipeline import Conclusion, Prepared, conclude, conclude_facts, prepare
from engine.plan import BundlePlan

# Learns the schemas of rows that could not be read; whether they can be now.
Learn = Callable[[FeaturePlan, Iterable[RowFault]], bool]
_REFITS_MAX = 64


class Carried(NamedTuple):
    """What a challenger came to. by_name: its rows were not all read for the answer."""

    conclusion: Conclusion
    by_name: bool


class Carrier:
    """Used by one thread. learn: of the reader that reads rows for answers."""

    def __init__(self, learn: Learn | None = None) -> None:
        self._learn = learn
        self._refits: dict[tuple[str, int], Refit] = {}

    def decide(self, plan: BundlePlan, request: DecideRequest, answered: Conclusion, rows: Sequence[Row]) -> Carried:
        """Decides an application again, by another plan, at the same moment and on the same facts.

        rows: those that the answer was made with, one for each of its reads. Raises RequestError where the plan does
        not take the application, and whatever a decision may raise.
        """
        tick, now_us = time.perf_counter_ns, answered.now_us
        prepared = prepare(plan, request, now_us, tick)
        had = dict(zip(answered.prepared.reads, rows, strict=True))
        prepared.marks.append(tick())
        if all(key is None or key in had for key in prepared.reads):
            same = [UNNAMED if key is None else had[key] for key in prepared.reads]
            return Carried(self._conclude(prepared, same, now_us), False)
        prepared.marks.append(tick())
        refit = self._refit(answered.prepared.flow.features, prepared.flow.features)
        facts = refit.facts(known_of(answered.facts), _asked(prepared, now_us, None))
        at = partial(_at_terms, prepared, facts, now_us)
        return Carried(conclude_facts(prepared, facts, at, now_us, tick), True)

    def _conclude(self, prepared: Prepared, rows: Sequence[Row], now_us: int) -> Conclusion:
        marks = len(prepared.marks)
        concluded = conclude(prepared, rows, now_us, time.perf_counter_ns)
        faults = concluded.facts.faults
        if faults and self._learn is not None and self._learn(prepared.flow.features, faults):
            del prepared.marks[marks:]
            concluded = conclude(prepared, rows, now_us, time.perf_counter_ns)
        return concluded

    def _refit(self, source: FeaturePlan, target: FeaturePlan) -> Refit:
        key = (source.catalogue_digest, id(target))
        if key not in self._refits:
            if len(self._refits) >= _REFITS_MAX:
                self._refits.clear()
            self._refits[key] = Refit(source.catalogue_json, target)
        return self._refits[key]


def _asked(prepared: Prepared, now_us: int, terms: Terms | None) -> Asked:
    application = prepared.application
    terms = terms or Terms(application.amount_minor, application.term_months)
    unnamed = [place for place, key in enumerate(prepared.reads) if key is None]
    return Asked(terms.amount_minor / prepared.flow.minor_per_major, float(terms.term_months), now_us, unnamed)


def _at_terms(prepared: Prepared, facts: Facts, now_us: int, terms: Terms) -> Facts:
    return at_terms(prepared.flow.features, facts, _asked(prepared, now_us, terms))
