"""What is known of many applications of one flow while they are gathered together (`engine.features.gather_many`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import FeatureStatus, ValueOrigin
from engine.domain.facts import ByteArray, FloatArray, Row, Substitution
from engine.domain.outcome import DegradedVerdict
from engine.features.block import (
    LAST_GOOD_ROW,
    OTHER_BYTES,
    ROW_STATUS_OF,
    ROW_STATUSES,
    UNNAMED_ROW,
    Block,
    is_sound,
    set_aside,
)
from engine.features.encoding import STATE_MAGIC
from engine.features.plan import FeaturePlan
from engine.features.read_row import (
    CLOCK_SKEW_US,
    NOT_FOUND,
    NULL,
    PRESENT,
    UNAVAILABLE,
    Seen,
    count,
    row_status,
)
from engine.features.rules import expire, substitute, withhold

NAN = float("nan")
_PRESENT = FeatureStatus.PRESENT
_CALLER = int(ValueOrigin.CALLER)
# The values before anything stood in, and what is to be told of what did: substitutions, verdicts, slots they hang on.
Lacking = tuple[FloatArray, tuple[Substitution, ...], tuple[DegradedVerdict, ...], frozenset[int]]


def _nothing_seen() -> Seen:
    return Seen({}, {}, {}, {}, set(), [])


_UNSEEN = _nothing_seen()


class Batch:
    """What is known so far of each application, by its place.

    matrix: values, built-ins and constants, one line each; values: the first columns of it; whole: whether nothing is
    absent in any; alone: those to be left to `gather`, whose lines mean nothing; seen, view_statuses, origins: of those
    only that are unlike the plan's own.
    """

    def __init__(self, plan: FeaturePlan, many: int, now_us: int) -> None:
        self.plan, self.now_us = plan, now_us
        self.matrix = np.empty((many, plan.count + 3 + len(plan.constants)))
        self.values: FloatArray = self.matrix[:, : plan.count]
        self.statuses: ByteArray = np.empty((many, plan.count), np.uint8)
        self.statuses[:] = plan.statuses_template
        self.alone: set[int] = set()
        self.seen: defaultdict[int, Seen] = defaultdict(_nothing_seen)
        self.view_statuses: defaultdict[int, list[FeatureStatus]] = defaultdict(lambda: [_PRESENT] * len(plan.views))
        self.origins: dict[int, ByteArray] = {}
        self.event_times: list[list[int]] = []
        self.whole = True

    def read(self, block: Block, rows_of_each: Sequence[Sequence[Row]]) -> None:
        """Reads all rows into the matrix."""
        given: list[Row] = list(chain.from_iterable(rows_of_each))
        lengths = block.lengths * len(rows_of_each)
        kinds = None
        if set(map(type, given)) != {bytes} or list(map(len, given)) != lengths:  # type: ignore[arg-type]
            kinds = set_aside(block, given, lengths).reshape(-1, len(block.lengths))
        rows: list[bytes] = given  # type: ignore[assignment]
        lines = block.lines(rows)
        heads = lines.take(block.heads, axis=1)
        if heads.tobytes() != block.head * len(heads):
            odd = heads != np.frombuffer(block.head, np.uint64)
            self.alone.update(np.flatnonzero(odd.any(axis=1)).tolist())
        sound = is_sound(rows)
        if sound is not None:
            self.alone.update(place // len(block.lengths) for place, good in enumerate(sound) if not good)
        self.matrix[:, : len(block.numbers)] = lines.take(block.numbers, axis=1).view(np.float64)
        times = lines.take(block.times, axis=1).view(np.int64)
        ages = self.now_us - times
        if kinds is not None:
            # Blanks are of no time.
            ages[kinds != PRESENT] = 0
        self.event_times = times.tolist()
        presences = lines.take(block.presences, axis=1)
        if presences.tobytes() != block.all_present * len(presences):
            self._settle_nulls(block, presences)
        # Past either end of what is right: a negative number has the highest bit, without a sign it is the greatest.
        latest = np.minimum(block.max_age_us, self.now_us) + CLOCK_SKEW_US
        odd = (ages + CLOCK_SKEW_US).view(np.uint64) > latest.view(np.uint64)
        if odd.any():
            self._settle_ages(block, times, ages, presences)
        if kinds is not None:
            self._settle_others(block, kinds, rows_of_each)

    def _settle_nulls(self, block: Block, presences: NDArray[np.uint64]) -> None:
        """Nulls are no values."""
        bits = np.unpackbits(presences.view(np.uint8), axis=1, bitorder="little")
        absent = bits.take(block.bits, axis=1) == 0
        count = len(block.bits)
        self.values[:, :count][absent] = NAN
        self.statuses[:, :count][absent] = NULL

    def _settle_ages(
        self, block: Block, times: NDArray[np.int64], ages: NDArray[np.int64], presences: NDArray[np.uint64]
    ) -> None:
        """The features of a row that is old get each its own status; one of no possible time is none."""
        odd = (times < 0) | (ages < -CLOCK_SKEW_US)
        self.alone.update(np.flatnonzero(odd.any(axis=1)).tolist())
        for index, place in np.argwhere(ages > block.max_age_us).tolist():
            if index not in self.alone:
                view = self.plan.views[place]
                presence = int.from_bytes(presences[index, block.presence_of[place]].tobytes(), "little")
                values, statuses, age_us = self.values[index], self.statuses[index], int(ages[index, place])
                status = row_status(self.plan, view, presence, age_us, values, statuses, self.seen[index])
                self.view_statuses[index][place] = status

    def _settle_others(self, block: Block, kinds: ByteArray, rows_of_each: Sequence[Sequence[Row]]) -> None:
        """What is no row, and states of counters. kinds: by application and view, as `set_aside` gives them."""
        statuses = ROW_STATUS_OF.take(kinds).take(block.view_of, axis=1)
        np.copyto(self.statuses[:, : len(block.view_of)], statuses, where=statuses != PRESENT)
        for index in np.flatnonzero((kinds != PRESENT).any(axis=1)).tolist():
            if index in self.alone:
                continue
            row = kinds[index].tolist()
            views = self.view_statuses[index]
            unnamed: list[int] = []
            for place, kind in enumerate(row):
                if kind == PRESENT:
                    continue
                views[place] = ROW_STATUSES[kind]
                if kind == UNNAMED_ROW:
                    unnamed.append(place)
                elif kind == OTHER_BYTES:
                    self._count(index, place, rows_of_each[index][place])
                elif kind == LAST_GOOD_ROW:
                    self.alone.add(index)
            if unnamed:
                for place in unnamed:
                    view = self.plan.views[place]
                    self.seen[index].unnamed.update(range(view.start, view.start + view.count))

    def _count(self, index: int, place: int, state: Row) -> None:
        """A state of counters; other bytes need more than what is here."""
        view = self.plan.views[place]
        if view.counters is None or type(state) is not bytes or state[:4] != STATE_MAGIC:
            self.alone.add(index)
            return
        values, statuses, seen = self.values[index], self.statuses[index], self.seen[index]
        status, _ = count(view, state, self.now_us, values, statuses, seen)
        self.view_statuses[index][place] = status
        if status is _PRESENT:
            self.event_times[index][place] = self.now_us

    def take_sent(self, sents: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Puts what the callers sent before what the store holds."""
        for index, sent in enumerate(sents):
            if sent:
                origins = self.origins[index] = self.plan.origins_template.copy()
                for slot, value in sent:
                    self.values[index, slot], self.statuses[index, slot] = value, PRESENT
                    origins[slot] = _CALLER
                    self.seen[index].forget(slot)

    def check_ranges(self) -> None:
        """What is called PRESENT and is in no range is no fact; a request field that is NaN was not sent."""
        plan = self.plan
        start, end = plan.request_start, plan.derived_start
        known = self.values[:, :end]
        inside = known >= plan.lower[:end]
        inside &= known <= plan.upper[:end]
        if inside.all():
            return
        # Whatever is absent is NaN by now, and NaN is in no range.
        self.whole = False
        statuses = self.statuses[:, :end]
        outside = ~inside
        outside &= statuses == PRESENT
        if outside.any():
            unsent = np.isnan(known[:, start:])
            statuses[outside] = UNAVAILABLE
            statuses[:, start:][unsent] = NOT_FOUND
            known[outside] = NAN

    def apply_law(self, sents: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Consents and expiries, where they have anything to say."""
        plan, law = self.plan, self.plan.law
        if plan.consents:
            given = self.values.take(law.consents, axis=1) == 1.0
            for index in np.flatnonzero(~given.all(axis=1)).tolist():
                self.whole = False
                values, statuses = self.values[index], self.statuses[index]
                views, times = self.view_statuses[index], self.event_times[index]
                withhold(plan, values, statuses, views, times, self.seen[index])
        if plan.expiries:
            due = self.values.take(law.since, axis=1) + law.after_s <= self.now_us / 1e6
            # A moment that is stale itself still says since when.
            indices = {index for index, seen in self.seen.items() if seen.stale}
            if due.any():
                due &= self.statuses.take(law.expiring, axis=1) == PRESENT
                indices.update(np.flatnonzero(due.any(axis=1)).tolist())
            for index in indices:
                self.whole = False
                values, statuses = self.values[index], self.statuses[index]
                sent = {slot for slot, _ in sents[index]}
                expire(plan, values, statuses, self.event_times[index], sent, self.now_us, self.seen[index])

    def substitute(self) -> dict[int, Lacking]:
        """Lets the catalogue's rules stand in. Gives the values before that, and what is to be told of it, for each
        application that lacks something."""
        plan, end = self.plan, self.plan.derived_start
        lacking: dict[int, Lacking] = {}
        if self.whole:
            return lacking
        absent = self.statuses[:, :end] != PRESENT
        reads = self.values.copy()
        for index in np.flatnonzero(absent.any(axis=1)).tolist():
            if index not in self.alone:
                read, seen = reads[index], self.seen.get(index, _UNSEEN)
                for slot, value in seen.stale.items():
                    read[slot] = value
                told = substitute(plan, self.values[index], self.statuses[index], seen)
                lacking[index] = read, told.substitutions, told.degraded, told.blocked
        return lacking
