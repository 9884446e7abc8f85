"""The one read of a decision, from the outside: what to ask the store, until when, and what to do when it fails.

    wait for counts still under way -> one read of all rows -> last good rows where the catalogue allows them

A store that fails or is late costs its budget and no more. What it could not give is UNREAD, never "not there".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice

from engine.domain.facts import UNNAMED, UNREAD, LastGood, Row, RowFault
from engine.errors import Refusal, StoreError
from engine.features.encoding import RowOtherSchema, is_whole
from engine.features.evolve import RowTranslator
from engine.features.plan import FeaturePlan, ViewPlan
from engine.features.row_schema import RowSchema, fingerprint_of, view_of
from engine.features.store import FeatureStore, StoreTimeout
from engine.features.stores.partial import PartialRead
from engine.pipeline import Prepared
from engine.plan import BundlePlan
from engine.telemetry.counters import Counters

# Which of these keys have counts under way that the store does not hold yet, after waiting for them until a moment.
Pending = Callable[[Sequence[bytes], float], Collection[bytes]]

# A schema that was asked for is not asked for again before this has passed.
_ASKED_SCHEMA_S = 60.0
_ASKED_SCHEMAS_MAX = 1000
# After a failure it is.
_FAILED_SCHEMA_S = 1.0
_LOOK_UP_WAIT_S = 0.02
# A read takes no longer.
_ON_ITS_WAY_S = 5.0


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """What an operator chooses.

    budget_s: the most that the reads of one call may take; reserve_s: what is kept of the caller's deadline for the
    rest of the decision; least_s: a read that had less time than this and failed says nothing of the store, so the
    call is refused; last_good_rows_max, last_good_max_age_s: how many rows may be kept to stand in for a store that
    fails, and for how long after they were read.
    """

    budget_s: float = 0.05
    reserve_s: float = 0.01
    least_s: float = 0.002
    last_good_rows_max: int = 100_000
    last_good_max_age_s: float = 900.0


class FeatureReader:
    """Reads rows for decisions. Threads may call it at once."""

    def __init__(
        self,
        store: FeatureStore,
        settings: ReadSettings | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._store = store
        self._settings = settings or ReadSettings()
        self._counters = counters or Counters()
        # Set once something counts; until then nothing is under way.
        self.pending: Pending | None = None
        # Whether an entity, by the prefix of its keys, was erased after a moment: set where other workers may do so.
        self.erased: Callable[[bytes, int], bool] | None = None
        self._last_good = LastGoodRows(self._settings.last_good_rows_max, self._settings.last_good_max_age_s)
        self._asked: dict[bytes, Future[tuple[float, bytes | None]]] = {}
        self._lookups = ThreadPoolExecutor(1, thread_name_prefix="schemas")

    @property
    def budget_s(self) -> float:
        """The most that the reads of one call may take."""
        return self._settings.budget_s

    @property
    def reserve_s(self) -> float:
        """What is kept of the caller's deadline for the rest of the decision."""
        return self._settings.reserve_s

    def read_one(self, prepared: Prepared, deadline_s: float | None) -> list[Row]:
        """The rows of one application, in one round trip; its keys differ by their views."""
        reads = prepared.reads
        plan = prepared.flow.features
        if None in reads or not reads or plan.last_good:
            return self.read_many([prepared], deadline_s)[0]
        begin_s = time.monotonic()
        end_s = self._end_s(begin_s, deadline_s)
        late = self._wait(plan, reads, end_s)
        try:
            rows: list[Row] = self._store.read(reads, end_s)  # type: ignore[arg-type, assignment]
        except StoreError as error:
            rows = self._rows_of(error, len(reads), begin_s, end_s)
        if late:
            rows = [UNREAD if key in late else row for key, row in zip(reads, rows, strict=True)]
        return rows

    def read_many(self, many: Sequence[Prepared], deadline_s: float | None) -> list[list[Row]]:
        """One round trip for all rows of all applications; identical keys are read once."""
        begin_s = time.monotonic()
        end_s = self._end_s(begin_s, deadline_s)
        reads = [one.reads for one in many]
        flat = list(chain.from_iterable(reads))
        distinct = dict.fromkeys(flat)
        distinct.pop(None, None)
        keys: list[bytes] = list(distinct)  # type: ignore[arg-type]
        late: set[bytes] = set()
        if self.pending is not None:
            for one in many:
                late.update(self._wait(one.flow.features, one.reads, end_s))
        rows: Sequence[Row]
        try:
            rows = self._store.read(keys, end_s) if keys else ()
        except StoreError as error:
            rows = self._rows_of(error, len(keys), begin_s, end_s)
        lending = any(one.flow.features.last_good for one in many)
        if len(rows) == len(flat) and not late and not lending:
            # As is the rule, every key stands once and there is no more to it: rows come in the order of the keys.
            left = iter(rows)
            return [list(islice(left, len(wanted))) for wanted in reads]
        found: dict[bytes | None, Row] = {None: UNNAMED}
        found.update(zip(keys, rows, strict=True))
        found.update(dict.fromkeys(late, UNREAD))
        for one in many:
            for index in one.flow.features.last_good:
                self._lend_or_keep(one.reads[index], found)
        return [[found[key] for key in wanted] for wanted in reads]

    def learn(self, plan: FeaturePlan, faults: Iterable[RowFault]) -> bool:
        """Counts rows that could not be used, and looks the schemas up that were not known. True when one was found,
        so that the same rows can be read now."""
        learned = False
        for fault in faults:
            self._counters.add("feature_row_faults", view=fault.view, kind=fault.kind)
            if fault.fingerprint:
                view = next(v for v in plan.views if v.name == fault.view)
                if fault.fingerprint in view.translators:
                    continue  # its schema is known and cannot be followed
                canonical = self._schema(fault.fingerprint)
                learned |= canonical is not None and _teach(view, fault.fingerprint, canonical)
        return learned

    def forget(self, prefix: bytes) -> None:
        """Lets go of what is kept of an entity: it was erased."""
        self._last_good.forget(prefix)

    def forget_erased(self) -> None:
        """Lets go of what is kept of entities that were erased by other workers."""
        if self.erased is not None:
            self._last_good.forget_those(self._was_erased)

    def _was_erased(self, key: bytes, kept_s: float) -> bool:
        """Whether a row that was kept at a moment on `time.monotonic()` is of an entity that was erased since."""
        if self.erased is None:
            return False
        # It may have been on its way when it was erased.
        kept_us = time.time_ns() // 1000 - int((time.monotonic() - kept_s + _ON_ITS_WAY_S) * 1e6)
        return self.erased(key[: key.rindex(b"}") + 1], kept_us)

    def _end_s(self, begin_s: float, deadline_s: float | None) -> float:
        """Until when to read. Something is kept back for the rest of the decision: the verdict that the catalogue names
        for a lost store is an answer too, and must leave in time."""
        budget_s = self._settings.budget_s
        if deadline_s is None:
            return begin_s + budget_s
        left_s = deadline_s - begin_s
        return begin_s + min(budget_s, left_s - min(self._settings.reserve_s, left_s / 2))

    def _wait(self, plan: FeaturePlan, reads: Sequence[bytes | None], end_s: float) -> Collection[bytes]:
        """Waits for counts under way of the entities at hand, for half of the time at most: the rest is for the read.
        Gives the keys whose counts are not in the store by then: what it holds of them is known to be too low."""
        if self.pending is None or not plan.counted:
            return ()
        begin_s = time.monotonic()
        until_s = begin_s + (end_s - begin_s) / 2
        return self.pending([key for i in plan.counted if (key := reads[i]) is not None], until_s)

    def _rows_of(self, error: StoreError, count: int, begin_s: float, end_s: float) -> list[Row]:
        """What a failed read leaves."""
        # Moments and not lengths are compared: a difference of moments is rounded, and would at times be less than the
        # budget that it was made from.
        if isinstance(error, StoreTimeout) and end_s < begin_s + min(self._settings.least_s, self._settings.budget_s):
            # What it lacks must not become the stored decision.
            raise Refusal(
                "DEADLINE_TOO_SHORT", "The deadline passed while features were read; allow more time."
            ) from error
        self._counters.add("feature_read_failures", store=self._store.name, kind=type(error).__name__)
        if isinstance(error, PartialRead) and len(error.rows) == count:
            return list(error.rows)
        return [UNREAD] * count

    def _lend_or_keep(self, key: bytes | None, found: dict[bytes | None, Row]) -> None:
        if key is None:
            return
        row = found[key]
        if type(row) is bytes and is_whole(row):
            self._last_good.keep(key, row)
        elif row is None:
            self._last_good.drop(key)
        elif row is not UNNAMED and (kept := self._last_good.held(key)) is not None:
            if self._was_erased(key, kept[0]):
                self._last_good.drop(key)
            else:
                found[key] = LastGood(kept[1])

    def learn_recorded(self, plan: BundlePlan, schemas: Mapping[bytes, bytes]) -> None:
        """Makes every row readable whose schema is recorded. schemas: canonical forms by fingerprint."""
        views = [view for flow in plan.flows.values() for view in flow.features.views]
        for fingerprint, canonical in schemas.items():
            name = view_of(canonical)
            for view in views:
                if view.name == name and fingerprint != view.decoder.schema.fingerprint:
                    _teach(view, fingerprint, canonical)

    def _schema(self, fingerprint: bytes) -> bytes | None:
        """The canonical form of a schema, if it is known by now. It is looked up behind the answer where the store is
        slow: a call that meets it then has it soon after."""
        asked = self._asked.get(fingerprint)
        if asked is None or (asked.done() and asked.result()[0] < time.monotonic()):
            if len(self._asked) >= _ASKED_SCHEMAS_MAX:
                self._asked.clear()
            asked = self._asked[fingerprint] = self._lookups.submit(self._look_up, fingerprint)
        try:
            return asked.result(_LOOK_UP_WAIT_S)[1]
        except TimeoutError:
            return None

    def _look_up(self, fingerprint: bytes) -> tuple[float, bytes | None]:
        """The moment until which this answer holds, and the canonical form or None."""
        try:
            canonical = self._store.get_schema(fingerprint)
        except StoreError:
            return time.monotonic() + _FAILED_SCHEMA_S, None
        if canonical is not None and fingerprint_of(canonical) != fingerprint:
            canonical = None
        return time.monotonic() + _ASKED_SCHEMA_S, canonical


def _teach(view: ViewPlan, fingerprint: bytes, canonical: bytes) -> bool:
    """Makes rows or states of another schema readable for a view. False when they cannot be followed."""
    if view.learn_columns is not None and view.learn_columns(canonical):
        return True
    try:
        view.translators[fingerprint] = RowTranslator(RowSchema.parse(canonical), view.decoder.schema)
    except (ValueError, RowOtherSchema):
        view.translators[fingerprint] = None
        return False
    return True


class LastGoodRows:
    """Rows as they were last read, bounded in number and age. Two generations: when the younger is full it becomes the
    older, and what was not read since is gone. No lock: every step is one operation on a dict."""

    def __init__(self, rows_max: int, max_age_s: float) -> None:
        self._half, self._max_age_s = max(rows_max // 2, 1), max_age_s
        self._young: dict[bytes, tuple[float, bytes]] = {}
        self._old: dict[bytes, tuple[float, bytes]] = {}

    def keep(self, key: bytes, row: bytes) -> None:
        """Notes what was read."""
        young = self._young
        young[key] = (time.monotonic(), row)
        if len(young) > self._half:
            self._old, self._young = young, {}

    def get(self, key: bytes) -> bytes | None:
        """What was last read, if that is not too long ago."""
        kept = self.held(key)
        return None if kept is None else kept[1]

    def held(self, key: bytes) -> tuple[float, bytes] | None:
        """The same, and when that was, on `time.monotonic()`."""
        kept = self._young.get(key) or self._old.get(key)
        if kept is None or time.monotonic() - kept[0] > self._max_age_s:
            return None
        return kept

    def forget_those(self, wanted: Callable[[bytes, float], bool]) -> None:
        """Drops the rows for which `wanted`, given the key and the moment when it was kept, says so."""
        for kept in (self._young, self._old):
            for key, (kept_s, _) in list(kept.items()):
                if wanted(key, kept_s):
                    kept.pop(key, None)

    def drop(self, key: bytes) -> None:
        """The store says that there is no such row any more."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def forget(self, prefix: bytes) -> None:
        """Drops all rows whose keys begin so."""
        for kept in (self._young, self._old):
            for key in [key for key in list(kept) if key.startswith(prefix)]:
                kept.pop(key, None)
