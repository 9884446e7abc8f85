"""What a replay found, as one plain document: the terminal, the JSON file and the page show this and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine import __version__
from engine.replay.other import LENT, POINTS_BIN, RATE_BIN, REFUSED
from engine.replay.segments import ALL
from engine.replay.tally import PERCENT_STEPS, PROBABILITY_STEPS, Difference, Swap, Tally

VERDICTS = ("APPROVE", "COUNTER_OFFER", "REFER", "DECLINE")
_MINOR = 10**9
Cell = dict[str, int]


@dataclass(frozen=True, slots=True)
class About:
    """What a report says of its own making. other: name, version and digest of the bundle that was back-tested."""

    source: str
    other: tuple[str, str, str] | None
    engine: str = "local"
    absent: str = ""
    damaged: int = 0


def make_report(tally: Tally, about: About) -> dict[str, Any]:
    """The document. Plain data only; the same tally gives the same document."""
    shared: dict[str, Any] = {
        "kind": "replay" if about.other is None else "back-test",
        "source": about.source,
        "engine": {"version": __version__, "ran_on": about.engine},
        "since": _moment(tally.since_us),
        "until": _moment(tally.until_us),
        "records": tally.records,
        "erased": tally.of("erased"),
        "locked": tally.of("locked"),
        "unreadable": tally.of("unreadable"),
        "damaged_stretches": about.damaged,
        "flows": tally.under("flow"),
        "recorded_engines": tally.under("engine"),
        "bundles": [
            {"name": name, "version": version, "digest": digest, "records": count}
            for name, version, digest, count in _rows(tally, "bundle", 3)
        ],
    }
    return shared | (_same(tally) if about.other is None else _back_test(tally, about))


def _same(tally: Tally) -> dict[str, Any]:
    return {
        "identical": tally.of("identical"),
        "different": tally.of("different"),
        "causes": tally.causes(),
        "stages": tally.under("stage"),
        "first_differences": [
            {"stage": stage, "path": path, "cause": cause, "records": count}
            for stage, path, cause, count in sorted(_rows(tally, "first", 3), key=lambda row: (-row[3], row[:3]))[:100]
        ],
        "other_environments": [
            {"digest": digest, "differs": differs, "records": count}
            for digest, differs, count in _rows(tally, "environment", 2)
        ],
        "examples": [Difference(*one)._asdict() for one in tally.examples.get("different", [])],
    }


def _back_test(tally: Tally, about: About) -> dict[str, Any]:
    assert about.other is not None
    cells = _cells(tally)
    whole = cells.get((ALL, ALL), {})
    name, version, digest = about.other
    return {
        "other": {"name": name, "version": version, "digest": digest},
        "absent": about.absent,
        "compared": tally.of("compared"),
        "not_carried": tally.of("not carried"),
        "same_verdict": tally.of("same verdict"),
        "other_verdict": tally.of("other verdict"),
        "outcomes_known": sum(cell.get("known", 0) for cell in whole.values()),
        "verdicts": [
            {"recorded": before, "other": after, **_measured(cell)} for (before, after), cell in sorted(whole.items())
        ],
        "swap_set": {kind: _measured(cell) for kind, cell in _swaps(whole).items()},
        "segments": [
            {"dimension": dimension, "segment": segment, **_segment(found)}
            for (dimension, segment), found in sorted(cells.items(), key=_order)
        ],
        "points_shift": _histogram(tally.under("shift", "points"), POINTS_BIN),
        "rate_shift": _histogram(tally.under("shift", "rate"), RATE_BIN),
        "amount_shift": tally.under("shift", "amount"),
        "calibration": {one: _calibration(tally, one) for one in ("recorded", "other")},
        "refused": [{"field": field, "why": why, "records": count} for field, why, count in _rows(tally, "refused", 2)],
        "not_as_recorded": [
            {"flow": flow, "feature": feature, "why": why, "records": count}
            for flow, feature, why, count in _rows(tally, "note", 3)
        ],
        "examples": {
            kind: [Swap(*one)._asdict() for one in tally.examples.get(kind, [])] for kind in ("swap out", "swap in")
        },
    }


def _moment(moment_us: int | None) -> str | None:
    return None if moment_us is None else datetime.fromtimestamp(moment_us // 1_000_000, UTC).isoformat()


def _rows(tally: Tally, kind: str, parts: int) -> list[Any]:
    """The keys of one kind with their counts, sorted."""
    return sorted((*key[1:], n) for key, n in tally.counts.items() if key[0] == kind and len(key) == parts + 1)


def _cells(tally: Tally) -> dict[tuple[str, str], dict[tuple[str, str], Cell]]:
    """Measures by dimension and segment, then by both verdicts."""
    found: dict[tuple[str, str], dict[tuple[str, str], Cell]] = {}
    for key, number in tally.counts.items():
        if key[0] == "cell":
            _, dimension, segment, before, after, measure = key
            found.setdefault((dimension, segment), {}).setdefault((before, after), {})[measure] = number
    return found


def _swaps(cells: dict[tuple[str, str], Cell]) -> dict[str, Cell]:
    """The four corners: lent and still lent, no longer lent, lent now, and neither."""
    found: dict[str, Cell] = {"kept in": {}, "swap out": {}, "swap in": {}, "kept out": {}}
    for (before, after), cell in cells.items():
        kind = ("kept in" if after in LENT else "swap out") if before in LENT else None
        _merge(found[kind or ("swap in" if after in LENT else "kept out")], cell)
    return found


def _merge(into: Cell, cell: Cell) -> None:
    for measure, number in cell.items():
        into[measure] = into.get(measure, 0) + number


def _sum(cells: Iterable[Cell]) -> Cell:
    total: Cell = {}
    for cell in cells:
        _merge(total, cell)
    return total


def _measured(cell: Cell) -> dict[str, Any]:
    """The measures of a cell as people read them: amounts in whole units, means in place of sums."""
    found: dict[str, Any] = {"records": cell.get("count", 0)}
    for measure in ("asked", "lent recorded", "lent other", "expected loss recorded", "expected loss other", "lost"):
        by_currency = {
            key.removeprefix(f"{measure} "): round(number / _MINOR, 2)
            for key, number in sorted(cell.items())
            if key.startswith(f"{measure} ") and len(key) == len(measure) + 4
        }
        if by_currency:
            found[measure.replace(" ", "_")] = by_currency
    for what, count, steps, digits in (
        ("points", "scored", 1, 2),
        ("probability", "estimated", PROBABILITY_STEPS, 6),
        ("rate", "priced", PERCENT_STEPS, 4),
    ):
        if number := cell.get(count, 0):
            for side in ("recorded", "other"):
                found[f"mean_{what}_{side}"] = round(cell.get(f"{what} {side}", 0) / number / steps, digits)
    if known := cell.get("known", 0):
        found |= {"outcomes": known, "bad": cell.get("bad", 0), "bad_rate": round(cell.get("bad", 0) / known, 6)}
    return found


def _segment(cells: dict[tuple[str, str], Cell]) -> dict[str, Any]:
    total = _sum(cells.values())
    count = total.get("count", 0)
    swaps = {kind: cell.get("count", 0) for kind, cell in _swaps(cells).items()}

    def rate(lent: int) -> float:
        return round(lent / count, 6) if count else 0.0

    return {
        **_measured(total),
        "lent_rate_recorded": rate(swaps["kept in"] + swaps["swap out"]),
        "lent_rate_other": rate(swaps["kept in"] + swaps["swap in"]),
        "swap_out": swaps["swap out"],
        "swap_in": swaps["swap in"],
        "refused": sum(cell.get("count", 0) for (_, after), cell in cells.items() if after == REFUSED),
    }


_FIRST = (ALL, "product", "flow", "score band", "amount band", "month")


def _order(item: tuple[tuple[str, str], Any]) -> tuple[int, str, float, str]:
    """Dimensions in their own order, segments by the number that they begin with and then by name."""
    (dimension, segment), _ = item
    digits = segment.split("-")[0].replace(",", "")
    number = float(digits) if digits.replace(".", "", 1).isdigit() else -1.0
    return (_FIRST.index(dimension) if dimension in _FIRST else len(_FIRST)), dimension, number, segment


def _histogram(bins: dict[str, int], width: float) -> list[dict[str, float]]:
    """Bins in order, those without a record between the first and the last among them."""
    if not bins:
        return []
    by_place = {int(place): count for place, count in bins.items()}
    return [
        {"middle": place * width, "records": by_place.get(place, 0)}
        for place in range(min(by_place), max(by_place) + 1)
    ]


def _calibration(tally: Tally, side: str) -> list[dict[str, Any]]:
    bands: dict[str, Cell] = {}
    for key, number in tally.counts.items():
        if key[:2] == ("calibration", side):
            bands.setdefault(key[2], {})[key[3]] = number
    return [
        {
            "band": band,
            "records": cell["count"],
            "predicted": round(cell["probability"] / cell["count"] / PROBABILITY_STEPS, 6),
            "observed": round(cell.get("bad", 0) / cell["count"], 6),
        }
        for band, cell in sorted(bands.items())
    ]
