"""Changes what is served, in all worker processes of a host at once or not at all.

    propose -> every worker loads and tries what is new, off the path -> journal -> switch
               (one that cannot: nothing is changed)

Who makes a change holds a lock meanwhile, so that there is one change at a time; a worker starts, too, under that lock.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from assay.admin.v1 import traffic_pb2 as pb
from engine.clock import new_decision_id
from engine.errors import AssayError, RecordError
from engine.telemetry.counters import Counters
from engine.traffic.changes import ChangeList
from engine.traffic.cutout import Trip
from engine.traffic.errors import changed_meanwhile, in_progress, not_prepared, not_recorded, not_serving
from engine.traffic.files import DamagedFile, held, replace_file, seal
from engine.traffic.members import Standing
from engine.traffic.messages import change_record
from engine.traffic.model import Author, ChangeKind, Traffic
from engine.traffic.moves import Move, check_fit, fall_back
from engine.traffic.serving import Serving
from engine.traffic.state import write_traffic
from engine.traffic.worker import Places, TrafficWorker

P = TypeVar("P")
_log = logging.getLogger("assay.traffic")
CUT_OUT = "cut-out"
_FALL_BACK_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """prepare_timeout_s: how long all workers may take to get ready; lock_wait_s: how long a change waits for another,
    start_wait_s: how long a start does; poll_s: how often workers look for changes, the same as theirs."""

    prepare_timeout_s: float = 60.0
    lock_wait_s: float = 5.0
    start_wait_s: float = 120.0
    poll_s: float = 0.2


class Changed(NamedTuple):
    """What came of a change. workers: how many have switched by now, this one among them."""

    traffic: Traffic
    changed: bool
    workers: int


class TrafficControl(Generic[P]):
    """Makes changes. Every worker process has one, for its cut-outs; threads may call it at once.

    record: writes a change to the journal; raises RecordError.
    """

    def __init__(
        self,
        worker: TrafficWorker[P],
        places: Places,
        record: Callable[[bytes], object],
        settings: ControlSettings | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.worker, self.registry = worker, worker.registry
        self._places, self._record = places, record
        self._settings = settings or ControlSettings()
        self._counters = counters or Counters()
        self._changes = ChangeList(places.directory)
        self._fall_back_at_s = 0.0
        # The generation in which there was nothing to fall back to.
        self._fallen_back = 0
        worker.on_trip = self._fall_back

    @property
    def serving(self) -> Serving[P]:
        """See `TrafficWorker.serving`."""
        return self.worker.serving

    @property
    def start_wait_s(self) -> float:
        """How long a start waits for a change under way."""
        return self._settings.start_wait_s

    @contextlib.contextmanager
    def lock(self, wait_s: float | None = None) -> Iterator[None]:
        """Holds off other changes, and starts. Raises Refusal when another goes on too long."""
        wait_s = self._settings.lock_wait_s if wait_s is None else wait_s
        with held(self._places.lock, wait_s) as had:
            if not had:
                raise in_progress()
            yield

    def change(
        self, kind: ChangeKind, author: Author, move: Move, facts: str = "", wait_s: float | None = None
    ) -> Changed:
        """Changes what is served. Raises Refusal, RequestError, BundleError; then nothing is changed."""
        if not self.worker.started:
            raise not_serving()
        with self.lock(wait_s):
            before = self.current()
            if author.expected_generation not in (None, before.generation):
                raise changed_meanwhile(before.generation, author.expected_generation or 0)
            after = move(before)
            if after is None:
                return Changed(before, False, 1 + len(self.worker.members.others()))
            return self.commit(kind, author, before, after, facts)

    def commit(
        self, kind: ChangeKind, author: Author, before: Traffic | None, after: Traffic, facts: str = ""
    ) -> Changed:
        """Makes a change, in two steps across all workers. Called under `lock`. Raises as `change`."""
        now_us = time.time_ns() // 1000
        after = replace(
            after,
            generation=after.generation + 1,
            change_id=new_decision_id(now_us),
            kind=kind,
            who=author.who,
            on_behalf_of=author.on_behalf_of,
            why=author.why,
            changed_us=now_us,
            effective_us=now_us,
        )
        try:
            others = self._prepare(after)
            if others:
                # All workers have seen the switch by then, and make it in the same moment.
                lead_us = int(2.5e6 * self._settings.poll_s)
                after = replace(after, effective_us=time.time_ns() // 1000 + lead_us)
            self._put(after, before, change_record(kind, author, after.change_id, now_us, before, after, facts=facts))
        except BaseException:
            self.worker.trim()
            raise
        finally:
            self._places.proposal.unlink(missing_ok=True)
        self._counters.add("traffic_changes", kind=kind.name)
        _log.info(
            "what is served changes",
            extra={"generation": after.generation, "kind": kind.name, "who": author.who, "why": author.why},
        )
        if self.worker.started:
            self.worker.switch(after)
        return Changed(after, True, 1 + self._followed(others, after.generation))

    def log_change(self, record: pb.ChangeRecord) -> None:
        """Writes a change that alters nothing that is served. Raises Refusal when it cannot be recorded."""
        self._journal(record)
        self._list(record)

    def current(self) -> Traffic:
        """What is served by now on this host. A file that is damaged is as if it said what this worker serves."""
        serving = self.serving.traffic
        try:
            found = self.worker.file.peek()
        except DamagedFile as error:
            _log.error("what is served cannot be read: what this worker serves is taken for it: %s", error)
            found = None
        if found is None or found.generation < serving.generation:
            return serving
        return found

    def changes(self, limit: int) -> list[pb.ChangeRecord]:
        """The latest changes of this host, the last first."""
        return self._changes.latest(limit)

    def standings(self) -> dict[str, Standing]:
        """How all living workers stand, by name."""
        return {self.worker.name: self.worker.standing(), **self.worker.members.others()}

    def _prepare(self, after: Traffic) -> list[str]:
        """The first step: has all workers get ready. Gives the names of the others. Raises what keeps one from it."""
        members = self.worker.members
        if members.others():
            replace_file(self._places.proposal, seal(write_traffic(after)))
        check_fit(after, self.worker.ready(after.bundles))
        end_s = time.monotonic() + self._settings.prepare_timeout_s
        while True:
            others, late = members.others(), []
            for worker, standing in others.items():
                if standing.proposal != after.change_id:
                    late.append(worker)
                elif standing.problem:
                    raise not_prepared(worker, standing.problem)
            if not late:
                return list(others)
            if time.monotonic() >= end_s:
                raise not_prepared(late[0], f"it was not ready after {self._settings.prepare_timeout_s:g} s")
            time.sleep(self._settings.poll_s / 10)

    def _put(self, after: Traffic, before: Traffic | None, record: pb.ChangeRecord) -> None:
        """The second step. All that can fail is done before the record is written, but for one rename."""
        try:
            replacement = self.worker.file.prepare(after, before)
            try:
                self._journal(record)
                replacement.put()
            finally:
                replacement.discard()
        except OSError as error:
            raise not_recorded(f"{error.strerror} ({error.filename})") from error
        if before is not None:
            # Who made it may have ended before it was listed.
            self._list(_record_of(before))
        self._list(record)
        with contextlib.suppress(OSError):
            self.registry.note_served(after.bundles, after.changed_us)
            self.registry.prune(after.kept)

    def _journal(self, record: pb.ChangeRecord) -> None:
        try:
            self._record(record.SerializeToString())
        except RecordError as error:
            raise not_recorded(str(error)) from error

    def _list(self, record: pb.ChangeRecord) -> None:
        try:
            self._changes.add(record)
        except OSError as error:
            _log.warning("the list of changes cannot be kept; the journal has them", extra={"error": str(error)})

    def _followed(self, workers: Iterable[str], generation: int) -> int:
        """How many of the others have switched; they are given a moment."""
        waiting, followed = set(workers), 0
        end_s = time.monotonic() + 10 * self._settings.poll_s
        while waiting and time.monotonic() < end_s:
            others = self.worker.members.others()
            done = {w for w in waiting if w in others and others[w].generation >= generation}
            followed += len(done)
            waiting = {w for w in waiting if w in others} - done
            if waiting:
                time.sleep(self._settings.poll_s / 10)
        return followed

    def _fall_back(self, trip: Trip) -> None:
        """A cut-out tripped. Called by the watch, which must not wait for another worker's change: that one may wait
        for the watch."""
        if time.monotonic() < self._fall_back_at_s or trip.generation == self._fallen_back:
            return
        self._fall_back_at_s = time.monotonic() + _FALL_BACK_RETRY_S
        author = Author(CUT_OUT, f"{trip.flow}: {trip.facts}", expected_generation=trip.generation)

        def move(traffic: Traffic) -> Traffic | None:
            return fall_back(traffic, trip.flow)

        try:
            changed = self.change(ChangeKind.CUT_OUT, author, move, trip.facts, wait_s=0.0).changed
        except AssayError as error:
            _log.error("a cut-out could not fall back; it is tried again: %s", error)
            return
        if not changed:
            self._fallen_back = trip.generation
            _log.error("a cut-out tripped, and there is nothing to fall back to", extra={"flow": trip.flow})


def _record_of(traffic: Traffic) -> pb.ChangeRecord:
    """The change that led to what is served, as far as that itself tells."""
    author = Author(traffic.who, traffic.why, traffic.on_behalf_of)
    return change_record(traffic.kind, author, traffic.change_id, traffic.changed_us, after=traffic)
