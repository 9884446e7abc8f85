"""Where calls go: an address with what it takes to be let in, and the channels to it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from loadtest.problems import CouldNotRun

# Each channel has a connection of its own: where workers share a port, connections spread over them.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_retries", 0),
    # Calls go where the address says, whatever proxy the machine has for the web.
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Target:
    """The server that is asked. address: host:port or unix:/path; admin_address: of its AdminService, empty for none;
    tls_ca, tls_cert, tls_key: files, empty for none; headers: metadata sent with every call, as a tenant's name;
    bundle_path: where the bundle lies on the server's machine, for operators."""

    address: str
    admin_address: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    headers: tuple[tuple[str, str], ...] = field(default_factory=tuple)
    bundle_path: str = ""

    def to_json(self) -> str:
        """The target for another process."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Target:
        """The target that `to_json` gave."""
        tree = json.loads(text)
        return Target(**{**tree, "headers": tuple((name, value) for name, value in tree["headers"])})

    def channel(self, address: str = "") -> grpc.Channel:
        """A channel to the server, or to another address with the same credentials."""
        credentials = self._credentials()
        if credentials is None:
            return grpc.insecure_channel(address or self.address, OPTIONS)
        return grpc.secure_channel(address or self.address, credentials, OPTIONS)

    def aio_channel(self, address: str = "") -> grpc.aio.Channel:
        """The same for asyncio."""
        credentials = self._credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(address or self.address, OPTIONS)
        return grpc.aio.secure_channel(address or self.address, credentials, OPTIONS)

    def _credentials(self) -> Any:
        if not self.tls_ca:
            return None
        try:
            files = [Path(name).read_bytes() if name else None for name in (self.tls_ca, self.tls_key, self.tls_cert)]
        except OSError as error:
            raise CouldNotRun(f"a certificate cannot be read: {error}") from None
        return grpc.ssl_channel_credentials(*files)


def from_environment(name: str) -> Target:
    """The target in a variable of the environment."""
    return Target.from_json(os.environ[name])
