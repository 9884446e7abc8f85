"""The probe of containers and service managers, at a real server: serving, loading, gone, with TLS."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from engine.config import Config, load_config
from engine.rpc.probe import main, probe
from tests.support.server import ServerProcess, environment, running


def settings(**variables: str) -> Config:
    return load_config(Path("/dev/null"), {f"ASSAY_{name.upper()}": value for name, value in variables.items()})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_it_says_whether_the_server_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as (server, _):
        # A server that listens everywhere is asked on the loopback.
        config = settings(server_address=f"0.0.0.0:{server.port}")
        assert probe(config) == ""
        monkeypatch.setenv("ASSAY_SERVER_ADDRESS", server.address)
        assert main([]) == 0
        assert server.stop() == 0
    assert main([]) == 1
    assert "UNAVAILABLE" in probe(config)
    # What listens and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "does not answer" in probe(settings(server_address=address), live=True, timeout_s=0.5)
    monkeypatch.setenv("ASSAY_SERVER_ADRESS", "misspelt")
    assert main([]) == 2


def test_with_tls_the_page_of_metrics_is_asked(tmp_path: Path) -> None:
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-subj", "/CN=localhost", "-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.crt")]
    subprocess.run(made, check=True, capture_output=True)
    port = free_port()
    variables = {
        "ASSAY_SERVER_TLS_CERTIFICATE": str(tmp_path / "tls.crt"),
        "ASSAY_SERVER_TLS_KEY": str(tmp_path / "tls.key"),
        "ASSAY_SERVER_TLS_CLIENT_CA": str(tmp_path / "tls.crt"),
        "ASSAY_METRICS_PORT": str(port),
    }
    server = ServerProcess(tmp_path, settings=variables)
    try:
        server.wait_ready()
        wanted = {k: v for k, v in environment(tmp_path, settings=variables).items() if k.startswith("ASSAY_")}
        config = load_config(Path("/dev/null"), wanted)
        assert probe(config) == ""
        assert server.stop() == 0
    finally:
        server.stop(signal.SIGKILL)
    assert "does not answer" in probe(config)
    assert "there is none" in probe(load_config(Path("/dev/null"), wanted | {"ASSAY_METRICS_PORT": "0"}))
