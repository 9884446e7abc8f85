"""Small JDM documents for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(
    inputs: Sequence[str],
    outputs: Sequence[str],
    rules: Sequence[Sequence[str]],
    *,
    hit: str = "first",
    name: str = "tested",
) -> dict[str, Any]:
    """A document with one table. Each rule is its input cells, then its output cells; ids are r1, r2, ..."""
    columns = [*(f"i{n}" for n in range(len(inputs))), *(f"o{n}" for n in range(len(outputs)))]
    content = {
        "hitPolicy": hit,
        "inputs": [{"id": f"i{n}", "name": field, "field": field} for n, field in enumerate(inputs)],
        "outputs": [{"id": f"o{n}", "name": field, "field": field} for n, field in enumerate(outputs)],
        "rules": [
            {"_id": f"r{number}", **dict(zip(columns, rule, strict=True))} for number, rule in enumerate(rules, start=1)
        ],
        "passThrough": True,
        "executionMode": "single",
        "inputField": None,
        "outputPath": None,
    }
    return graph(content, name)


def graph(content: Mapping[str, Any], name: str = "tested") -> dict[str, Any]:
    """A table's content between an input and an output."""
    spot = {"x": 0, "y": 0}
    return {
        "contentType": "application/vnd.gorules.decision",
        "nodes": [
            {"id": "in", "type": "inputNode", "name": "in", "position": spot, "content": {"schema": ""}},
            {"id": "t", "type": "decisionTableNode", "name": name, "position": spot, "content": dict(content)},
            {"id": "out", "type": "outputNode", "name": "out", "position": spot, "content": {"schema": ""}},
        ],
        "edges": [
            {"id": "a", "type": "edge", "sourceId": "in", "targetId": "t"},
            {"id": "b", "type": "edge", "sourceId": "t", "targetId": "out"},
        ],
    }


def content(document: dict[str, Any]) -> dict[str, Any]:
    """The content of a document's table."""
    found: dict[str, Any] = next(n["content"] for n in document["nodes"] if n["type"] == "decisionTableNode")
    return found
