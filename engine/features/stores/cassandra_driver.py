"""The DataStax driver, and the one file that imports it: connected sessions, prepared statements, errors translated."""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import cassandra
import cassandra.cluster
from cassandra import ConsistencyLevel, UnresolvableContactPoints
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.connection import ConnectionException
from cassandra.policies import (
    ConstantReconnectionPolicy,
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import ErrorMessage
from cassandra.query import (
    UNSET_VALUE,
    BatchStatement,
    BatchType,
    PreparedStatement,
    SimpleStatement,
    dict_factory,
    tuple_factory,
)

from engine.errors import StoreError
from engine.features.store import StoreCorrupt, StoreTimeout, StoreUnavailable
from engine.features.stores.cassandra_settings import CassandraSettings, host_and_port

# Version 5 (Cassandra 4.0 and newer) checks every frame: a flipped bit is an error, never a row that is not found. It
# costs the driver some Python for every frame.
_PROTOCOL = 5
_HEDGED, _DICTS = "hedged", "dicts"
# A connection that says nothing is asked every second, and given up two seconds later: until then its calls are late.
_HEARTBEAT_S, _HEARTBEAT_TIMEOUT_S = 1.0, 2.0
_RECONNECT_S = 1.0
RUN_MIGRATE = "run `assay store migrate`"
# In place of a value: the column is left as it is. None would write the mark of a deletion.
UNSET: object = UNSET_VALUE

Values = Sequence[object]
Rows = list[tuple[Any, ...]]

# What the driver has to say about lost nodes is said by the errors of the calls. Who sets a level gets its messages.
if (_log := logging.getLogger("cassandra")).level == logging.NOTSET:
    _log.setLevel(logging.CRITICAL + 1)


class Statement(NamedTuple):
    """A statement to prepare. serial: a read that takes part in the agreement on atomic changes, so that it sees all of
    them; hedged: may be sent to a second replica; page_rows: how many rows come at once."""

    cql: str
    serial: bool = False
    hedged: bool = False
    idempotent: bool = True
    page_rows: int = 5000


class Call(NamedTuple):
    """One statement to run: its name and values. batch: or the values of several, in one unlogged batch."""

    name: str
    values: Values = ()
    batch: Sequence[Values] = ()


class Session:
    """A connected session with its statements prepared."""

    def __init__(self, cluster: Any, session: Any, prepared: Mapping[str, tuple[PreparedStatement, str]]) -> None:
        self._cluster = cluster
        self._session = session
        self._prepared = prepared

    def send(
        self,
        call: Call,
        ok: Callable[..., None],
        failed: Callable[..., None],
        tag: object,
        timeout_s: float,
        page: bytes | None = None,
    ) -> Any:
        """Send a call and return at once: `ok(rows, tag)` or `failed(exception, tag)` is called, on another thread as a
        rule, perhaps twice when hedged. page: which page of the rows, from `next_page` of the one before, which takes
        what this gives."""
        statement, profile = self._prepared[call.name]
        if call.batch:
            bound = BatchStatement(BatchType.UNLOGGED, consistency_level=statement.consistency_level)
            bound.is_idempotent = statement.is_idempotent
            for values in call.batch:
                bound.add(statement, values)
        else:
            bound = statement.bind(call.values)
        future = self._session.execute_async(bound, timeout=timeout_s, execution_profile=profile, paging_state=page)
        future.add_callbacks(ok, failed, callback_args=(tag,), errback_args=(tag,))
        return future

    @staticmethod
    def next_page(sent: Any) -> bytes | None:
        """Where the next page of an answered call starts, None after the last."""
        state: bytes | None = sent._paging_state
        return state

    def execute(self, cql: str, values: Values = (), timeout_s: float | None = 10.0) -> list[dict[str, Any]]:
        """Run one statement that is not prepared, and wait. Raises the driver's exceptions."""
        statement = SimpleStatement(cql, consistency_level=self._profile.consistency_level)
        statement.serial_consistency_level = ConsistencyLevel.SERIAL
        found = self._session.execute(statement, values or None, timeout=timeout_s, execution_profile=_DICTS)
        return list(found)

    @property
    def _profile(self) -> ExecutionProfile:
        return self._cluster.profile_manager.profiles[EXEC_PROFILE_DEFAULT]

    def by_replica(self, name: str, rows: Sequence[Values]) -> list[Values]:
        """The values of `rows` in the order of their partitions' tokens: neighbours lie on the same replicas."""
        statement, _ = self._prepared[name]
        tokens = self._cluster.metadata.token_map
        if tokens is None:
            return list(rows)
        token_of = tokens.token_class.hash_fn
        return sorted(rows, key=lambda values: token_of(statement.bind(values).routing_key))

    def shutdown(self) -> None:
        """Close all connections and end the driver's threads."""
        with suppress(Exception):
            self._cluster.shutdown()

    def abandon(self) -> None:
        """In a forked child: close the child's copies of the sockets, and leave what the parent's threads held."""
        _abandon(self._cluster)


def connect(
    settings: CassandraSettings,
    tls: ssl.SSLContext | None,
    statements: Mapping[str, Statement],
    check: Callable[[Session], None] | None = None,
    *,
    with_keyspace: bool = True,
) -> Session:
    """A session with the keyspace, once `check` has found the keyspace's tables good. Raises StoreError.

    Takes the connect limit once for each address that does not answer, and some seconds more at worst.
    """
    cluster = None
    try:
        cluster = Cluster(
            [host_and_port(address) for address in settings.addresses],
            protocol_version=_PROTOCOL,
            compression=False,
            auth_provider=PlainTextAuthProvider(settings.user, settings.password) if settings.user else None,
            ssl_context=tls,
            execution_profiles=_profiles(settings),
            reconnection_policy=ConstantReconnectionPolicy(_RECONNECT_S, max_attempts=None),
            connect_timeout=settings.connect_timeout_ms / 1000,
            control_connection_timeout=settings.connect_timeout_ms / 1000,
            idle_heartbeat_interval=_HEARTBEAT_S,
            idle_heartbeat_timeout=_HEARTBEAT_TIMEOUT_S,
            application_name="assay",
            monitor_reporting_enabled=False,
        )
        session = cluster.connect()
        session.use_client_timestamp = False
        if with_keyspace:  # apart: a keyspace that is not there would look like nodes that are not there
            session.set_keyspace(settings.keyspace)
        prepared: dict[str, tuple[PreparedStatement, str]] = {}
        connected = Session(cluster, session, prepared)
        if check is not None:
            check(connected)
        for name, statement in statements.items():
            prepared[name] = _prepare(session, statement, settings)
        return connected
    except BaseException as e:
        if cluster is not None:
            with suppress(Exception):
                cluster.shutdown()
        if isinstance(e, Exception) and not isinstance(e, StoreError):
            _raise(e, settings)
        raise


def _profiles(settings: CassandraSettings) -> dict[str, ExecutionProfile]:
    def profile(**options: Any) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.local_dc or "")),
            consistency_level=getattr(ConsistencyLevel, settings.consistency),
            serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
            request_timeout=settings.write_timeout_ms / 1000,
            **options,
        )

    delay_s = (settings.hedge_after_ms or 0) / 1000
    hedge = {"speculative_execution_policy": ConstantSpeculativeExecutionPolicy(delay_s, 1)} if delay_s else {}
    return {
        EXEC_PROFILE_DEFAULT: profile(row_factory=tuple_factory),
        _HEDGED: profile(row_factory=tuple_factory, **hedge),
        _DICTS: profile(row_factory=dict_factory),
    }


def _prepare(session: Any, statement: Statement, settings: CassandraSettings) -> tuple[PreparedStatement, str]:
    prepared = session.prepare(statement.cql)
    level = "LOCAL_SERIAL" if statement.serial else settings.consistency
    prepared.consistency_level = getattr(ConsistencyLevel, level)
    prepared.serial_consistency_level = ConsistencyLevel.LOCAL_SERIAL
    prepared.is_idempotent = statement.idempotent
    prepared.fetch_size = statement.page_rows
    return prepared, _HEDGED if statement.hedged else EXEC_PROFILE_DEFAULT


def _raise(e: Exception, settings: CassandraSettings) -> None:
    """Raise what a driver's exception means. One about credentials is left out of the cause: it may name them."""
    error = store_error(e, settings)
    if any(isinstance(part, cassandra.AuthenticationFailed) for part in [e, *_parts(e)]):
        raise error from None
    raise error from e


def _parts(e: Exception) -> list[object]:
    """What was wrong with each node."""
    errors = e.errors if isinstance(e, NoHostAvailable) else None
    return list(errors.values()) if isinstance(errors, dict) else []


def store_error(e: Exception, settings: CassandraSettings) -> StoreError:
    """What a driver's exception means to who uses the store. The text has neither credentials nor keys."""
    place = settings.place
    if isinstance(e, StoreError):
        return e
    parts = [e, *_parts(e)]

    def has(*kinds: type[Exception]) -> bool:
        return any(isinstance(part, kinds) for part in parts)

    if has(cassandra.AuthenticationFailed):
        return StoreUnavailable(f"{place} refused the user or the password")
    if has(cassandra.Unauthorized):
        return StoreUnavailable(f"{place}: the user may not do this in keyspace {settings.keyspace}")
    if has(cassandra.OperationTimedOut, cassandra.Timeout):
        return StoreTimeout(f"{place} did not answer in time")
    if has(cassandra.Unavailable):
        return StoreUnavailable(f"{place}: too few replicas are up for consistency {settings.consistency}")
    # The driver makes a plain OSError of what TLS said.
    if any(isinstance(part, ssl.SSLError) or (isinstance(part, OSError) and "SSL" in str(part)) for part in parts):
        return StoreUnavailable(f"{place}: no TLS connection could be made; see ca, certificate and key")
    if has(UnresolvableContactPoints):
        return StoreUnavailable(f"{place}: the name cannot be resolved")
    if has(cassandra.InvalidRequest) and any(w in str(e) for w in ("does not exist", "unconfigured table")):
        return StoreUnavailable(f"{place}: keyspace {settings.keyspace} is not ready: {RUN_MIGRATE}")
    # A list when nodes were found and none of them may be used.
    if isinstance(e, NoHostAvailable) and settings.local_dc and not isinstance(e.errors, dict):
        return StoreUnavailable(f"{place}: no node of data centre {settings.local_dc} can be reached")
    if has(NoHostAvailable, ConnectionException):
        return StoreUnavailable(f"{place} cannot be reached")
    if has(cassandra.DriverException, cassandra.RequestExecutionException, ErrorMessage, cassandra.InvalidRequest):
        return StoreUnavailable(f"{place} refused: {type(e).__name__}")
    return StoreCorrupt(f"{place} gave an answer that makes no sense: {type(e).__name__}")


def _abandon(cluster: Any) -> None:
    """After a fork. Locks of the driver may be held by threads that the child does not have, so nothing here takes one,
    and nothing of the old cluster runs when the child ends."""
    with suppress(Exception):
        cassandra.cluster._discard_cluster_shutdown(cluster)
    with suppress(Exception):
        reactor: Any = sys.modules[cluster.connection_class.__module__]
        loop = reactor._global_loop
        if loop is not None:
            reactor._global_loop = None
            for connection in list(loop._live_conns):
                connection._socket.close()
