"""Settings of what is served to whom, and of who may change it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from engine.config_stores import Section, split

Paths = Annotated[tuple[Path, ...], BeforeValidator(split)]


class TrafficConfig(Section):
    """Which bundles decide for whom: kept over a restart, changed by `assay admin`."""

    path: Path = Field(Path("var/traffic"), description="Where a host's workers keep what is served.")
    bundles: Path = Field(Path("var/bundles"), description="The bundles that were loaded, each under its digest.")
    bundles_kept: int = Field(16, ge=2, le=1000, description="How many are kept beyond those that are needed.")
    prepare_timeout_s: float = Field(60.0, gt=0, le=3600, description="How long all workers may take to get ready.")
    shadow_queue_max: int = Field(256, ge=0, le=100_000, description="Answers that may wait for challengers.")
    shadow_cpu_share: float = Field(0.25, gt=0, le=1, description="The most of a core that challengers take.")


class AdminConfig(Section):
    """The service of changes, on an address of its own."""

    address: str = Field(
        "127.0.0.1:50052",
        description="host:port or unix:/path. One that others can reach needs tls_client_ca and names. Empty: off, as "
        "on all workers of a host but one.",
    )
    tls_certificate: Path | None = Field(None, description="PEM file of the certificate chain.")
    tls_key: Path | None = Field(None, description="PEM file of the private key.")
    tls_client_ca: Path | None = Field(None, description="PEM file of the CA that callers' certificates must be from.")
    names: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        (), description="Names in callers' certificates that may make changes."
    )
    bundle_directories: Paths = Field((), description="Below which paths of this machine LoadBundle may read.")
    upload_bytes_max: int = Field(256 * 1024**2, ge=4096, description="The largest bundle that may be uploaded.")

    @field_validator("address")
    @classmethod
    def _listens(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if address and not address.startswith("unix:") and not (host and port.isascii() and port.isdigit()):
            raise ValueError("write host:port, unix:/path, or nothing")
        return address
