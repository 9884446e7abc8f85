"""Writes the dashboards beside it from `panels.py`: what Grafana wants said besides.

python deploy/observability/grafana/make_dashboards.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import DASHBOARDS, WIDE, Panel

HERE = Path(__file__).parent / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_HEIGHT = 8


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard as Grafana takes it."""
    title, panels = DASHBOARDS[name]
    made, x, y = [], 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDE:
            x, y = 0, y + _HEIGHT
        made.append(_panel(number, panel, x, y))
        x += panel.width
    return {
        "uid": f"assay-{name}",
        "title": title,
        "tags": ["assay"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "graphTooltip": 1,
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "Assay", "tags": ["assay"], "asDropdown": True}],
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "flow",
                    "type": "query",
                    "label": "Flow",
                    "datasource": _SOURCE,
                    "query": "label_values(assay_decisions_total, flow)",
                    "definition": "label_values(assay_decisions_total, flow)",
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
                {
                    "name": "model",
                    "type": "query",
                    "label": "Model",
                    "datasource": _SOURCE,
                    "query": "label_values(assay_model_info, model)",
                    "definition": "label_values(assay_model_info, model)",
                    "refresh": 2,
                },
            ]
        },
        "panels": made,
    }


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    table = panel.kind == "table"
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": c, "value": v} for c, v in (("orange", panel.warn), ("red", panel.bad)) if v is not None]
    limited = len(steps) > 1
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if limited else "off"},
        }
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "exemplar": panel.exemplars,
                "instant": table,
                "range": not table,
                "format": "table" if table else "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def render(name: str) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard(name), indent=2) + "\n"


def main() -> None:
    """Writes all of them."""
    HERE.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (HERE / f"{name}.json").write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
