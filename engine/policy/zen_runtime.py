"""zen-engine, the reference executor of the JDM format: the one file that imports it.

It serves three ends: it says whether a cell is sound, it is the oracle that our compiled tables are checked against at
load, and it runs tables whose cells are beyond what we compile. It is not on the ordinary path of a decision because of
its cost: see `engine.policy.tables` for figures. A `ZenEngine` may be shared by threads, which then take turns.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import zen

_KEY = "table"
_RULE = "rule_number"
_SOURCE = re.compile(r'"source":"([^"]*)"')
_AROUND_ZERO = 1e-20


def fault_of(cell: str) -> str | None:
    """What is wrong with a cell that zen cannot read, None where it can. In a table zen passes over the whole row of
    such a cell in silence."""
    try:
        zen.compile_unary_expression(cell)
    except Exception as error:  # zen raises plain Exception and RuntimeError
        first_line = str(error).split("\n", 1)[0]
        found = _SOURCE.search(first_line)
        return found[1] if found else first_line
    return None


@functools.lru_cache(maxsize=4096)
def equal_range(number: float) -> tuple[float, float]:
    """The least and the greatest double that zen takes as equal to a number of a table.

    zen compares decimals, and the way from a double to a decimal rounds at about 16 digits: 0.30000000000000004 is 0.3
    there. Comparing with these ends instead of with the number gives zen's answer for every double.
    """
    at_least = zen.compile_unary_expression(f">= {_plain(number)}")
    at_most = zen.compile_unary_expression(f"<= {_plain(number)}")
    reach = abs(number) * 1e-12 or _AROUND_ZERO
    least = _first(number - reach, number, lambda x: bool(at_least.evaluate({"$": x})))
    greatest = -_first(-number - reach, -number, lambda x: bool(at_most.evaluate({"$": -x})))
    return least, greatest


def _plain(number: float) -> str:
    """A number as a literal of the language: the shortest digits that are this double, never with an exponent."""
    return format(Decimal(repr(number)), "f")


def _first(low: float, high: float, holds: Callable[[float], bool]) -> float:
    """The least double in (low, high] for which `holds`, which must hold at `high` and not at `low`."""
    below, above = _rank(low), _rank(high)
    while above - below > 1:
        middle = (below + above) // 2
        if holds(_unrank(middle)):
            above = middle
        else:
            below = middle
    return _unrank(above)


def _rank(x: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", x))
    return int(bits) if bits >= 0 else -(int(bits) & 0x7FFF_FFFF_FFFF_FFFF)


def _unrank(rank: int) -> float:
    (x,) = struct.unpack("<d", struct.pack("<q", abs(rank)))
    return float(math.copysign(x, rank)) if rank else 0.0


class ZenTable:
    """One decision table run by zen: says which rows fire, in order."""

    def __init__(self, content: Mapping[str, Any], fields: Mapping[str, int]) -> None:
        """content: the `content` of the decision table node; fields: slot index by dotted column name."""
        self._fields = [(name.split("."), index) for name, index in fields.items()]
        self._collect = content["hitPolicy"] == "collect"
        self._engine = zen.ZenEngine({"loader": {"type": "static", "content": {_KEY: _graph(content)}}})

    def rows(self, vector: Sequence[object]) -> tuple[int, ...]:
        """The numbers of the rows that fire for a policy vector. Thread-safe."""
        context: dict[str, Any] = {}
        for path, index in self._fields:
            place = context
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = vector[index]
        result = self._engine.evaluate(_KEY, context)["result"]
        if self._collect:
            assert isinstance(result, list)
            return tuple(int(row[_RULE]) for row in result)
        return (int(result[_RULE]),) if result else ()


def _graph(content: Mapping[str, Any]) -> dict[str, Any]:
    """The table alone in a graph, with the row's number for its only output."""
    ids = [column["id"] for column in content["inputs"]]
    rules = [
        {"_id": str(number), _RULE: str(number), **{i: rule.get(i, "") for i in ids}}
        for number, rule in enumerate(content["rules"])
    ]
    table = {
        "hitPolicy": content["hitPolicy"],
        "inputs": content["inputs"],
        "outputs": [{"id": _RULE, "name": _RULE, "field": _RULE}],
        "rules": rules,
        "passThrough": False,
        "executionMode": "single",
        "inputField": None,
        "outputPath": None,
    }
    place = {"x": 0, "y": 0}
    nodes = [
        {"id": "in", "type": "inputNode", "name": "in", "position": place, "content": {"schema": ""}},
        {"id": "table", "type": "decisionTableNode", "name": "table", "position": place, "content": table},
        {"id": "out", "type": "outputNode", "name": "out", "position": place, "content": {"schema": ""}},
    ]
    edges = [
        {"id": "1", "sourceId": "in", "targetId": "table", "type": "edge"},
        {"id": "2", "sourceId": "table", "targetId": "out", "type": "edge"},
    ]
    return {"contentType": "application/vnd.gorules.decision", "nodes": nodes, "edges": edges}
