"""Channels: their arguments, and the service config that they share.

One host of the client is one address, and one or more channels. Where that address is a name with several addresses
(`dns:///assay-headless:50051`), gRPC's own round_robin spreads the calls of the channel over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import grpc

from assay.client.options import Options
from assay.decision.v1.decision_service_pb2_grpc import DecisionServiceStub
from assay.feature.v1.feature_service_pb2_grpc import FeatureServiceStub
from assay.outcome.v1.outcome_service_pb2_grpc import OutcomeServiceStub

HEALTH_SERVICE = "assay.decision.v1.DecisionService"


class Lane:
    """One connection, with the stubs on it."""

    __slots__ = ("channel", "decision", "feature", "outcome")

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.decision: Any = DecisionServiceStub(channel)
        self.feature: Any = FeatureServiceStub(channel)
        self.outcome: Any = OutcomeServiceStub(channel)


def addresses_of(hosts: str | Iterable[str]) -> tuple[str, ...]:
    """The addresses of `"a:50051,b:50051"` or of a list; each once, in order. Raises ValueError when there is none."""
    parts = hosts.split(",") if isinstance(hosts, str) else hosts
    found = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not found:
        raise ValueError("a client needs the address of one host at least, for example '127.0.0.1:50051'")
    return found


def service_config(health: bool) -> str:
    """What gRPC does inside one channel. No retries of its own: they would not be in the budget."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if health:
        config["healthCheckConfig"] = {"serviceName": HEALTH_SERVICE}
    return json.dumps(config)


def arguments(options: Options) -> list[tuple[str, Any]]:
    """The arguments of every channel."""
    found: list[tuple[str, Any]] = [
        ("grpc.service_config", service_config(options.health)),
        # A service config from DNS would bring retries of its own.
        ("grpc.service_config_disable_resolution", 1),
        # Each channel is a connection of its own; without this, channels to one address share one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.primary_user_agent", "assay-client"),
        # A whole batch of answers.
        ("grpc.max_receive_message_length", 64 << 20),
        # A host that has gone without a word (a lost machine, a firewall) is noticed after 25 s of silence.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # A host that is back is found within a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if options.tls is not None and options.tls.server_name:
        found.append(("grpc.ssl_target_name_override", options.tls.server_name))
    return [*found, *options.channel]


def open_channel(address: str, options: Options, library: Any = grpc) -> Any:
    """A channel to an address. library: `grpc`, or `grpc.aio`."""
    if options.tls is None:
        return library.insecure_channel(address, arguments(options))
    return library.secure_channel(address, grpc.ssl_channel_credentials(*options.tls.pem()), arguments(options))
