"""The gRPC server: threads, health, reflection, draining.

Threads and not asyncio: every ONNX run and every read lets go of the interpreter lock, and under grpc.aio each such
moment costs a hand-over to gRPC's poller thread and back; a thread of the threaded server simply goes on. Single
decisions need no thread at all while the store is quick: see `engine.rpc.direct`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from assay.decision.v1 import decision_service_pb2 as pb
from engine.errors import ConfigError, Problem
from engine.rpc.admission import Admitted, Arrivals, Door
from engine.rpc.direct import DirectCalls, can_serve
from engine.rpc.observe import CallThreads
from engine.rpc.reflection import enable_reflection
from engine.rpc.servicer import SERVICE, DecisionServicer, method_handlers

_log = logging.getLogger("assay.server")
# A drain refuses new calls until none has come for this long, or for that long at most, and stops then.
_QUIET_S, _QUIET_MOST_S = 0.2, 3.0
_LAST_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What an operator chooses; see `engine.config.ServerConfig`."""

    address: str
    threads: int
    waiting_max: int
    message_bytes_max: int
    drain_grace_s: float
    reuse_port: bool = False
    connection_age_s: float = 0.0
    direct: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """The server's TLS credentials, None without TLS. Raises ConfigError for files that cannot be read."""
    files = {
        "tls_certificate": settings.tls_certificate,
        "tls_key": settings.tls_key,
        "tls_client_ca": settings.tls_client_ca,
    }
    content: dict[str, bytes | None] = {}
    problems = []
    for name, path in files.items():
        try:
            content[name] = path.read_bytes() if path is not None else None
        except OSError as error:
            message = f"{str(path)!r} cannot be read ({error.strerror})"
            problems.append(Problem("settings", f"server.{name}", message, "Name a PEM file that can be read."))
    if problems:
        raise ConfigError(problems)
    key, certificate, ca = content["tls_key"], content["tls_certificate"], content["tls_client_ca"]
    if key is None or certificate is None:
        return None
    return grpc.ssl_server_credentials([(key, certificate)], ca, ca is not None)


class Server:
    """One serving process. Health is NOT_SERVING until `ready`, and again from `drain` on."""

    def __init__(
        self,
        servicer: DecisionServicer,
        settings: ServerSettings,
        others: Mapping[str, grpc.GenericRpcHandler] | None = None,
    ) -> None:
        """others: the handlers of further services, by their full names."""
        self._services = (SERVICE, *(others or {}))
        self._settings = settings
        self._health = health.HealthServicer()
        options = [
            ("grpc.max_receive_message_length", settings.message_bytes_max),
            ("grpc.max_send_message_length", 64 * 1024 * 1024),
            # A port that another process holds is an error, not to be shared with it in silence.
            ("grpc.so_reuseport", int(settings.reuse_port)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        if settings.connection_age_s > 0:
            # A connection that is told to go lets its calls end: callers notice nothing.
            options.append(("grpc.max_connection_age_ms", int(settings.connection_age_s * 1000)))
        self._threads = CallThreads(settings.threads, thread_name_prefix="rpc")
        gate, door = servicer.observer.gate, Door()
        self._server = grpc.server(
            self._threads if gate is None else Admitted(self._threads, door),  # type: ignore[arg-type]
            options=options,
            maximum_concurrent_rpcs=settings.threads + settings.waiting_max,
        )
        if gate is not None:
            # Before all others: gRPC asks them in turn.
            arrivals = Arrivals(gate, servicer.observer, lambda: servicer.draining, door)
            self._server.add_generic_rpc_handlers((arrivals,))
        self._server.add_generic_rpc_handlers((method_handlers(servicer), *(others or {}).values()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        assert pb.DESCRIPTOR.services_by_name["DecisionService"].full_name == SERVICE
        enable_reflection(names, self._server)
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._direct: DirectCalls | None = None
        if settings.direct:
            if can_serve():
                concurrent_max = settings.threads + settings.waiting_max
                self._direct = DirectCalls(self._server, servicer, self._threads, gate, concurrent_max)
            else:
                _log.warning("this release of gRPC is not one that direct serving is tested with; threads decide")
        self.port = self._bind()
        servicer.observer.listens(settings.address, self.port)

    def _bind(self) -> int:
        settings = self._settings
        credentials = _credentials(settings)
        try:
            if credentials is not None:
                return self._server.add_secure_port(settings.address, credentials)
            return self._server.add_insecure_port(settings.address)
        except (RuntimeError, ValueError) as error:
            fix = "Another program may hold the port: choose another address, or end it."
            if credentials is not None:
                fix += " Or the certificate and the key are no PEM files that go together."
            problem = Problem("settings", "server.address", f"cannot listen on {settings.address!r}", fix)
            raise ConfigError([problem]) from error

    def _set_health(self, status: int) -> None:
        for name in ("", *self._services):
            self._health.set(name, status)

    @property
    def waiting(self) -> int:
        """Calls that were taken in and wait for a thread."""
        return self._threads.waiting + (0 if self._direct is None else self._direct.waiting)

    def start(self) -> None:
        """Begins to take calls; health stays NOT_SERVING until `ready`."""
        if self._direct is None:
            self._server.start()
        else:
            self._direct.start()

    def ready(self) -> None:
        """Says that a bundle is in service."""
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", extra={"address": self._settings.address, "port": self.port})

    def drain(self, servicer: DecisionServicer) -> None:
        """Stops taking calls, waits for those under way at most the grace time, and ends. Accepted calls are
        answered; streams end after the request that they are deciding."""
        _log.info("draining", extra={"grace_s": self._settings.drain_grace_s})
        self._health.enter_graceful_shutdown()
        grace_s = self._settings.drain_grace_s
        servicer.drain(_QUIET_S, min(_QUIET_MOST_S, grace_s), grace_s)
        # What is left are health watches, which never end, and answers on their way out.
        self._server.stop(min(_LAST_S, grace_s)).wait()
        _log.info("drained")

    def stop(self) -> None:
        """Ends at once. Harmless after a drain."""
        self._server.stop(None).wait()
