"""Opens what watches a server: the recorder of traces, the metrics and where they go, and the levels of its logs."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.admission.gate import Gate
from engine.bootstrap_group import Group
from engine.config import Config
from engine.config_telemetry import TracingConfig
from engine.errors import ConfigError, Problem
from engine.rpc.observe import Observer
from engine.rpc.status import REASONS
from engine.telemetry.counters import Counters
from engine.telemetry.metrics import sources
from engine.telemetry.metrics.endpoint import Endpoint
from engine.telemetry.metrics.otlp_exporter import OtlpMetricsExporter
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.shared import Publisher
from engine.telemetry.tracing.context import HeadRule
from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.redact import IdHasher, load_key
from engine.telemetry.watch import DecisionWatch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_log = logging.getLogger("assay.telemetry")
# What a worker that is killed has counted since is not seen any more.
_PUBLISH_EVERY_S = 2.0


class Telemetry:
    """What watches one serving process. Made after the last fork."""

    def __init__(self, config: Config, counters: Counters, group: Group | None = None) -> None:
        """group: whose supervisor shows the metrics and keeps the exporter of traces; None: this process does. Raises
        ConfigError for settings that cannot be used, among them an address that is taken."""
        self._group = group
        self._settings = config.tracing.settings()
        self._metrics_settings = config.metrics.settings()
        self.metrics = Metrics(reasons=REASONS)
        key = load_key(config.tracing.id_key_path)
        self.hasher = IdHasher(key)
        processor = _processor(config.tracing) if self._settings.mode == "stock" else None
        self.recorder = open_recorder(
            self._settings, processor=processor, address=None if group is None else group.trace_address
        )
        if config.tracing.plugins:
            from engine.telemetry.tracing.plugins import load_plugins

            load_plugins(config.tracing.plugins, self.recorder)
        head = HeadRule(self._settings.sampler, self._settings.sampler_ratio)
        self.observer = Observer(
            self.recorder, head, self.metrics.requests, config.log.access, config.server.tenant_header
        )
        self.watch = DecisionWatch(self.metrics, self.hasher, self._settings.tail, config.record.durability)
        exports = group is None or group.trace_address is None
        for source in (sources.process(), sources.counters(counters), sources.tracing(self.recorder, exports)):
            self.metrics.add(source)
        if config.admission.enabled:
            gate = Gate(config.admission.gate(), time.monotonic)
            self.observer.gate, self.observer.stream_wait_s = gate, config.admission.stream_wait_ms / 1000
            self.metrics.add(sources.admission(gate))
        self.metrics.add(sources.gauge("assay.requests.in_flight", lambda: self.observer.under_way))
        self._publisher = None if group is None else Publisher(group.snapshots, self.metrics.snapshot, _PUBLISH_EVERY_S)
        self._endpoint: Endpoint | None = None
        self._exporter: OtlpMetricsExporter | None = None

    def start(self, healthy: Callable[[], bool]) -> None:
        """Begins to fold, to show and to send metrics. healthy: what the endpoint's /ready goes by. Raises
        ConfigError."""
        self.metrics.start()
        if self._publisher is not None:
            self._publisher.start()
            return
        settings = self._metrics_settings
        if "prometheus" in settings.exporters:
            try:
                self._endpoint = Endpoint(self.metrics.finished, settings.host, settings.port, healthy=healthy)
            except OSError as error:
                message = f"cannot listen on {settings.host}:{settings.port} ({error.strerror})"
                fix = "Another program may hold the port: choose another, 0 for any that is free, or exporters = []."
                raise ConfigError([Problem("settings", "metrics.port", message, fix)]) from error
            _log.info("metrics", extra={"url": f"http://{settings.host}:{self._endpoint.port}/metrics"})
        if "otlp" in settings.exporters:
            self._exporter = OtlpMetricsExporter(settings, self.metrics.finished)
            self.metrics.add(self._exporter.put)
            self._exporter.start()
        _log.info("traces", extra={"mode": self._settings.mode, "exporters": list(self._settings.exporters)})

    def publish(self) -> None:
        """Leaves the metrics of this moment to the supervisor."""
        if self._publisher is not None:
            self.metrics.decisions.fold()
            self._publisher.publish()

    def stop(self) -> None:
        """Sends what is left, and ends. Harmless when repeated."""
        if self._exporter is not None:
            self._exporter.stop()
        if self._endpoint is not None:
            self._endpoint.stop()
            self._endpoint = None
        self.metrics.stop()
        if self._publisher is not None:
            self._publisher.stop()
        stats = dict(self.recorder.stats())
        self.recorder.close(self._settings.drain_s)
        lost = {name: count for name, count in stats.items() if count and ("dropped" in name or "lost" in name)}
        if lost:
            _log.warning("not all traces were kept", extra=lost)


def _processor(config: TracingConfig) -> SpanProcessor:
    """What `tracing.processor` names."""
    module, _, name = config.processor.partition(":")
    fix = "Name a callable without arguments that gives a SpanProcessor: package.module:function."
    try:
        made: Any = getattr(importlib.import_module(module), name)()
    except Exception as error:
        message = f"{config.processor!r} gives none ({type(error).__name__})"
        raise ConfigError([Problem("settings", "tracing.processor", message, fix)]) from error
    if not hasattr(made, "on_end"):
        raise ConfigError([Problem("settings", "tracing.processor", f"{config.processor!r} gives none", fix)])
    processor: SpanProcessor = made
    return processor
