"""Many claims decided with one read and shared runs of the models: those of a batch, and those of calls that met."""

from __future__ import annotations

from collections.abc import Sequence

from engine.clock import Clock
from engine.decider.claim import Claim
from engine.decider.keep import Keeper
from engine.domain.facts import Row
from engine.feature_reader import FeatureReader
from engine.pipeline import Conclusion, Prepared, conclude, conclude_many
from engine.telemetry.tracing.call import CallTrace, current
from engine.telemetry.tracing.context import publish, withdraw

# Moments noted before `conclude`: start, validated, rows read.
_MARKS_BEFORE_CONCLUDE = 3


class Concluder:
    """Reads and concludes. Threads may call it at once."""

    def __init__(self, reader: FeatureReader, clock: Clock, keeper: Keeper) -> None:
        self._reader, self._clock, self._keeper = reader, clock, keeper

    def decide_one(self, claim: Claim) -> bytes:
        """Decides a claim by itself. Raises Refusal, RecordError."""
        prepared = claim.ready
        trace, own = claim.asked.trace, current.call
        if trace is None or trace is own:
            claim.rows = self._reader.read_one(prepared, claim.asked.deadline_s)
        else:
            # One of several calls of this thread: what the read has to say is this one's.
            token, current.call = publish(trace.context), trace
            try:
                claim.rows = self._reader.read_one(prepared, claim.asked.deadline_s)
            finally:
                withdraw(token)
                current.call = own
        prepared.marks.append(self._clock.tick_ns())
        return self._keeper.keep(claim, self._conclude(prepared, claim.rows, self._clock.now_us()))

    def decide_many(self, claims: Sequence[Claim], deadline_s: float | None) -> None:
        """Decides claims into their results, by bundle and flow; one at fault harms no other. deadline_s: that of the
        work that they share."""
        read = self._read(claims, deadline_s)
        by_flow: dict[tuple[int, str], list[Claim]] = {}
        tick_ns = self._clock.tick_ns()
        for claim, rows in zip(claims, read, strict=True):
            claim.rows = rows
            claim.ready.marks.append(tick_ns)
            by_flow.setdefault((id(claim.arm.served), claim.ready.flow.name), []).append(claim)
        now_us = self._clock.now_us()
        done: list[tuple[Claim, Conclusion]] = []
        for group in by_flow.values():
            for claim, first in self._conclude_each(group, now_us):
                concluded = first
                if isinstance(first, Conclusion) and first.facts.faults:
                    concluded = self._once_more(first, claim.rows, now_us)
                if isinstance(concluded, Exception):
                    claim.result = concluded
                else:
                    done.append((claim, concluded))
        self._keeper.keep_many(done, deadline_s)

    def _read(self, claims: Sequence[Claim], deadline_s: float | None) -> list[list[Row]]:
        """One read for all. What it has to say of itself is noted in the trace of each of their calls."""
        traces: list[CallTrace] = []
        for claim in claims:
            trace = claim.asked.trace
            if trace is not None and (not traces or trace is not traces[-1]):
                traces.append(trace)
        prepared = [claim.ready for claim in claims]
        if not traces:
            return self._reader.read_many(prepared, deadline_s)
        first, own = traces[0], current.call
        first.sharing = len(claims)
        noted, current.call = first.noted(), first
        # What plug-ins make of the read is the first one's, too: a span has one trace.
        token = publish(first.context)
        try:
            return self._reader.read_many(prepared, deadline_s)
        finally:
            withdraw(token)
            current.call = own
            for trace in traces[1:]:
                trace.take_over(first, noted)

    def _conclude_each(self, claims: Sequence[Claim], now_us: int) -> list[tuple[Claim, Conclusion | Exception]]:
        """Concludes items of one flow together; should that fail, one by one, so that the one at fault stands alone."""
        prepared, rows = [claim.ready for claim in claims], [claim.rows for claim in claims]
        try:
            return list(zip(claims, conclude_many(prepared, rows, now_us, self._clock.tick_ns), strict=True))
        except Exception as error:
            for one in prepared:
                del one.marks[_MARKS_BEFORE_CONCLUDE:]
            if len(claims) == 1:
                return [(claims[0], error)]
        return [self._conclude_each([claim], now_us)[0] for claim in claims]

    def _conclude(self, prepared: Prepared, rows: Sequence[Row], now_us: int) -> Conclusion:
        """Decides; once more when rows of a schema were met that the store can explain."""
        marks = len(prepared.marks)
        concluded = conclude(prepared, rows, now_us, self._clock.tick_ns)
        faults = concluded.facts.faults
        if faults and self._reader.learn(prepared.flow.features, faults):
            del prepared.marks[marks:]
            concluded = conclude(prepared, rows, now_us, self._clock.tick_ns)
        return concluded

    def _once_more(self, concluded: Conclusion, rows: Sequence[Row], now_us: int) -> Conclusion | Exception:
        """The same with what the store can explain of rows that could not be used."""
        prepared = concluded.prepared
        if not self._reader.learn(prepared.flow.features, concluded.facts.faults):
            return concluded
        del prepared.marks[_MARKS_BEFORE_CONCLUDE:]
        try:
            return conclude(prepared, rows, now_us, self._clock.tick_ns)
        except Exception as error:
            return error
