"""Redis stores for the acceptance suite: the servers start once, at first use, and every place is a database that is
emptied when it is first opened. Tests on one server run one after the other."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from engine.features.stores.redis import RedisStore
from engine.features.stores.redis_cluster import RedisClusterStore
from engine.features.stores.redis_settings import RedisSettings
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_servers import Certificates, RedisServer

# What the store needs, and no more.
ACL = (
    "~{* ~assay:* &* -@all +ping +select +client|setname +mget +get +getrange +set +unlink +eval +evalsha +sadd"
    " +smembers +hset +hget +hgetall +scan +cluster|slots"
)
_opened: dict[str, Path] = {}


def open_redis(place: Path) -> RedisStore:
    """A store on the plain server."""
    server = plain_server()
    if _is_new("plain", place):
        server.admin().flushall()
    return RedisStore(patient((server.address,)))


def open_redis_tls_acl(place: Path) -> RedisStore:
    """A store in database 3 of a server with TLS, certificates on both sides, and an ACL user with the least rights."""
    server = guarded_server()
    if _is_new("guarded", place):
        server.admin().flushall()
    return RedisStore(guarded_settings(server, db=3))


def open_redis_cluster(place: Path) -> RedisClusterStore:
    """A store on a cluster of three masters, told of one of them."""
    cluster = plain_cluster()
    if _is_new("cluster", place):
        cluster.flush()
    return RedisClusterStore(patient(cluster.addresses[:1], cluster=True))


def patient(addresses: tuple[str, ...], **further: Any) -> RedisSettings:
    """Settings with time limits for a busy machine."""
    limits = {"connect_timeout_ms": 5000.0, "read_timeout_ms": 10_000.0, "write_timeout_ms": 20_000.0}
    return RedisSettings(addresses, **{**limits, **further})


def guarded_settings(server: RedisServer, *, db: int = 0) -> RedisSettings:
    """How to reach a server with TLS and an ACL user."""
    assert server.tls is not None
    return patient(
        (server.address,),
        user=server.user,
        password=server.password,
        tls=True,
        ca=server.tls.ca,
        certificate=server.tls.client,
        key=server.tls.client_key,
        db=db,
    )


@cache
def plain_server() -> RedisServer:
    """A server without anything special."""
    return RedisServer()


@cache
def guarded_server() -> RedisServer:
    """A server that demands TLS, a client's certificate, a user and a password."""
    return RedisServer(user="assay", password="wren-9-lamp", acl=ACL, tls=certificates(), client_certificate=True)


@cache
def plain_cluster() -> RedisCluster:
    """Three masters."""
    return RedisCluster()


@cache
def certificates() -> Certificates:
    """Certificates for this run of the tests."""
    directory = tempfile.TemporaryDirectory(prefix="assay-certificates-")
    _kept.append(directory)
    return Certificates(Path(directory.name))


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _is_new(server: str, place: Path) -> bool:
    new = _opened.get(server) != place
    _opened[server] = place
    return new
