"""Journals to replay: real decisions about all that can be met, made by a real Decider over a real log."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from engine.bundle.compile_features import view_schema
from engine.bundle.load import LoadedBundle
from engine.bundle.scenarios import encode_rows
from engine.bundle.schema import ScenarioFile
from engine.bundle.source import Source
from engine.clock import SystemClock
from engine.decider import Answered, Asked, Decider, Served, plain_digest
from engine.domain.facts import UNREAD, LastGood, NoRow, Row
from engine.errors import RequestError
from engine.feature_reader import FeatureReader
from engine.features.encoding import encode
from engine.features.store import Row as Stored
from engine.features.store import StoreUnavailable, event_time_of
from engine.features.stores.memory import MemoryStore
from engine.features.stores.partial import PartialRead
from engine.features.velocity.applier import VelocityApplier
from engine.labels import make_labels
from engine.pipeline import prepare
from engine.plan import FlowPlan
from engine.record.log import DecisionLog
from engine.record.master import MasterKey
from engine.velocity_outbox import VelocityOutbox
from tests.support import applications as apps
from tests.support import tiny
from tests.support.bundles import BUNDLE, shipped

DAY_US = 86_400_000_000
TRACE = "ab" * 16


class PartlyLostStore(MemoryStore):
    """The memory store, of which a part can be lost: the keys in `lost` cannot be read, with `down` none can."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[bytes] = set()
        self.down = False

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        if self.down:
            raise StoreUnavailable("down")
        found = super().read(keys, deadline_s)
        if self.lost.intersection(keys):
            rows: list[bytes | NoRow | None] = [
                UNREAD if key in self.lost else row for key, row in zip(keys, found, strict=True)
            ]
            raise PartialRead("a part is lost", rows)
        return found


@dataclass
class SetClock:
    """The machine's clock, or a moment that is set."""

    at_us: int | None = None

    def now_us(self) -> int:
        """See `engine.clock.Clock`."""
        return time.time_ns() // 1000 if self.at_us is None else self.at_us

    tick_ns = staticmethod(SystemClock.tick_ns)


@dataclass
class Lender:
    """A Decider with all around it. made: the ids of the decisions."""

    directory: Path
    log: DecisionLog
    store: PartlyLostStore
    clock: SetClock
    decider: Decider
    loaded: LoadedBundle
    made: list[str] = field(default_factory=list)

    def serve(self, loaded: LoadedBundle) -> None:
        """Puts a bundle in service."""
        self.loaded = loaded
        self.decider.serve(Served(loaded.plan, make_labels(loaded.plan, self.store.name)))

    def decide(self, *requests: pb.DecideRequest) -> list[decision_pb2.Decision]:
        """Decides one request, or several as a batch."""
        if len(requests) == 1:
            answers: list[bytes | Exception] = [self.decider.decide(requests[0], Asked(TRACE))]
        else:
            answers = self.decider.decide_many(list(requests), Asked(TRACE))
        found = []
        for answer in answers:
            assert isinstance(answer, bytes), answer
            found.append(decision_pb2.Decision.FromString(answer))
        self.made += [one.decision_id for one in found]
        return found


@contextlib.contextmanager
def lending(
    directory: Path, loaded: LoadedBundle, *, counting: bool = False, master: MasterKey | None = None
) -> Iterator[Lender]:
    """A lender over a new journal. counting: whether applications are counted, as a server does; master: seals the
    personal parts of records."""
    store, clock = PartlyLostStore(), SetClock()
    log = DecisionLog.open(directory, master=master)
    reader = FeatureReader(store)
    decider = Decider(reader, log, clock, digest=plain_digest if master is None else master.payload_digest)
    outbox: VelocityOutbox | None = None
    if counting:

        def make(on_applied: Any) -> VelocityApplier:
            return VelocityApplier(store, loaded.plan.counters, behind=True, on_applied=on_applied)

        outbox = VelocityOutbox(log, make, store, directory / "velocity.json")
        outbox.start(loaded.plan)
        reader.pending, decider.tell = outbox.pending, (partial(_count, outbox),)
    lender = Lender(directory, log, store, clock, decider, loaded)
    lender.serve(loaded)
    try:
        yield lender
    finally:
        if outbox is not None:
            outbox.stop()
        log.close()


def _count(outbox: VelocityOutbox, answered: Answered) -> None:
    concluded = answered.conclusion
    outbox.count(concluded.prepared, concluded.now_us, answered.position)


def decide_scenarios(lender: Lender) -> int:
    """Decides every scenario that ships, at its own moment and over its own rows. Gives how many."""
    count = 0
    source = Source(BUNDLE)
    for name in ("scenarios/consumer_loan.yaml", "scenarios/sme_loan.yaml"):
        file, _ = source.read_as(name, ScenarioFile, named_by="bundle.yaml")
        assert file is not None
        for scenario in file.scenarios:
            request = pb.DecideRequest(request_id=apps.new_id("scenario"))
            ParseDict(scenario.application, request.application)
            now_us = _moment_us(scenario.now)
            prepared = prepare(lender.loaded.plan, request, now_us, lambda: 0)
            rows = encode_rows(lender.loaded.catalogue, prepared, scenario.features, now_us)
            lender.store.lost = put(lender.store, prepared.reads, rows)
            lender.clock.at_us = now_us
            lender.decide(request)
            for key in prepared.reads:
                if key is not None:
                    lender.store.delete([key])
            count += 1
    lender.store.lost, lender.clock.at_us = set(), None
    return count


def _moment_us(text: str) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(text).timestamp() * 1e6)


def put(store: MemoryStore, keys: Sequence[bytes | None], rows: Sequence[Row]) -> set[bytes]:
    """Writes rows as they are; gives the keys of those that cannot be read."""
    lost = {key for key, row in zip(keys, rows, strict=True) if key is not None and row is UNREAD}
    held = [(k, r) for k, r in zip(keys, rows, strict=True) if k is not None and type(r) is bytes]
    store.write([Stored(key, row, event_time_of(row)) for key, row in held])
    return lost


def decide_generated(lender: Lender, count: int, seed: int = 1) -> None:
    """Decides generated applications of both shipped flows: good ones and bad, whole and full of gaps, singly and in
    batches, with the store whole, lost in part and down."""
    rng = random.Random(seed)
    waiting: list[pb.DecideRequest] = []
    for number in range(count):
        request = generated(rng, lender, number)
        lender.store.lost = {k for k in _keys(lender, request) if rng.random() < 0.05} if rng.random() < 0.2 else set()
        lender.store.down = rng.random() < 0.03
        if rng.random() < 0.5:
            waiting.append(request)
        else:
            lender.decide(request)
        if len(waiting) >= 17:
            lender.decide(*waiting)
            waiting = []
    lender.store.lost, lender.store.down = set(), False
    if waiting:
        lender.decide(*waiting)


def _keys(lender: Lender, request: pb.DecideRequest) -> list[bytes]:
    reads = prepare(lender.loaded.plan, request, apps.now_us(), lambda: 0).reads
    return [key for key in reads if key is not None]


def generated(rng: random.Random, lender: Lender, number: int) -> pb.DecideRequest:
    """A request, and the rows behind it in the store."""
    subject = f"gen-{rng.random():.12f}-{number}"
    if rng.random() < 0.25:
        request = apps.company(
            subject, amount=rng.randrange(5_000, 500_000, 500), term_months=rng.choice([12, 60, 120])
        )
        values: Mapping[str, Mapping[str, Any]] = apps.GOOD_COMPANY
    else:
        fields = {
            "stated_monthly_income": round(rng.uniform(500, 20_000), 2),
            "occupation_median_income": round(rng.uniform(500, 12_000), 2),
            "form_fill_seconds": rng.uniform(5, 900),
            "ip_to_address_distance_km": rng.uniform(0, 5000),
        }
        kept = {name: value for name, value in fields.items() if rng.random() < 0.9}
        request = apps.consumer(
            subject,
            amount=rng.randrange(500, 50_000, 50),
            term_months=rng.choice([6, 12, 24, 36, 60]),
            fields=kept,
            language=rng.choice(["", "en", "zh"]),
            entities=rng.random() < 0.9,
        )
        if rng.random() < 0.2:
            del request.application.entities[rng.randrange(3) :]
        values = apps.GOOD
    ids = {"applicant": subject, **{e.entity: e.id for e in request.application.entities}}
    views = [v for v in shipped().catalogue.file.views if v in values]
    changes: dict[str, dict[str, Any] | None] = {}
    ages: dict[str, float] = {}
    if rng.random() < 0.5:
        # An ordinary applicant: one view is not as it should be.
        view = rng.choice(views)
        changes[view] = _changed(rng, view, values[view])
    else:
        changes = {view: None if rng.random() < 0.06 else _changed(rng, view, values[view]) for view in views}
        ages = {view: rng.choice([0.0, 0.1, 1.0, 20.0, 400.0]) for view in views}
    apps.load_rows(lender.store, ids, changes, age_days=ages, values=values)
    return request


def _changed(rng: random.Random, view: str, good: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a view, some of them others, some of them NULL."""
    plan = next(v for flow in shipped().plan.flows.values() for v in flow.features.views if v.name == view)
    features = next(flow for flow in shipped().plan.flows.values() if plan in flow.features.views).features.features
    by_name = {feature.name: feature for feature in features[plan.start : plan.start + plan.count]}
    found: dict[str, Any] = {}
    for name in good:
        if rng.random() < 0.6:
            continue
        found[name] = _value(rng, by_name[name].kind, by_name[name].categories, good[name])
    return found


def _value(rng: random.Random, kind: str, categories: Sequence[str], good: Any) -> Any:
    if rng.random() < 0.15:
        return None
    if kind == "category":
        return rng.choice(categories)
    if kind == "boolean":
        return rng.random() < 0.5
    wild = rng.choice([0.0, 0.3, 1.5, 10.0, -1.0]) * (good or 1)
    return round(wild) if kind == "integer" else float(wild)


def random_rows(rng: random.Random, loaded: LoadedBundle, flow: FlowPlan, now_us: int) -> list[Row]:
    """Rows of one flow as a reader may hand them over, of every kind that there is."""
    return [random_row(rng, loaded, flow, place, now_us) for place in range(len(flow.features.views))]


def random_row(rng: random.Random, loaded: LoadedBundle, flow: FlowPlan, place: int, now_us: int) -> Row:
    """One row: none, unread, whole, old, corrupt, of the future, out of range, or the last good one."""
    view = flow.features.views[place]
    features = flow.features.features[view.start : view.start + view.count]
    chance = rng.random()
    if chance < 0.1:
        return None
    if chance < 0.2:
        return UNREAD
    values = {f.name: _in_range(rng, f.kind, f.categories, f.lower, f.upper) for f in features}
    age_us = rng.choice([-1000, 0, DAY_US // 7, 40 * DAY_US, 500 * DAY_US, 3000 * DAY_US, -DAY_US])
    if rng.random() < 0.5:
        age_us = 0
    schema = view_schema(view.name, loaded.catalogue.file.views[view.name])
    row = encode(schema, values, now_us - age_us)
    if chance < 0.25:
        return row[:-1]
    return LastGood(row) if chance < 0.45 else row


def _in_range(rng: random.Random, kind: str, categories: Sequence[str], lower: float, upper: float) -> Any:
    if rng.random() < 0.15:
        return None
    if kind == "category":
        return rng.choice(categories)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "timestamp":
        return 1_800_000_000.0 - rng.uniform(0, 5000) * 86_400
    low, high = max(lower, -1e6), min(upper, 1e6)
    value = rng.uniform(low, high) if rng.random() < 0.9 else high + 1 + rng.random() * 10
    return round(value) if kind == "integer" else value


def tiny_requests(count: int, loaded: LoadedBundle, store: MemoryStore, seed: int = 2) -> Iterator[pb.DecideRequest]:
    """Requests of the tiny bundle, their rows written; some send what the store could hold."""
    rng = random.Random(seed)
    flow = loaded.plan.flows["tiny_loan.application"]
    for number in range(count):
        request = tiny.request(apps.new_id("tiny"))
        application = request.application
        application.subject.id = f"p{number}"
        application.entities[0].id = f"a{number}"
        application.amount.units = rng.randrange(250, 20_000, 50)
        application.term_months = rng.choice([6, 12, 24, 48])
        application.fields["income"].number = rng.uniform(200, 6000)
        if "may_ask" in flow.features.slots:
            application.fields["may_ask"].flag = rng.random() < 0.7
        if rng.random() < 0.3:
            application.fields["housing"].text = rng.choice(["rent", "own"])
        if rng.random() < 0.2:
            del application.entities[:]
        try:
            prepared = prepare(loaded.plan, request, apps.now_us(), lambda: 0)
        except RequestError as error:
            raise AssertionError(error) from error
        rows = random_rows(rng, loaded, flow, apps.now_us())
        put(store, prepared.reads, [row.row if isinstance(row, LastGood) else row for row in rows])
        yield request


def batches(requests: Iterable[pb.DecideRequest], size: int) -> Iterator[list[pb.DecideRequest]]:
    """Requests in groups."""
    held: list[pb.DecideRequest] = []
    for request in requests:
        held.append(request)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
