"""The table of all metrics for `docs/observability-metrics.md`, which a test holds against it.

python -m engine.telemetry.metrics.reference
"""

from __future__ import annotations

from engine.telemetry.metrics.catalogue import METRICS


def table() -> str:
    """Markdown: one row a metric."""
    lines = ["| Prometheus | OTLP | kind | labels | what |", "| --- | --- | --- | --- | --- |"]
    for metric in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        unit = f" ({metric.unit})" if metric.unit else ""
        lines.append(f"| `{metric.prometheus}` | `{metric.name}`{unit} | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
