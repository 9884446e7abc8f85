"""Code of the operator's that makes spans with the OpenTelemetry API: loaded when the server starts, its spans sent
with ours and nested under the call that they are made in.

    tracing.plugins = ["lender.tracing:install"]       # called once, without arguments
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from engine.errors import ConfigError, Problem
from engine.telemetry.tracing.plugin_spans import PluginSpans
from engine.telemetry.tracing.recorder import Recorder


def load_plugins(plugins: Sequence[str], recorder: Recorder) -> None:
    """Makes the recorder the way out of the process' OpenTelemetry SDK, and calls every plug-in. Raises ConfigError
    with each that cannot be."""
    provider = TracerProvider()
    provider.add_span_processor(PluginSpans(recorder))
    trace.set_tracer_provider(provider)
    problems = []
    for plugin in plugins:
        module, _, name = plugin.partition(":")
        try:
            getattr(importlib.import_module(module), name)()
        except Exception as error:  # it is not ours, and may raise anything
            fix = "Name a callable without arguments: package.module:function."
            message = f"{plugin!r} cannot be called ({type(error).__name__}: {error})"
            problems.append(Problem("settings", "tracing.plugins", message, fix))
    if problems:
        raise ConfigError(problems)
