"""Real Redis servers for tests, each in a temporary directory and on free loopback ports.

    with RedisServer() as server:                       # ready when the block begins
        store_at(server.address)                        # "127.0.0.1:21034"
        server.pause(); server.resume()                 # SIGSTOP, SIGCONT: connections stay, nothing answers
        server.kill(); server.start()                   # SIGKILL; the same port again, empty unless `persistent`
        server.restart()                                # SIGTERM and start
        server.admin().flushall()                       # redis-py with every right

    with RedisServer(user="assay", password="secret", tls=Certificates(tmp_path)) as server: ...
    with RedisServer(maxmemory_bytes=3 << 20) as server: ...      # -OOM when full: nothing is evicted
    with RedisServer(unix_socket=True) as server: server.socket_path

A server that was started ends with its block, with `close()`, and at the latest with the process. Where redis-server
is not installed, `RedisServer()` skips the test, and fails it where the variable CI is true.
A Redis Cluster: `redis_cluster.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import redis

START_TIMEOUT_S = 30.0
_HOST = "127.0.0.1"


class Certificates:
    """A certificate authority of its own, with a server's and a client's certificate, made by openssl.

    The server's is valid for `names` alone (as a subjectAltName).
    """

    def __init__(self, directory: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> None:
        self.ca, self._ca_key = directory / "ca.crt", directory / "ca.key"
        self.server, self.server_key = directory / "server.crt", directory / "server.key"
        self.client, self.client_key = directory / "client.crt", directory / "client.key"
        directory.mkdir(parents=True, exist_ok=True)
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        new += ["-days", "2"]
        _run([*new, "-subj", "/CN=Assay test CA", "-keyout", str(self._ca_key), "-out", str(self.ca)])
        signed = [*new, "-CA", str(self.ca), "-CAkey", str(self._ca_key), "-addext", "basicConstraints=CA:FALSE"]
        for name, certificate, key in (
            (names, self.server, self.server_key),
            ("DNS:client", self.client, self.client_key),
        ):
            extra = ["-subj", "/CN=assay-test", "-addext", f"subjectAltName={name}"]
            _run([*signed, *extra, "-keyout", str(key), "-out", str(certificate)])


class RedisServer:
    """One redis-server process that can be stopped, halted and started again on its port.

    password alone: demanded of the user "default". user and password: an ACL user with the rights `acl`, while
    "default" is switched off. tls: the port speaks TLS only; client_certificate: and demands one of the client.
    persistent: every write is on the disk when it is answered. options: further lines of redis.conf.
    """

    def __init__(
        self,
        *,
        user: str = "",
        password: str = "",
        acl: str = "~* &* +@all",
        tls: Certificates | None = None,
        client_certificate: bool = False,
        unix_socket: bool = False,
        maxmemory_bytes: int = 0,
        persistent: bool = False,
        cluster: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._binary = redis_server_binary()
        self.user, self.password, self.tls = user, password, tls
        self.host, self.port = _HOST, free_port()
        self.bus_port = free_port() if cluster else 0
        self.directory = Path(tempfile.mkdtemp(prefix="assay-redis-"))
        self.socket_path = str(self.directory / "redis.sock") if unix_socket else ""
        self.process: subprocess.Popen[bytes] | None = None
        self.admin_user, self.admin_password = ("admin", secrets.token_hex(16)) if user else ("default", password)
        self._admin: redis.Redis | None = None
        lines = {
            "bind": _HOST,
            "port": "0" if tls else str(self.port),
            "dir": str(self.directory),
            "logfile": str(self.directory / "redis.log"),
            "save": '""',
            "appendonly": "yes" if persistent else "no",
            "appendfsync": "always",
            "maxmemory": str(maxmemory_bytes),
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
        }
        if tls:
            lines |= {
                "tls-port": str(self.port),
                "tls-ca-cert-file": str(tls.ca),
                "tls-cert-file": str(tls.server),
                "tls-key-file": str(tls.server_key),
                "tls-auth-clients": "yes" if client_certificate else "no",
            }
        if unix_socket:
            lines["unixsocket"] = self.socket_path
        if cluster:
            lines |= {
                "cluster-enabled": "yes",
                "cluster-port": str(self.bus_port),
                "cluster-node-timeout": "2000",
                "tls-cluster": "yes" if tls else "no",
            }
        text = [f"{key} {value}" for key, value in (lines | dict(options or {})).items()]
        if user:
            text.append(f"user {self.admin_user} on >{self.admin_password} ~* &* +@all")
            text.append(f"user {user} on >{password} {acl}")
            text.append("user default off")
        elif password:
            text.append(f"requirepass {password}")
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(text) + "\n")
        _alive.add(self)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether there is a process, halted or not."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it, on the same port and directory as before, and waits until it answers. Nothing if it runs."""
        if self.running:
            return
        self.process = subprocess.Popen(
            [self._binary, str(self.directory / "redis.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if self.admin().ping():
                    return
            except redis.RedisError as e:
                if not self.running or time.monotonic() > deadline:
                    raise AssertionError(f"redis-server did not start ({e}): {self.log[-2000:]}") from e
                time.sleep(0.02)

    def stop(self) -> None:
        """Ends it as an operator does (SIGTERM). Rows survive if it is persistent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stops and starts it."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Halts it (SIGSTOP): connections stand, and new ones are even accepted by the kernel; nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # The signal is under way when kill() returns.
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets it go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def admin(self) -> redis.Redis:
        """A client of redis-py with every right; replies are bytes."""
        if self._admin is None:
            self._admin = redis.Redis(
                host=self.host,
                port=self.port,
                username=self.admin_user,
                password=self.admin_password or None,
                socket_timeout=10.0,
                ssl=self.tls is not None,
                ssl_check_hostname=False,
                ssl_ca_certs=str(self.tls.ca) if self.tls else None,
                ssl_certfile=str(self.tls.client) if self.tls else None,
                ssl_keyfile=str(self.tls.client_key) if self.tls else None,
            )
        return self._admin

    def command(self, *words: str | bytes | int) -> Any:
        """One command with every right, its reply as the server sends it; raises redis.RedisError."""
        pool = self.admin().connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            pool.release(connection)

    def connections(self) -> int:
        """How many clients are connected, the administrator's own left out."""
        return len(self.command("CLIENT", "LIST", "TYPE", "normal").splitlines()) - 1

    @property
    def log(self) -> str:
        """What it logged so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "redis.log").read_text(errors="replace")
        return ""

    def close(self) -> None:
        """Ends it and removes its files. Harmless when repeated."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        _alive.discard(self)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        if number != signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def redis_server_binary() -> str:
    """Where redis-server is. Skips the test that needs it where it is not, and fails it on CI."""
    found = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
    if found:
        return found
    message = "SKIPPED: redis-server is not installed (tools/redis_server.sh says how)"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(message)
    pytest.skip(message)


_given: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on, from below the range that the kernel hands to outgoing connections, and
    one that this process never gave before, so that a server that comes back finds it free."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(15_000, 32_000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((_HOST, port))
                _given.add(port)
                return port
    raise AssertionError("no free port")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"


_alive: set[RedisServer] = set()
_owner = os.getpid()


@atexit.register
def _close_all() -> None:
    if os.getpid() == _owner:  # a forked child's end is not theirs
        for server in list(_alive):
            server.close()
