"""A real server of the feature service in this process, over a store of choice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from assay.decision.v1 import decision_pb2
from assay.feature.v1 import feature_pb2, feature_service_pb2_grpc
from engine.bundle.compile_counters import velocity_views
from engine.bundle.write_plan import make_desk_plan
from engine.feature_desk import FeatureDesk
from engine.features.store import FeatureStore
from engine.features.velocity import Definitions, VelocityApplier
from engine.rpc.feature_servicer import FeatureServicer, feature_handlers
from engine.rpc.streams import Streams
from engine.telemetry.counters import Counters

from .catalogue import NOW_US, catalogue_in


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
    servicer = FeatureServicer(desk, streams, draining=draining.is_set)
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
