"""How to reach Redis."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from os import PathLike
from typing import NamedTuple

from engine.features.store import StoreUnavailable


class Address(NamedTuple):
    """Where one server listens: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """One server, or some nodes of one Redis Cluster.

    addresses: "host:port", "[IPv6]:port", or "unix:/path" (also "/path"); one for a single server. user: of the
    ACL; None logs in as the default user. tls: the server's certificate must come from `ca` (None: from those that
    the system trusts) and name the host. certificate, key: the client's own, PEM files. db: none but 0 in a cluster.
    client_name: what the server's CLIENT LIST shows.

    connect_timeout_ms: for a connection with its login; read_timeout_ms: for a read without a deadline;
    write_timeout_ms: for a batch of writes and for administration. hedge_after_ms: a read that had no answer by then
    is sent once more over a second connection, and the first answer counts; None: never.

    Raises ValueError where it makes no sense. The password is in no text that comes from here.
    """

    addresses: tuple[str, ...]
    cluster: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    db: int = 0
    client_name: str = "assay"
    connect_timeout_ms: float = 500.0
    read_timeout_ms: float = 50.0
    write_timeout_ms: float = 2000.0
    hedge_after_ms: float | None = None

    def __post_init__(self) -> None:
        parsed = [parse_address(address) for address in self.addresses]
        if not parsed or (len(parsed) > 1 and not self.cluster):
            raise ValueError("a single Redis has one address, a Redis Cluster one or more")
        if self.cluster and (self.db or any(address.path for address in parsed)):
            raise ValueError("a Redis Cluster has no database but 0 and no Unix socket")
        if self.tls and any(address.path for address in parsed):
            raise ValueError("a Unix socket has no TLS")
        if not self.tls and (self.ca or self.certificate or self.key):
            raise ValueError("ca, certificate and key mean nothing without tls")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together")
        if self.user and not self.password:
            raise ValueError("a user needs a password")


def parse_address(text: str) -> Address:
    """Takes an address of the settings apart. Raises ValueError."""
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        return Address("", 0, path)
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:6379")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is neither host:port nor unix:/path")
    return Address(host, int(port))


def tls_context(settings: RedisSettings) -> ssl.SSLContext | None:
    """What TLS needs, None without it. Raises StoreUnavailable for files that cannot be used."""
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as e:
        raise StoreUnavailable(f"redis: the CA file {settings.ca} cannot be used: {_cause(e)}") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate and settings.key:
        try:
            context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as e:
            files = f"{settings.certificate} and {settings.key}"
            raise StoreUnavailable(f"redis: {files} cannot be used: {_cause(e)}") from e
    return context


def _cause(e: OSError) -> str:
    return e.strerror or type(e).__name__
