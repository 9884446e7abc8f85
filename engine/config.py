"""Settings: what changes operations. What changes decisions is in the bundle.

They come from `assay.toml` (or the file that ASSAY_CONFIG names) and from variables `ASSAY_<SECTION>_<SETTING>`, which
go before the file. All mistakes are reported at once. `docs/settings.md` is made from this file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from engine.config_admission import AdmissionConfig
from engine.config_change import AdminConfig, TrafficConfig
from engine.config_record import IdempotencyConfig, RecordConfig
from engine.config_serving import ServingConfig
from engine.config_stores import (
    BreakerConfig,
    CassandraConfig,
    RedisConfig,
    Section,
    StoreConfig,
    TieredConfig,
    VelocityConfig,
    split_pairs,
)
from engine.config_telemetry import MetricsConfig, TracingConfig
from engine.errors import ConfigError, Problem
from engine.shape import mistakes
from engine.shipping.config import ShipConfig

DEFAULT_FILE = "assay.toml"
Level = Literal["debug", "info", "warning", "error"]


class ServerConfig(ServingConfig):
    """The gRPC server."""

    address: str = Field("127.0.0.1:50051", description="Where to listen: host:port, or unix:/path.")
    threads: int = Field(10, ge=1, le=256, description="Calls handled at once.")
    direct: bool = Field(
        True,
        description="Whether gRPC's serving thread makes single decisions itself, those that came together as one "
        "group, while the store answers quickly. Otherwise, and for all other calls, the threads do.",
    )
    waiting_max: int = Field(512, ge=0, le=100_000, description="Calls that may wait for a thread; more are refused.")
    message_bytes_max: int = Field(4 * 1024 * 1024, ge=4096, le=64 * 1024 * 1024, description="Largest request.")
    batch_items_max: int = Field(256, ge=1, le=4096, description="Most requests in one DecideBatch.")
    reuse_port: bool = Field(
        False, description="Whether other servers of this host may listen on the same port, as its other workers."
    )
    tenant_header: str = Field(
        "",
        pattern=r"^([a-z][a-z0-9_.-]{0,63})?$",
        description="The metadata that names the caller's tenant, set by who lets callers in. Request ids are then a "
        "tenant's own. Absent: there are no tenants.",
    )
    streams_max: int = Field(4, ge=1, le=255, description="DecideStream calls open at once; each holds a thread.")
    drain_grace_s: float = Field(20.0, ge=0, le=600, description="How long calls under way may take after SIGTERM.")
    tls_certificate: Path | None = Field(None, description="PEM file of the certificate chain. Absent: no TLS.")
    tls_key: Path | None = Field(None, description="PEM file of the private key.")
    tls_client_ca: Path | None = Field(None, description="PEM file of the CA that callers' certificates must be from.")

    @field_validator("address")
    @classmethod
    def _listens(cls, address: str) -> str:
        if address.startswith("unix:"):
            return address
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError("write host:port with a port from 0 (any that is free) to 65535, or unix:/path")
        return address

    @model_validator(mode="after")
    def _whole(self) -> ServerConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_key is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.streams_max >= self.threads and self.threads > 1:
            raise ValueError(
                f"streams_max ({self.streams_max}) must be less than threads ({self.threads}), "
                "or streams can hold every thread: set both"
            )
        return self


class BundleConfig(Section):
    """The bundle to serve."""

    path: Path | None = Field(None, description="The bundle's directory. Absent: the one that ships.")


class LogConfig(Section):
    """Logs, as JSON lines on standard error. SIGHUP has this section read again."""

    level: Level = Field("info", description="The least level to write.")
    levels: Annotated[dict[str, Level], BeforeValidator(split_pairs)] = Field(
        {}, description="Levels of their own for parts, by the logger's name, for example assay.store."
    )
    access: bool = Field(False, description="A line for every call: method, status, time, trace id, verdict.")


class Config(Section):
    """All settings."""

    server: ServerConfig = ServerConfig()  # type: ignore[call-arg]
    admission: AdmissionConfig = AdmissionConfig()  # type: ignore[call-arg]
    bundle: BundleConfig = BundleConfig()  # type: ignore[call-arg]
    store: StoreConfig = StoreConfig()  # type: ignore[call-arg]
    tiered: TieredConfig = TieredConfig()  # type: ignore[call-arg]
    redis: RedisConfig = RedisConfig()  # type: ignore[call-arg]
    cassandra: CassandraConfig = CassandraConfig()  # type: ignore[call-arg]
    breaker: BreakerConfig = BreakerConfig()  # type: ignore[call-arg]
    velocity: VelocityConfig = VelocityConfig()  # type: ignore[call-arg]
    record: RecordConfig = RecordConfig()  # type: ignore[call-arg]
    idempotency: IdempotencyConfig = IdempotencyConfig()  # type: ignore[call-arg]
    ship: ShipConfig = ShipConfig()  # type: ignore[call-arg]
    traffic: TrafficConfig = TrafficConfig()  # type: ignore[call-arg]
    admin: AdminConfig = AdminConfig()  # type: ignore[call-arg]
    tracing: TracingConfig = TracingConfig()  # type: ignore[call-arg]
    metrics: MetricsConfig = MetricsConfig()  # type: ignore[call-arg]
    log: LogConfig = LogConfig()  # type: ignore[call-arg]


def load_config(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Reads and checks all settings. Raises ConfigError with every mistake.

    file: absent: what ASSAY_CONFIG names, or assay.toml when there is one. environment: absent: the process's own.
    """
    environment = os.environ if environment is None else environment
    settings_file = file or Path(environment.get("ASSAY_CONFIG", DEFAULT_FILE))
    values: dict[str, Any] = {}
    in_file = file is not None or "ASSAY_CONFIG" in environment or settings_file.exists()
    if in_file:
        try:
            values = tomllib.loads(settings_file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                [Problem(str(settings_file), "", f"cannot be read ({error.strerror})", "Name a file that exists.")]
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                [Problem(str(settings_file), "", f"is not TOML: {error}", "Correct the syntax.")]
            ) from error
    problems = _overlay(values, environment)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        for path, message, fix in mistakes(error, "Correct it; docs/settings.md lists what is allowed."):
            place = ".".join(str(part) for part in path)
            named = [v for v in environment if v.startswith(f"ASSAY_{place.replace('.', '_')}".upper())]
            # A mistake of a section as a whole can come from any of its settings, in the file or the environment.
            if named and len(path) > 1:
                problems.append(Problem("environment", named[0], message, fix))
            else:
                where = str(settings_file) if in_file else ", ".join(named) or "settings"
                problems.append(Problem(where, place, message, fix))
        config = None
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _overlay(values: dict[str, Any], environment: Mapping[str, str]) -> list[Problem]:
    """Puts the environment's settings over the file's. Gives the variables that name no setting."""
    known = {
        f"ASSAY_{section}_{setting}".upper(): (section, setting)
        for section, field in Config.model_fields.items()
        for setting in field.annotation.model_fields  # type: ignore[union-attr]
    }
    # Other variables with our name are none of ours: Kubernetes sets ASSAY_SERVICE_HOST for a service called assay.
    prefixes = tuple(f"ASSAY_{section}_".upper() for section in Config.model_fields)
    problems = []
    for name, text in environment.items():
        if name in known:
            section, setting = known[name]
            part = values.setdefault(section, {})
            if isinstance(part, dict):
                part[setting] = text
        elif name.startswith(prefixes):
            problems.append(Problem("environment", name, "names no setting", "Correct or unset it."))
    return problems
