"""How to reach Apache Cassandra."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from os import PathLike

from engine.features.store import StoreUnavailable

CONSISTENCIES = ("LOCAL_ONE", "ONE", "LOCAL_QUORUM", "QUORUM", "ALL")
_KEYSPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")
_DATA_CENTRE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class CassandraSettings:
    """One cluster, and the keyspace in it that is Assay's own.

    addresses: "host:port" or "[IPv6]:port" of some nodes; the rest are found through them. replication: of the
    keyspace, when it is made: "SimpleStrategy 1", or "NetworkTopologyStrategy dc1:3 dc2:3". local_dc: the data centre
    to talk to; None takes that of the first node found. consistency: how many replicas must answer a read and a write;
    atomic changes are agreed on among the replicas of the local data centre besides. user, password: both or neither.
    tls: the nodes' certificates must come from `ca` (None: from those that the system trusts) and name the address
    that the node is reached under. certificate, key: the client's own, PEM files.

    connect_timeout_ms: for one connection with its login; read_timeout_ms: the most that one read may take, whatever
    its deadline; write_timeout_ms: the same for a write. hedge_after_ms: a read that had no answer by then is sent to
    another replica as well, and the first answer counts; None: never.

    Raises ValueError where it makes no sense. The password is in no text that comes from here.
    """

    addresses: tuple[str, ...]
    keyspace: str = "assay"
    replication: str = "SimpleStrategy 1"
    local_dc: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    connect_timeout_ms: float = 2000.0
    read_timeout_ms: float = 50.0
    write_timeout_ms: float = 5000.0
    consistency: str = "LOCAL_QUORUM"
    hedge_after_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("Cassandra needs an address at least")
        for address in self.addresses:
            host_and_port(address)
        if not _KEYSPACE.fullmatch(self.keyspace):
            raise ValueError(f"{self.keyspace!r} is no name of a keyspace: a-z, 0-9 and _, at most 48, a letter first")
        replication_map(self.replication)
        if self.consistency not in CONSISTENCIES:
            raise ValueError(f"consistency {self.consistency!r} is none of {', '.join(CONSISTENCIES)}")
        if not self.tls and (self.ca or self.certificate or self.key):
            raise ValueError("ca, certificate and key mean nothing without tls")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together")
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password go together")
        limits = (self.connect_timeout_ms, self.read_timeout_ms, self.write_timeout_ms)
        if min(limits) <= 0 or (self.hedge_after_ms is not None and self.hedge_after_ms <= 0):
            raise ValueError("time limits are greater than 0")

    @property
    def place(self) -> str:
        """What messages call the cluster: its addresses."""
        return f"cassandra at {', '.join(self.addresses)}"


def host_and_port(address: str) -> tuple[str, int]:
    """Takes an address of the settings apart. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets, as in [::1]:9042")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


def replication_map(text: str) -> dict[str, str]:
    """The keyspace's replication as CQL wants it. Raises ValueError."""
    strategy, *rest = text.split() or [""]
    if strategy == "SimpleStrategy" and len(rest) == 1 and _is_count(rest[0]):
        return {"class": strategy, "replication_factor": rest[0]}
    pairs = [part.rpartition(":") for part in rest]
    if (
        strategy == "NetworkTopologyStrategy"
        and pairs
        and all(_DATA_CENTRE.fullmatch(name) and _is_count(count) for name, _, count in pairs)
        and len({name for name, _, _ in pairs}) == len(pairs)
    ):
        return {"class": strategy} | {name: count for name, _, count in pairs}
    raise ValueError(
        f"replication {text!r} is neither like `SimpleStrategy 3` nor like `NetworkTopologyStrategy dc1:3 dc2:3`"
    )


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 100


def tls_context(settings: CassandraSettings) -> ssl.SSLContext | None:
    """What TLS needs, None without it. Raises StoreUnavailable for files that cannot be used."""
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except OSError as e:
        raise StoreUnavailable(f"cassandra: the CA file {settings.ca} cannot be used: {_cause(e)}") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate and settings.key:
        try:
            # A key that asks for a pass phrase would otherwise be asked for at the terminal.
            context.load_cert_chain(settings.certificate, settings.key, password="")
        except OSError as e:
            files = f"{settings.certificate} and {settings.key}"
            raise StoreUnavailable(f"cassandra: {files} cannot be used: {_cause(e)}") from e
    return context


def _cause(e: OSError) -> str:
    return e.strerror or type(e).__name__
