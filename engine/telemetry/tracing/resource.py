"""Who makes the spans: the attributes that all spans of a process have in common."""

from __future__ import annotations

import os
import platform
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from engine import __version__
from engine.telemetry.tracing import names
from engine.telemetry.tracing.settings import TracingSettings

# One for each start of the process; a fork is another instance.
_instance = [str(uuid.uuid4())]
os.register_at_fork(after_in_child=lambda: _instance.__setitem__(0, str(uuid.uuid4())))


def resource_of(settings: TracingSettings, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The resource of this process. What the settings and the variables say of it goes before what is found out.

    extra: of this one process, for example its number among the workers.
    """
    found: dict[str, Any] = {
        names.SERVICE_NAME: "assay",
        names.SERVICE_VERSION: __version__,
        names.SERVICE_INSTANCE_ID: _instance[0],
        names.HOST_NAME: socket.gethostname(),
        names.PROCESS_PID: os.getpid(),
        names.PROCESS_RUNTIME_NAME: platform.python_implementation().lower(),
        names.PROCESS_RUNTIME_VERSION: platform.python_version(),
        names.SDK_LANGUAGE: "python",
        # The name `opentelemetry` is for OpenTelemetry's own SDKs.
        names.SDK_NAME: "assay",
        names.SDK_VERSION: __version__,
    }
    if settings.tail.plain_kept_ratio < 1.0:
        found[names.PLAIN_KEPT_RATIO] = settings.tail.plain_kept_ratio
    return found | dict(extra or {}) | dict(settings.resource)
