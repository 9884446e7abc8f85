"""Redis: settings, passwords, users, TLS, Unix sockets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.features.store import StoreUnavailable
from engine.features.stores.redis import RedisStore
from engine.features.stores.redis_settings import RedisSettings
from tests.support.plain_rows import row
from tests.support.redis_places import guarded_server, guarded_settings, patient, plain_server
from tests.support.redis_servers import Certificates, RedisServer

SECRET = "wren-9-lamp"


def refused(settings: RedisSettings) -> str:
    store = RedisStore(settings)
    try:
        with pytest.raises(StoreUnavailable) as caught:
            store.read([row("1", 1).key], time.monotonic() + 5)
    finally:
        store.close()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(settings)
    return str(caught.value)


def test_a_wrong_password_is_said_so() -> None:
    with RedisServer(password="another") as server:
        assert "password is wrong" in refused(patient((server.address,), password=SECRET))
        assert server.address in refused(patient((server.address,), password=SECRET))
        assert "demands a password" in refused(patient((server.address,)))
        store = RedisStore(patient((server.address,), password="another"))
        store.ping()
        store.close()


def test_a_password_for_a_server_without_one_is_said_so() -> None:
    server = plain_server()
    assert "without any password configured" in refused(patient((server.address,), password=SECRET))


def test_rights_that_lack_are_said_so() -> None:
    with RedisServer(user="assay", password=SECRET, acl="~* &* +@all -mget -client") as server:
        message = refused(patient((server.address,), user="assay", password=SECRET))
        assert "NOPERM" in message
        assert "ACL" in message


def test_tls_proves_who_the_server_is(tmp_path: Path) -> None:
    server = guarded_server()
    good = guarded_settings(server)
    store = RedisStore(good)
    store.ping()
    store.close()
    other = Certificates(tmp_path / "other")
    where = {"user": server.user, "password": server.password, "tls": True}
    assert "certificate" in refused(patient((server.address,), **where, ca=other.ca))
    assert server.tls is not None
    assert "redis at" in refused(patient((server.address,), **where, ca=server.tls.ca))  # no certificate of ours
    refused(patient((server.address,), user=server.user, password=server.password))  # no TLS
    wrong_name = Certificates(tmp_path / "name", names="DNS:elsewhere.example")
    with RedisServer(tls=wrong_name) as elsewhere:
        assert "certificate" in refused(patient((elsewhere.address,), tls=True, ca=wrong_name.ca))


def test_a_unix_socket_and_a_database(tmp_path: Path) -> None:
    with RedisServer(unix_socket=True) as server:
        one, two = (RedisStore(patient((f"unix:{server.socket_path}",), db=db)) for db in (0, 5))
        one.write([row("1", 1)])
        assert one.read([row("1", 1).key]) == [row("1", 1).value]
        assert two.read([row("1", 1).key]) == [None]
        server.kill()
        with pytest.raises(StoreUnavailable, match=r"redis\.sock"):
            one.ping()
        one.close()
        two.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": ()},
        {"addresses": ("a:1", "b:2")},
        {"addresses": ("6379",)},
        {"addresses": ("a:0",)},
        {"addresses": ("::1:6379",)},
        {"addresses": ("/run/redis.sock",), "tls": True},
        {"addresses": ("/run/redis.sock",), "cluster": True},
        {"addresses": ("a:1",), "cluster": True, "db": 1},
        {"addresses": ("a:1",), "ca": "ca.crt"},
        {"addresses": ("a:1",), "tls": True, "key": "k"},
        {"addresses": ("a:1",), "user": "u"},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RedisSettings(**wrong)  # type: ignore[arg-type]


def test_files_of_tls_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"none\.crt"):
        RedisStore(RedisSettings(("a:1",), tls=True, ca=tmp_path / "none.crt"))
