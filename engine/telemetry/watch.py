"""What the decider tells of its decisions: into their call's trace and into the metrics. All of it when the decision is
in the journal already, and nothing of it can fail it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from assay.decision.v1.decision_pb2 import Decision
from engine.pipeline import Conclusion
from engine.plan import BundlePlan
from engine.telemetry.metrics.flow_series import FlowSeries
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.tracing.redact import IdHasher
from engine.telemetry.tracing.stages import (
    NO_DECISION,
    Flaws,
    FlowWords,
    decision_values,
    flaws_of,
    replayed_values,
    stage_run,
)
from engine.telemetry.tracing.tail import TailRule
from engine.telemetry.tracing.trace_record import PLAIN

_log = logging.getLogger("assay.telemetry")


@dataclass(frozen=True, slots=True)
class WatchedFlow:
    """What goes by flow: the words of its spans and the series of its metrics."""

    words: FlowWords
    series: FlowSeries | None


class Written(NamedTuple):
    """A decision and what became of its record. began_ns, ended_ns: when it was written, on the clock of the marks."""

    decision_id: str
    trace_id: str
    began_ns: int
    ended_ns: int
    size_bytes: int
    recorded: bool


class DecisionWatch:
    """Told of decisions by the threads that make them.

    metrics: None: nothing is counted. hasher: of the ids that spans show. tail: says which traces are kept in the end,
    so that no exemplar points to one that is not. durability: of the journal, as spans say it.
    """

    def __init__(
        self, metrics: Metrics | None, hasher: IdHasher, tail: TailRule | None = None, durability: str = "process"
    ) -> None:
        self._metrics, self._hasher = metrics, hasher
        self._tail, self._durability = tail or TailRule(), durability
        self._failed = False

    def prepare(self, plan: BundlePlan) -> Mapping[str, WatchedFlow]:
        """A bundle may come to decide. Gives what goes by its flows' names."""
        series: Mapping[str, FlowSeries] = {} if self._metrics is None else self._metrics.prepare(plan)
        return {
            name: WatchedFlow(FlowWords(flow, plan.digest, self._durability), series.get(name))
            for name, flow in plan.flows.items()
        }

    def switch(self, plan: BundlePlan, watched: Mapping[str, WatchedFlow]) -> None:
        """A bundle is the default one from now on."""
        if self._metrics is not None:
            series = {name: one.series for name, one in watched.items() if one.series is not None}
            self._metrics.switch(plan, series)

    def serve(self, plan: BundlePlan) -> Mapping[str, WatchedFlow]:
        """`prepare` and `switch` in one, for who serves one bundle at a time."""
        watched = self.prepare(plan)
        self.switch(plan, watched)
        return watched

    def decided(
        self, flow: WatchedFlow, concluded: Conclusion, written: Written, call: CallTrace | None, index: int | None
    ) -> None:
        """A decision is answered. index: its place in a batch, None where it is the call's only one. Never raises: the
        decision stands, whatever becomes of what is told of it."""
        try:
            flaws = flaws_of(concluded)
            exemplar = ""
            if call is not None:
                self._trace(flow.words, concluded, flaws, written, call, index)
                if call.outcome != PLAIN or self._tail.in_share(call.context.trace_id):
                    exemplar = written.trace_id
            if self._metrics is not None and flow.series is not None:
                self._metrics.decisions.observe(
                    flow.series,
                    concluded.outcome.verdict,
                    concluded.prepared.marks,
                    written.ended_ns,
                    concluded.facts,
                    concluded.scores,
                    concluded.reasons,
                    concluded.now_us,
                    exemplar,
                    flaws.degraded,
                    written.recorded,
                )
        except Exception:
            if not self._failed:
                self._failed = True
                _log.exception("a decision cannot be told of; later ones may not be either, without a word")

    def _trace(
        self,
        words: FlowWords,
        concluded: Conclusion,
        flaws: Flaws,
        written: Written,
        call: CallTrace,
        index: int | None,
    ) -> None:
        """Notes the decision's attributes and its stages."""
        decision_id, _, began_ns, ended_ns, size_bytes, recorded = written
        about = decision_values(call, words, concluded, decision_id, recorded, flaws.degraded, self._hasher)
        parent = 0
        if index is None:
            call.decided = about
        else:
            begun_ns = concluded.prepared.marks[0]
            parent = call.add(shapes.DECIDE_ITEM, begun_ns, ended_ns, (index, None, *about))
        call.spans.append(stage_run(words, concluded, flaws, parent, began_ns, ended_ns, size_bytes, recorded))

    def replayed(self, decision: Decision, tick_ns: int, call: CallTrace | None, index: int | None) -> None:
        """A stored decision is given again."""
        if self._metrics is not None:
            self._metrics.decisions.replayed()
        if call is not None:
            about = replayed_values(call, decision, self._hasher)
            self._item(call, tick_ns, index, about)

    def refused(self, word: str, tick_ns: int, call: CallTrace | None, index: int) -> None:
        """An item of a batch is refused. word: its ErrorReason."""
        if call is not None:
            call.add(shapes.DECIDE_ITEM, tick_ns, tick_ns, (index, word, *NO_DECISION), word)

    def _item(self, call: CallTrace, tick_ns: int, index: int | None, about: tuple[Any, ...]) -> None:
        if index is None:
            call.decided = about
        else:
            call.add(shapes.DECIDE_ITEM, tick_ns, tick_ns, (index, None, *about))
