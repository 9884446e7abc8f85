"""Every RPC of every service, from the generated descriptors: what is not here does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from assay.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from assay.decision.v1 import decision_service_pb2, decision_service_pb2_grpc
from assay.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from assay.outcome.v1 import outcome_service_pb2, outcome_service_pb2_grpc

# A service and its generated stub.
SERVICES: tuple[tuple[Any, Any], ...] = (
    (decision_service_pb2, decision_service_pb2_grpc.DecisionServiceStub),
    (feature_service_pb2, feature_service_pb2_grpc.FeatureServiceStub),
    (outcome_service_pb2, outcome_service_pb2_grpc.OutcomeServiceStub),
    (admin_service_pb2, admin_service_pb2_grpc.AdminServiceStub),
)
ADMIN = "AdminService"


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC. streams_in, streams_out: whether requests and answers are streams."""

    name: str
    service: str
    streams_in: bool
    streams_out: bool


def _rpcs() -> dict[str, Rpc]:
    found: dict[str, Rpc] = {}
    for module, _ in SERVICES:
        descriptor: ServiceDescriptor
        for descriptor in module.DESCRIPTOR.services_by_name.values():
            method: MethodDescriptor
            for method in descriptor.methods:
                assert method.name not in found, f"two RPCs are called {method.name}"
                found[method.name] = Rpc(method.name, descriptor.name, method.client_streaming, method.server_streaming)
    return found


# By name, in the order of the protos.
RPCS: dict[str, Rpc] = _rpcs()


def methods(channel: Any, admin_channel: Any = None) -> dict[str, Any]:
    """The callables of the generated stubs by the RPC's name. admin_channel: absent, AdminService is left out."""
    found: dict[str, Any] = {}
    for module, stub in SERVICES:
        for descriptor in module.DESCRIPTOR.services_by_name.values():
            used = admin_channel if descriptor.name == ADMIN else channel
            if used is not None:
                bound = stub(used)
                found |= {method.name: getattr(bound, method.name) for method in descriptor.methods}
    return found
