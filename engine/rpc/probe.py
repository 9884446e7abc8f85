"""Asks the server of this host whether it serves: for container and service managers. Ends with 0 when it does.

    python -m engine.rpc.probe [--config FILE] [--live]

It asks the gRPC health service at the address that the settings name. A server with TLS may ask for a certificate that
a probe has not got: then the page of the metrics endpoint is asked (/ready). With --live it need not serve yet, only
answer.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from engine.config import Config, load_config
from engine.errors import ConfigError

TIMEOUT_S = 3.0
_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}


def probe(config: Config, *, live: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """What is wrong; "" when the server serves (live: when it answers at all)."""
    if config.server.tls_certificate is not None:
        return _ask_page(config, live, timeout_s)
    return _ask_health(_reachable(config.server.address), live, timeout_s)


def _reachable(address: str) -> str:
    """Where a server can be reached from its own host that listens at an address."""
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    return f"{_ANY.get(host, host)}:{port}"


def _ask_health(address: str, live: bool, timeout_s: float) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{address} does not answer: {error.code().name}"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return (
        "" if serving or live else f"{address} says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    )


def _ask_page(config: Config, live: bool, timeout_s: float) -> str:
    metrics = config.metrics
    if not metrics.port or "prometheus" not in metrics.exporters:
        return "with TLS the metrics endpoint is asked (metrics.host, metrics.port), and there is none"
    host = f"[{metrics.host}]" if ":" in metrics.host else metrics.host
    url = f"http://{_ANY.get(host, host)}:{metrics.port}/ready"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s):
            return ""
    except urllib.error.HTTPError as error:
        return "" if live else f"{url} says {error.code}"
    except (OSError, ValueError) as error:
        return f"{url} does not answer: {error}"


def main(words: list[str] | None = None) -> int:
    """The command. Gives the exit code: 0 it serves, 1 it does not, 2 it cannot be asked."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.rpc.probe", description="Ask the server of this host whether it serves."
    )
    parser.add_argument("--config", type=Path, help="settings file; absent: $ASSAY_CONFIG, else assay.toml")
    parser.add_argument("--live", action="store_true", help="it need only answer")
    asked = parser.parse_args(words)
    try:
        config = load_config(asked.config)
    except ConfigError as error:
        print(f"assay: the settings cannot be used: {error}", file=sys.stderr)
        return 2
    wrong = probe(config, live=asked.live)
    if wrong:
        print(f"assay: {wrong}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
