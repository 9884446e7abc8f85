"""A real server of the feature service in this process, over a store of choice."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from assay.decision.v1 import decision_pb2
from assay.feature.v1 import feature_pb2, feature_service_pb2_grpc
from assay.feature.v1 import feature_service_pb2 as pb
from engine.bundle.compile_counters import velocity_views
from engine.bundle.write_plan import make_desk_plan
from engine.errors import Refusal
from engine.feature_desk import FeatureDesk
from engine.features.store import FeatureStore
from engine.features.velocity import Definitions, VelocityApplier
from engine.rpc.feature_servicer import FeatureServicer, feature_handlers
from engine.rpc.streams import Streams
from engine.telemetry.counters import Counters

from .catalogue import NOW_US, catalogue_in
from .errors import Failure, failure_of


class SetClock:
    """A clock that stands where it is set."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now = now_us

    def now_us(self) -> int:
        """See `engine.clock.Clock`."""
        return self.now

    @staticmethod
    def tick_ns() -> int:
        """See `engine.clock.Clock`."""
        return 0


@dataclass
class Service:
    """The service and what is behind it. draining: what the server says when it is asked."""

    channel: grpc.Channel
    stub: feature_service_pb2_grpc.FeatureServiceStub
    desk: FeatureDesk
    store: FeatureStore
    clock: SetClock
    counters: Counters
    streams: Streams
    draining: threading.Event
    forgotten: list[bytes]


@contextlib.contextmanager
def serving(root: Path, store: FeatureStore, *, bundle: bool = True, counting: bool = True) -> Iterator[Service]:
    """A server with the catalogue of tests, and stubs of it. counting: whether events can be counted."""
    clock, counters, forgotten = SetClock(), Counters(), list[bytes]()
    desk = FeatureDesk(store, clock, counters, forgotten.append)
    catalogue = catalogue_in(root)
    applier = VelocityApplier(store, Definitions(velocity_views(catalogue.file)))
    if bundle:
        desk.serve(make_desk_plan(catalogue), applier if counting else None)
    draining = threading.Event()
    streams = Streams(2)

    def check_open() -> None:
        if draining.is_set():
            raise Refusal("DRAINING", "The server is stopping; retry on another host.")

    servicer = FeatureServicer(desk, streams, check_open=check_open)
    server = grpc.server(ThreadPoolExecutor(6), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((feature_handlers(servicer),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    try:
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        yield Service(channel, stub, desk, store, clock, counters, streams, draining, forgotten)
    finally:
        channel.close()
        server.stop(None).wait()
        applier.stop(1.0)


def row(
    view: str = "file", entity_id: str = "p1", time_us: int = NOW_US - 1, **values: object
) -> feature_pb2.FeatureRow:
    """A row to put. Values are told apart by their Python types; a Value is taken as it is."""
    made = feature_pb2.FeatureRow(view=view, entity_id=entity_id)
    made.event_time.FromMicroseconds(time_us)
    for name, value in values.items():
        made.values[name].CopyFrom(value_of(value))
    return made


def value_of(value: object) -> decision_pb2.Value:
    """A Value of a Python value."""
    if isinstance(value, decision_pb2.Value):
        return value
    if isinstance(value, bool):
        return decision_pb2.Value(flag=value)
    if isinstance(value, int):
        return decision_pb2.Value(integer=value)
    if isinstance(value, float):
        return decision_pb2.Value(number=value)
    assert isinstance(value, str)
    return decision_pb2.Value(text=value)


def event(
    event_id: str,
    time_us: int = NOW_US - 1,
    entities: Sequence[tuple[str, str]] = (("applicant", "p1"), ("device", "d1")),
    amount: object = 100.0,
    position: int = 0,
) -> feature_pb2.Event:
    """An event to count."""
    made = feature_pb2.Event(event_id=event_id, position=position)
    made.event_time.FromMicroseconds(time_us)
    for entity, entity_id in entities:
        made.entities.add(entity=entity, id=entity_id)
    if amount is not None:
        made.amounts["amount"].CopyFrom(value_of(amount))
    return made


def put(service: Service, *rows: feature_pb2.FeatureRow) -> pb.PutFeaturesResponse:
    """Puts rows."""
    return service.stub.PutFeatures(pb.PutFeaturesRequest(rows=rows), timeout=10)


def get(service: Service, entity: str = "applicant", entity_id: str = "p1", **more: Any) -> pb.GetFeaturesResponse:
    """Gets an entity."""
    return service.stub.GetFeatures(pb.GetFeaturesRequest(entity=entity, entity_id=entity_id, **more), timeout=10)


def view(service: Service, name: str, entity: str = "applicant", entity_id: str = "p1") -> feature_pb2.ViewReading:
    """One view of an entity."""
    (found,) = get(service, entity, entity_id, views=[name]).views
    return found


def values(found: feature_pb2.ViewReading) -> dict[str, Any]:
    """The values of a view by name; None where there is none."""
    out = {}
    for one in found.features:
        kind = one.value.WhichOneof("kind")
        out[one.name] = None if kind is None else getattr(one.value, kind)
    return out


def statuses(found: feature_pb2.ViewReading) -> dict[str, Any]:
    """The statuses of a view by name."""
    return {one.name: one.status for one in found.features}


def refused(call: Any) -> Failure:
    """What a call was refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return failure_of(caught.value)


def moment(time_us: int) -> Timestamp:
    """A timestamp."""
    made = Timestamp()
    made.FromMicroseconds(time_us)
    return made


class Talk:
    """An open stream of events that is written to by hand."""

    def __init__(self, service: Service) -> None:
        self._out: queue.Queue[pb.IngestEventsRequest | None] = queue.Queue()
        self.call = service.stub.IngestEvents(self._requests(), timeout=30)

    def _requests(self) -> Iterator[pb.IngestEventsRequest]:
        while (message := self._out.get()) is not None:
            yield message

    def send(self, *events: feature_pb2.Event) -> None:
        """Sends one message."""
        self._out.put(pb.IngestEventsRequest(events=events))

    def end(self) -> None:
        """Says that no more events come."""
        self._out.put(None)


def ingest(service: Service, *messages: list[feature_pb2.Event]) -> list[pb.IngestEventsResponse]:
    """Sends messages and gives all acknowledgements."""
    requests = [pb.IngestEventsRequest(events=events) for events in messages]
    return list(service.stub.IngestEvents(iter(requests), timeout=30))


def total(answers: list[pb.IngestEventsResponse], name: str) -> int:
    """One count over all acknowledgements."""
    return sum(getattr(answer, name) for answer in answers)
