"""Migrations, and who may do what: users, passwords, certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.features.store import StoreUnavailable
from engine.features.stores.cassandra import CassandraSettings, CassandraStore, Migrated, migrate
from engine.features.stores.cassandra_driver import connect
from engine.features.stores.cassandra_schema import MIGRATIONS, Migration, check_schema
from engine.features.stores.cassandra_settings import host_and_port, replication_map, tls_context
from tests.support.cassandra import FIRST_PASSWORD, FIRST_USER, CassandraNode, own_node, shared_node
from tests.support.cassandra_places import settings_for
from tests.support.cassandra_rows import one_more, row

ALL = tuple(migration.version for migration in MIGRATIONS)
NEWEST = ALL[-1]
LATER = Migration(NEWEST + 1, ("CREATE TABLE IF NOT EXISTS later (a int PRIMARY KEY)",))

# The node may have to be started, and a Java machine is not quick on a busy one.
pytestmark = pytest.mark.timeout(600)


def fresh(keyspace: str) -> CassandraSettings:
    """A keyspace that is not there."""
    settings = settings_for(shared_node(), keyspace)
    session = connect(settings, None, {}, with_keyspace=False)
    session.execute(f"DROP KEYSPACE IF EXISTS {keyspace}")
    session.shutdown()
    return settings


def test_a_keyspace_is_made_and_brought_to_the_newest_version() -> None:
    settings = fresh("migrations_a")
    with pytest.raises(StoreUnavailable, match=r"migrations_a.*run `assay store migrate`"):
        CassandraStore(settings)
    assert migrate(settings) == Migrated("migrations_a", ALL, NEWEST)
    assert migrate(settings) == Migrated("migrations_a", (), NEWEST)
    CassandraStore(settings).close()
    assert migrate(settings, (*MIGRATIONS, LATER)) == Migrated("migrations_a", (LATER.version,), LATER.version)
    # A release that does not know the newest one goes on working: migrations only add.
    assert migrate(settings) == Migrated("migrations_a", (), NEWEST)
    CassandraStore(settings).close()


def test_a_keyspace_without_all_migrations_is_not_opened() -> None:
    settings = fresh("migrations_b")
    migrate(settings)
    session = connect(settings, None, {})
    with pytest.raises(StoreUnavailable, match=rf"lacks migration {LATER.version}: run `assay store migrate`"):
        check_schema(settings, session, (*MIGRATIONS, LATER))
    session.execute("DROP TABLE schema_migrations")
    session.shutdown()
    with pytest.raises(StoreUnavailable, match="run `assay store migrate`"):
        CassandraStore(settings)


def test_an_altered_migration_is_refused() -> None:
    settings = fresh("migrations_c")
    migrate(settings, (*MIGRATIONS, LATER))
    altered = replace(LATER, statements=("CREATE TABLE IF NOT EXISTS later (a int PRIMARY KEY, b int)",))
    with pytest.raises(StoreUnavailable, match=rf"migration {LATER.version} of keyspace migrations_c is not the one"):
        migrate(settings, (*MIGRATIONS, altered))
    with pytest.raises(StoreUnavailable, match=rf"migration {LATER.version} of keyspace migrations_c is not the one"):
        check_schema(settings, _session := connect(settings, None, {}), (*MIGRATIONS, altered))
    _session.shutdown()
    assert replace(LATER, statements=(f"  {LATER.statements[0]}\n",)).checksum == LATER.checksum


def test_runs_at_the_same_time_take_turns() -> None:
    settings = fresh("migrations_d")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: migrate(settings, (*MIGRATIONS, LATER)), range(4)))
    assert sorted(version for run in done for version in run.applied) == [*ALL, LATER.version]
    CassandraStore(settings).close()
    session = connect(settings, None, {})
    assert sorted(r["version"] for r in session.execute("SELECT version FROM schema_migrations")) == [
        *ALL,
        LATER.version,
    ]
    session.shutdown()


@pytest.fixture(scope="module")
def guarded_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraNode]:
    """A node with users, and with TLS on both sides."""
    with own_node(tmp_path_factory.mktemp("cassandra"), password=True, tls=True) as node:
        migrate(_as_first_user(node))
        yield node


@pytest.fixture
def guarded(guarded_node: CassandraNode) -> CassandraSettings:
    """How its first user gets in."""
    return _as_first_user(guarded_node)


def _as_first_user(node: CassandraNode) -> CassandraSettings:
    return settings_for(
        node,
        "guarded",
        user=FIRST_USER,
        password=FIRST_PASSWORD,
        tls=True,
        ca=node.ca,
        certificate=node.certificate,
        key=node.key,
    )


def test_a_user_with_the_least_rights_over_tls(guarded: CassandraSettings) -> None:
    session = connect(guarded, tls_context(guarded), {})
    session.execute("CREATE ROLE IF NOT EXISTS assay WITH PASSWORD = 'x' AND LOGIN = true")
    for right in ("SELECT", "MODIFY"):
        session.execute(f"GRANT {right} ON KEYSPACE guarded TO assay")
    session.shutdown()
    own = replace(guarded, user="assay", password="x")
    store = CassandraStore(own)
    one = row("1", 1.0, 1)
    store.write([one])
    assert store.update([(one.key, one_more)]) == store.read([one.key])
    assert store.delete_entity("subject", "1") == 1
    store.close()
    with pytest.raises(StoreUnavailable, match="the user may not do this in keyspace foreign"):
        migrate(replace(own, keyspace="foreign"))


def test_a_wrong_password_is_said_and_not_shown(guarded: CassandraSettings) -> None:
    wrong = replace(guarded, user="mallory", password="correct-horse")
    with pytest.raises(StoreUnavailable, match="refused the user or the password") as caught:
        CassandraStore(wrong)
    said = "".join(traceback.format_exception(caught.value)) + repr(wrong)
    assert "correct-horse" not in said
    assert "Provided username" not in said
    with pytest.raises(StoreUnavailable):
        CassandraStore(replace(guarded, user=None, password=None))


@contextlib.contextmanager
def forwarded(host: str, port: int) -> Iterator[str]:
    """The node's port under another address."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as node:
                back = threading.Thread(target=copy, args=(node, self.request), daemon=True)
                back.start()
                copy(self.request, node)
                back.join(5)

    with socketserver.ThreadingTCPServer((host, 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_certificates_are_checked_on_both_sides(guarded: CassandraSettings, tmp_path: Path) -> None:
    for changed in (
        replace(guarded, tls=False, ca=None, certificate=None, key=None),
        replace(guarded, certificate=None, key=None),
        replace(guarded, ca=None),
    ):
        with pytest.raises(StoreUnavailable):
            CassandraStore(replace(changed, connect_timeout_ms=1000))
    # The certificate names 127.0.0.1 and localhost alone.
    for host, named in (("127.0.0.1", True), ("127.0.0.2", False)):
        with forwarded(host, host_and_port(guarded.addresses[0])[1]) as address:
            through = replace(guarded, addresses=(address,))
            if named:
                CassandraStore(through).close()
            else:
                with pytest.raises(StoreUnavailable, match="no TLS connection"):
                    CassandraStore(through)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    for changed in (
        replace(guarded, ca=nonsense),
        replace(guarded, ca=tmp_path / "absent.pem"),
        replace(guarded, certificate=nonsense),
    ):
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            CassandraStore(changed, lazy=True)


@pytest.mark.skipif(os.name != "posix", reason="the script is for a POSIX shell")
def test_the_node_keeps_everything_in_its_directory(guarded_node: CassandraNode) -> None:
    assert {"data", "commitlog", "tls", "node.log"} <= {p.name for p in guarded_node.directory.iterdir()}
    assert guarded_node.directory.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "options",
    [
        {"addresses": ()},
        {"addresses": ("host",)},
        {"addresses": ("::1:9042",)},
        {"addresses": ("host:0",)},
        {"keyspace": "Assay"},
        {"keyspace": "x; DROP"},
        {"replication": "SimpleStrategy"},
        {"replication": "SimpleStrategy 0"},
        {"replication": "NetworkTopologyStrategy"},
        {"replication": "NetworkTopologyStrategy dc1:3 dc1:2"},
        {"replication": "NetworkTopologyStrategy dc1':3"},
        {"consistency": "TWO"},
        {"ca": "ca.pem"},
        {"tls": True, "key": "key.pem"},
        {"user": "assay"},
        {"password": "x"},
        {"read_timeout_ms": 0},
        {"hedge_after_ms": -1},
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        CassandraSettings(**{"addresses": ("127.0.0.1:9042",), **options})  # type: ignore[arg-type]


def test_an_absent_data_centre_is_named() -> None:
    settings = settings_for(shared_node(), "migrations_a", local_dc="nowhere")
    with pytest.raises(StoreUnavailable, match="no node of data centre nowhere"):
        CassandraStore(settings)


def test_settings_as_cassandra_takes_them() -> None:
    assert host_and_port("[::1]:9042") == ("::1", 9042)
    assert replication_map("SimpleStrategy 3") == {"class": "SimpleStrategy", "replication_factor": "3"}
    assert replication_map("NetworkTopologyStrategy eu-1:3 us:2") == {
        "class": "NetworkTopologyStrategy",
        "eu-1": "3",
        "us": "2",
    }
