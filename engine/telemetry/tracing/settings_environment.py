"""OpenTelemetry's own variables, laid over the settings. Every mistake is reported, all at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args
from urllib.parse import unquote, urlsplit

from engine.errors import ConfigError, Problem
from engine.telemetry.tracing import names
from engine.telemetry.tracing.settings import (
    DEFAULT_ENDPOINT,
    SPAN_BYTES,
    Exporter,
    OtlpSettings,
    Protocol,
    Sampler,
    TracingSettings,
)

_T = TypeVar("_T")
_OTLP = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")


def with_environment(settings: TracingSettings, environment: Mapping[str, str] | None = None) -> TracingSettings:
    """The settings with the variables over them. Raises ConfigError with every variable that cannot be used.

    environment: absent: the process's own. Empty variables count as unset, as OpenTelemetry has it.
    """
    reader = _Reader(os.environ if environment is None else environment)
    changes: dict[str, Any] = {}
    reader.into(changes, "exporters", "OTEL_TRACES_EXPORTER", _exporters)
    reader.into(changes, "sampler", "OTEL_TRACES_SAMPLER", _one_of(get_args(Sampler)))
    reader.into(changes, "sampler_ratio", "OTEL_TRACES_SAMPLER_ARG", _ratio)
    reader.into(changes, "batch_delay_s", "OTEL_BSP_SCHEDULE_DELAY", _milliseconds)
    reader.into(changes, "batch_spans_max", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _count)
    reader.into(changes, "export_queue_bytes_max", "OTEL_BSP_MAX_QUEUE_SIZE", lambda text: _count(text) * SPAN_BYTES)
    otlp, endpoint_named = _otlp(settings.otlp, reader)
    changes["otlp"] = otlp
    if endpoint_named and "exporters" not in changes and "otlp" not in settings.exporters:
        # Who names a collector wants traces there.
        changes["exporters"] = (*settings.exporters, "otlp")
    resource = dict(settings.resource)
    reader.into(resource, "", "OTEL_RESOURCE_ATTRIBUTES", _pairs)
    resource |= dict(resource.pop("", ()))  # type: ignore[arg-type]
    reader.into(resource, names.SERVICE_NAME, "OTEL_SERVICE_NAME", str)
    changes["resource"] = resource
    if reader.text("OTEL_SDK_DISABLED").lower() == "true":
        changes["mode"] = "off"
    if reader.problems:
        raise ConfigError(reader.problems)
    whole = dataclasses.replace(settings, **changes)
    return whole if whole.exporters or whole.mode == "stock" else dataclasses.replace(whole, mode="off")


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[Problem] = []

    def text(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def into(self, changes: dict[str, Any], key: str, name: str, read: Callable[[str], _T]) -> None:
        """Puts what a variable says under a key; nothing when it is unset or cannot be read."""
        text = self.text(name)
        if not text:
            return
        try:
            changes[key] = read(text)
        except ValueError as error:
            self.problems.append(Problem("environment", name, str(error), "Correct or unset it."))

    def otlp(self, changes: dict[str, Any], key: str, suffix: str, read: Callable[[str], _T]) -> bool:
        """The same for a variable of the exporter: the one for traces goes before the one for all signals."""
        for prefix in _OTLP:
            if self.text(prefix + suffix):
                self.into(changes, key, prefix + suffix, read)
                return True
        return False


def _otlp(settings: OtlpSettings, reader: _Reader) -> tuple[OtlpSettings, bool]:
    """The exporter's settings, and whether a variable names an endpoint."""
    changes: dict[str, Any] = {}
    own = reader.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    general = reader.text("OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = own or general
    if not reader.otlp(changes, "protocol", "PROTOCOL", _one_of(get_args(Protocol))) and endpoint:
        # Neither the protocol nor the endpoint is any use without the other; the registered ports tell them apart.
        changes["protocol"] = "http/protobuf" if _port(endpoint) == 4318 else "grpc"
    protocol: Protocol = changes.get("protocol", settings.protocol)
    if endpoint:
        if protocol == "http/protobuf" and not own:
            endpoint = endpoint.rstrip("/") + "/v1/traces"
        if protocol == "http/protobuf" and urlsplit(endpoint).scheme not in ("http", "https"):
            name = f"OTEL_EXPORTER_OTLP_{'TRACES_' if own else ''}ENDPOINT"
            fix = "Write http://host:port or https://host:port."
            reader.problems.append(Problem("environment", name, f"{endpoint!r} is no URL", fix))
        changes["endpoint"] = endpoint
    elif protocol != settings.protocol:
        changes["endpoint"] = DEFAULT_ENDPOINT[protocol]
    reader.otlp(changes, "headers", "HEADERS", _pairs)
    reader.otlp(changes, "timeout_s", "TIMEOUT", _seconds)
    reader.otlp(changes, "compression", "COMPRESSION", _one_of(("none", "gzip")))
    reader.otlp(changes, "certificate", "CERTIFICATE", str)
    reader.otlp(changes, "client_certificate", "CLIENT_CERTIFICATE", str)
    reader.otlp(changes, "client_key", "CLIENT_KEY", str)
    reader.otlp(changes, "insecure", "INSECURE", lambda text: text.lower() == "true")
    return dataclasses.replace(settings, **changes), bool(endpoint)


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").port
    except ValueError:
        return None


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"{text!r} is not one of {', '.join(allowed)}")
        return text.lower()

    return read


def _exporters(text: str) -> tuple[str, ...]:
    known = get_args(Exporter)
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in (*known, "none"):
            raise ValueError(f"{name!r} is not one of {', '.join(known)}, none (others need the mode `stock`)")
    return tuple(name for name in names if name != "none")


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`key=value` with commas between, percent-encoded, as W3C Baggage writes them."""
    pairs = []
    for part in text.split(","):
        key, found, value = part.partition("=")
        if not part.strip():
            continue
        if not found or not key.strip():
            raise ValueError("is not key=value with commas between")  # the text may hold a secret
        pairs.append((unquote(key.strip()), unquote(value.strip())))
    return tuple(pairs)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e12:
        raise ValueError(f"{text!r} is no number from 0 up")
    return number


def _seconds(text: str) -> float:
    """OTEL_EXPORTER_OTLP_TIMEOUT. OpenTelemetry means milliseconds, its Python SDK reads seconds and has for years:
    nobody waits less than a second or more than a quarter of an hour for a collector, so the size tells."""
    number = _number(text)
    if number <= 0:
        raise ValueError("must be greater than 0")
    return number / 1000 if number >= 1000 else number


def _milliseconds(text: str) -> float:
    return _number(text) / 1000


def _ratio(text: str) -> float:
    number = _number(text)
    if number > 1:
        raise ValueError(f"{text!r} is no share from 0 to 1")
    return number


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is no whole number from 1 up")
    return int(text)
