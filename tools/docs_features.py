"""The reference pages of the feature catalogue and of the functions of derived features."""

from __future__ import annotations

from engine.bundle.schema import Absence, FeatureEntry, FeaturesFile, ViewEntry
from engine.features.derive import FUNCTIONS
from tools.docs_common import BUNDLE, page, read_yaml, table


def features_page() -> str:
    """docs/features.md: the feature catalogue of the shipped bundle."""
    file = FeaturesFile.model_validate(read_yaml(BUNDLE / "features.yaml"))
    count = sum(len(view.features) for view in file.views.values())
    body = [
        f"The feature catalogue of the bundle that ships: {len(file.views)} views with {count} features,",
        f"{len(file.request)} request fields, {len(file.derived)} derived features.",
        "[bundle.md](bundle.md#featuresyaml) explains the columns. Under *absent* stands what happens when a value is",
        "missing (NULL, NOT_FOUND, WITHHELD), stale or unavailable; where nothing stands, the model is told that the",
        "value is missing.",
        "",
        "## Entities",
        "",
        *table(("entity", "what it is"), ((f"`{name}`", e.description) for name, e in file.entities.items())),
    ]
    for name, view in file.views.items():
        body += [f"## {name}", "", _view_line(view), ""]
        body += table(_FEATURE_COLUMNS, (_feature_row(n, e, view) for n, e in view.features.items()))
    body += ["## Request fields", "", "What the application itself carries, in `Application.fields`.", ""]
    body += table(_FEATURE_COLUMNS, (_feature_row(n, e, None) for n, e in file.request.items()))
    body += ["## Derived features", "", "Computed once a decision; see [functions.md](functions.md).", ""]
    rows = (
        (f"`{n}`", f"`{d.function}({', '.join(str(a) for a in d.arguments)})`", d.unit, _range(d.range), d.description)
        for n, d in file.derived.items()
    )
    body += table(("feature", "how", "unit", "range", "description"), rows)
    return page("Features", "models/lending/features.yaml", body)


_FEATURE_COLUMNS = ("feature", "type", "unit", "range", "maximum age", "absent", "personal data", "description")


def _view_line(view: ViewEntry) -> str:
    sent = " A caller may send its values." if view.caller_may_send else ""
    described = f"{view.description}. " if view.description else ""
    return f"{described}Entity `{view.entity}`; source: {view.source}; purpose: {view.purpose or 'not stated'}.{sent}"


def _feature_row(name: str, entry: FeatureEntry, view: ViewEntry | None) -> tuple[str, ...]:
    days = entry.max_age_days or (view.max_age_days if view else None)
    allowed = ", ".join(entry.categories) if entry.categories else _range(entry.range)
    return (
        f"`{name}`" + (" (required)" if entry.required else ""),
        entry.type,
        entry.unit,
        allowed,
        f"{days:g} days" if days else "",
        _absent(entry),
        entry.personal_data,
        entry.description,
    )


def _range(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:,g} to {bounds[1]:,g}"


def _absent(entry: FeatureEntry) -> str:
    parts = []
    rules = {"missing": entry.on_missing, "stale": entry.on_stale, "unavailable": entry.on_unavailable}
    for state, rule in rules.items():
        text = _rule(rule)
        if text:
            parts.append(f"{state}: {text}")
    return "<br>".join(parts)


def _rule(rule: Absence) -> str:
    if rule.verdict is not None:
        return f"{rule.verdict} `{rule.reason}`"
    if rule.default is not None:
        return f"{rule.default} stands in"
    return "the stale value is used" if rule.use == "stale_value" else ""


def functions_page() -> str:
    """docs/functions.md: the functions that derived features may use."""
    body = [
        "What a derived feature may be computed by. Arguments are names of features that stand before it in the flow,",
        "numbers, or one of `application.amount`, `application.term_months`, `now`. The result is missing when an",
        "argument is (unless the table says that the function takes missing values), when it is no finite number, and",
        "when it lies outside the range that the catalogue states.",
        "",
    ]
    rows = (
        (f"`{name}`", one.arity or "one or more", one.description, "yes" if one.takes_missing else "")
        for name, one in FUNCTIONS.items()
    )
    body += table(("function", "arguments", "gives", "takes missing values"), rows)
    return page("Functions of derived features", "engine/features/derive.py", body)
