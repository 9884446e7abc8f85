"""What is known of an entity, and how two stores differ, as text for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.domain.enums import FeatureStatus
from engine.feature_desk import Reading
from engine.features.compare import Comparison
from engine.features.encoding import STATE_MAGIC, is_whole
from engine.features.row_schema import Kind
from engine.features.show import Named, ShownFeature, ShownView
from engine.features.store import event_time_of, parse_key

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_lines(reading: Reading, values: Sequence[bytes | None] = ()) -> Iterator[str]:
    """What is known of an entity, for a person. values: the stored bytes of each view, to say what they are."""
    for index, view in enumerate(reading.views):
        if index:
            yield ""
        yield _title(view, reading.now_us)
        if view.note:
            yield f"  ({view.note})"
        width = max((len(f.name) for f in view.features), default=0)
        for feature in view.features:
            yield "  " + _feature_line(feature, width)
        if view.stored is not None and view.stored_schema is not None:
            yield "  as it was written:"
            kinds = {field.name: field for field in view.stored_schema.fields}
            for name, value in view.stored.items():
                field = kinds[name]
                yield f"    {name}: {_text(value, field.kind is Kind.TIMESTAMP)} {field.unit}".rstrip()
        if view.state is not None:
            yield from _state_lines(view)
        if values:
            yield from (f"  raw: {fact}" for fact in _raw(view, values[index]).items_text())


def _title(view: ShownView, now_us: int) -> str:
    parts = [f"{view.view}: {view.status.name}"]
    if view.event_time_us is not None:
        what = "last event" if view.counters else "event time"
        parts.append(f"{what} {_moment(view.event_time_us / 1e6)}, {_span(now_us - view.event_time_us)} ago")
    if view.counters:
        parts.append("kept by the engine")
    return "; ".join(parts)


def _feature_line(feature: ShownFeature, width: int) -> str:
    status = "" if feature.status is FeatureStatus.PRESENT else feature.status.name
    value = ""
    if feature.value is not None:
        value = f"{_text(feature.value, feature.kind == 'timestamp')} {feature.unit}".rstrip()
    stale = ""
    if feature.status is FeatureStatus.STALE and feature.max_age_us is not None:
        stale = f"(older than {_span(feature.max_age_us)})"
    return "  ".join(part for part in (f"{feature.name:<{width}}", status, value, stale) if part)


def _state_lines(view: ShownView) -> Iterator[str]:
    state = view.state
    assert state is not None
    yield f"  counted from {state.events:,} events kept one by one, since {_moment(state.oldest_us / 1e6)}"
    if state.bucketed_until_us is not None:
        until = _moment(state.bucketed_until_us / 1e6)
        yield f"  and from older ones kept as sums over time, until {until}: these counts are near, not exact"


class _Facts(dict[str, Any]):
    """What the bytes of a value are."""

    def items_text(self) -> Iterator[str]:
        """Each as a word and its value."""
        return (f"{name} {value}" for name, value in self.items())


def _raw(view: ShownView, value: bytes | None) -> _Facts:
    facts = _Facts(key=view.key.decode(errors="backslashreplace"))
    if value is None:
        return facts
    facts["bytes"] = len(value)
    facts["kind"] = "counters" if value[: len(STATE_MAGIC)] == STATE_MAGIC else "row"
    facts["checksum"] = "holds" if is_whole(value) else "fails"
    facts["schema"] = value[4:12].hex()
    facts["stamp"] = event_time_of(value)
    return facts


def as_tree(reading: Reading, values: Sequence[bytes | None] = ()) -> dict[str, Any]:
    """What is known of an entity, for JSON. Moments are RFC 3339, ages in seconds."""
    views = []
    for index, view in enumerate(reading.views):
        tree: dict[str, Any] = {"view": view.view, "status": view.status.name}
        if view.event_time_us is not None:
            tree["event_time"] = _moment(view.event_time_us / 1e6)
            tree["age_s"] = (reading.now_us - view.event_time_us) / 1e6
        if view.counters:
            tree["counters"] = True
        if view.note:
            tree["note"] = view.note
        tree["features"] = {feature.name: _feature_tree(feature) for feature in view.features}
        if view.stored is not None and view.stored_schema is not None:
            moments = {field.name for field in view.stored_schema.fields if field.kind is Kind.TIMESTAMP}
            tree["stored"] = {name: _plain(value, name in moments) for name, value in view.stored.items()}
            tree["stored_schema"] = view.fingerprint.hex()
        if view.state is not None:
            tree["events_kept"] = view.state.events
        if values:
            tree["raw"] = dict(_raw(view, values[index]))
        views.append(tree)
    return {"now": _moment(reading.now_us / 1e6), "views": views}


def _feature_tree(feature: ShownFeature) -> dict[str, Any]:
    tree: dict[str, Any] = {"status": feature.status.name}
    if feature.value is not None:
        tree["value"] = _plain(feature.value, feature.kind == "timestamp")
    if feature.unit:
        tree["unit"] = feature.unit
    return tree


def comparison_lines(found: Comparison) -> Iterator[str]:
    """How two stores differ, for a person."""
    yield f"{found.keys:,} keys: {found.same:,} the same, {found.keys - found.same:,} different"
    for difference, count in found.differences.most_common():
        yield f"  {count:>12,}  {difference}"
    for side, count in found.missing_schemas.items():
        yield f"  {count:>12,}  row schemas not recorded on the {side}"
    for key, difference in found.examples:
        yield f"    {key.decode(errors='backslashreplace')}: {difference}"
    if len(found.schemas) > 1:
        yield "rows by schema:"
        for fingerprint, count in found.schemas.most_common():
            yield f"  {count:>12,}  {fingerprint}"
    if found.repaired:
        yield f"{found.repaired:,} rows and schemas copied; compare again to see what is left"


def comparison_tree(found: Comparison) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "keys": found.keys,
        "same": found.same,
        "differences": {difference.name.lower(): count for difference, count in found.differences.items()},
        "missing_schemas": dict(found.missing_schemas),
        "examples": [
            {**parse_key(key)._asdict(), "difference": difference.name.lower()} for key, difference in found.examples
        ],
        "schemas": dict(found.schemas),
        "repaired": found.repaired,
    }


def _plain(value: Named, is_moment: bool) -> Named:
    if is_moment and isinstance(value, int | float):
        return _moment(value)
    return value


def _text(value: Named, is_moment: bool) -> str:
    value = _plain(value, is_moment)
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:,.15g}" if isinstance(value, float) else str(value)


def _moment(seconds: float) -> str:
    try:
        moment = _EPOCH + timedelta(microseconds=round(seconds * 1e6))
    except OverflowError:
        return f"{seconds:g} s after 1970"
    return moment.isoformat().replace("+00:00", "Z")


def _span(micros: int) -> str:
    sign, seconds = ("-" if micros < 0 else ""), abs(micros) / 1e6
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{sign}{seconds / length:.1f} {unit}"
    return f"{sign}{seconds:.1f} s"
