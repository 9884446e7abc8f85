"""What the user of a client chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from assay.client.hedging import Hedge
from assay.client.hosts import Ejection
from assay.client.retrying import Budget, Retry

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Tls:
    """TLS to the hosts. Each is a PEM file, or its bytes.

    ca: whom the hosts' certificates must be from; absent: gRPC's own roots. certificate, key: the client's own, for
    servers that ask for one. server_name: the name that the certificate must have, where it is not the address'.
    """

    ca: Path | bytes | None = None
    certificate: Path | bytes | None = None
    key: Path | bytes | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("Tls needs certificate and key together, or neither")

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The bytes of CA, key and certificate. Raises OSError for a file that cannot be read."""

        def read(one: Path | bytes | None) -> bytes | None:
            return one.read_bytes() if isinstance(one, Path) else one

        return read(self.ca), read(self.key), read(self.certificate)


@dataclass(frozen=True)
class Options:
    """timeout_s: the deadline of a call, with all its attempts and waits. attempt_timeout_s: of one attempt; the rest
    of the deadline where that is less. batch_timeout_s: the deadline of one piece of a batch. stream_s: how long one
    stream lives before it is opened anew, on the next host.

    retry, budget, ejection, hedge: see there; hedge None (the default): no hedging. Give several clients one `Budget`
    to let them share it.

    tenant, tenant_header: sent with every call, where the server or the gateway before it wants to be told. metadata:
    sent with every call as well; a callable is asked each time, for tokens that expire.

    connections: to each host. More than one where a host has several workers on one port: a connection stays with the
    worker that took it. health: whether gRPC watches each host's health service and leaves out who is not serving.
    items_max, bytes_max: of one piece of a batch. channel: further gRPC channel arguments.
    """

    timeout_s: float = 3.0
    attempt_timeout_s: float = 1.0
    batch_timeout_s: float = 30.0
    stream_s: float = 60.0
    retry: Retry = field(default_factory=Retry)
    budget: Budget = field(default_factory=Budget)
    ejection: Ejection = field(default_factory=Ejection)
    hedge: Hedge | None = None
    tls: Tls | None = None
    tenant: str = ""
    tenant_header: str = "x-tenant"
    metadata: Metadata | Callable[[], Metadata] = ()
    connections: int = 1
    health: bool = True
    items_max: int = 256
    bytes_max: int = 3 << 20
    channel: Sequence[tuple[str, int | str]] = ()

    def __post_init__(self) -> None:
        for name in ("timeout_s", "attempt_timeout_s", "batch_timeout_s", "stream_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Options.{name} must be more than 0")
        for name in ("connections", "items_max", "bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"Options.{name} must be 1 or more")
        if self.retry.attempts_max < 1:
            raise ValueError("Retry.attempts_max must be 1 or more")

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The metadata that goes with every call."""
        own = tuple(self.metadata() if callable(self.metadata) else self.metadata)
        return (*own, (self.tenant_header, self.tenant)) if self.tenant else own
