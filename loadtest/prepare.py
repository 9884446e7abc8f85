"""Gets a server ready: looks at what it serves, and writes the rows of those who are going to apply."""

from __future__ import annotations

import time
from dataclasses import dataclass

import grpc

from assay.decision.v1 import decision_service_pb2, decision_service_pb2_grpc
from assay.feature.v1 import feature_service_pb2_grpc
from loadtest import grpc_errors
from loadtest.population import Population, needed_flows
from loadtest.problems import CouldNotRun
from loadtest.target import Target

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """What the server serves, and how many rows were written to it in how long."""

    bundle: str
    version: str
    digest: str
    flows: tuple[str, ...]
    models: tuple[str, ...]
    rows: int
    loading_s: float


def prepare(target: Target, population: Population, *, load_rows: bool) -> Served:
    """Checks that the server decides what the population applies for, and writes the rows unless they are there.

    Raises CouldNotRun that says what is missing.
    """
    with target.channel() as channel:
        stub = decision_service_pb2_grpc.DecisionServiceStub(channel)
        try:
            answer = stub.ListFlows(
                decision_service_pb2.ListFlowsRequest(), timeout=_TIMEOUT_S, metadata=target.headers
            )
        except grpc.RpcError as error:
            raise CouldNotRun(f"the server at {target.address} does not list its flows: {_why(error)}") from None
        flows = tuple(flow.name for flow in answer.flows)
        if missing := sorted(needed_flows(population) - set(flows)):
            raise CouldNotRun(
                f"the server decides {', '.join(flows)}, and the applications are for {', '.join(missing)}: serve the "
                f"shipped bundle (models/lending)"
            )
        began = time.monotonic()
        rows = _load(channel, target, population) if load_rows else 0
    models = tuple(sorted({model for flow in answer.flows for model in flow.models}))
    bundle = answer.bundle
    return Served(bundle.name, bundle.version, bundle.digest, flows, models, rows, round(time.monotonic() - began, 2))


def _load(channel: grpc.Channel, target: Target, population: Population) -> int:
    stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
    for request in population.put_requests():
        try:
            answer = stub.PutFeatures(request, timeout=_TIMEOUT_S, metadata=target.headers)
        except grpc.RpcError as error:
            raise CouldNotRun(f"rows cannot be written to {target.address}: {_why(error)}") from None
        if answer.rejected:
            first = answer.rejected[0]
            row = request.rows[first.index]
            faults = "; ".join(f"{fault.field}: {fault.message}" for fault in first.faults)
            raise CouldNotRun(
                f"the server takes {len(answer.rejected)} of {len(request.rows)} rows not, the first a row of "
                f"{row.view}: {faults}"
            )
    return len(population.rows)


def _why(error: grpc.RpcError) -> str:
    return f"{grpc_errors.of_error(error).reason}, {error.details()}"
