"""The model card, written from the manifest and the figures, so that neither can be out of date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log2
from pathlib import Path

from engine.scoring.manifest import Manifest
from models.training.fraud.difficulty import DEFAULT_LEVEL, LEVELS
from models.training.fraud.evaluate import Figures
from models.training.fraud.features import FEATURES
from models.training.fraud.schemes import FRAUD_TYPES, LABEL_DELAY_MEDIAN_DAYS, MISSED_SHARE

_INTRO = """# Application fraud (`{id}` {version})

Written by `python -m models.training.fraud.train`; do not edit.

> **Made from a generated stream.** Applicants, devices, frauds and labels are invented by `models/training/fraud/`.
> The figures below say how the model does on more of the same stream. They are no evidence of detection in the wild.
> Before it guards money, train it on your own labelled applications with the same script and counters.

**What it says.** The probability that an application is fraudulent, from what is known of the applicant, device,
phone, e-mail, address, employer, network and agent at that moment.
{points}
A probability of 1.2 % is {at_rate:.0f} points.

**What it is for.** {use}.
It belongs to the fraud component: its score and reasons are never mixed with those of credit.

**What it is.** {recipe}, {features} inputs, monotone where the sense of a sign is beyond
doubt, exported with the exact contribution of every input.
"""

_STREAM = """
## The stream

One invented lender, 36 weeks, 500 applications a day, 1.2 % fraud: online (63 %), at points of sale (31 %) and in
branches (6 %).

- Honest habits that look like fraud: agents who submit for many strangers from one tablet and network, families with
  one device and phone who apply in the same week, halls of residence, mobile networks that hundreds share, corrected
  and repeated applications, new phones, VPNs, travel, prepaid numbers.
- Frauds: **ring** (35 %), **stolen** identity (25 %), **synthetic** identity (20 %), first-party **bust-out** (20 %).
- Labels come late (median days: {delays}),
  and {missed:.0%} of frauds are never found and count as honest.
- Counters see only what came before, by the clock of the events, to the second.

Learnt from {window}.
{rows:,} rows, {bad_rate:.2%} of them known as fraud on that day. Of the frauds of those weeks that will ever be found,
about {late:.0%} are not known by then: the intercept is raised by {shift:.3f} (log-odds) for them, estimated from the
delays seen so far (chain ladder). Frauds that are never found are beyond any such estimate.

Difficulty is a parameter. A fraud shows each tell-tale sign with the probability `tell`, uses what its group shares
with `reuse`, stretches its campaign by `pace`, and honest people show the same signs `noise` times as often as the
base rates. The model that ships learnt from the **{default}** level; each column below is a model trained and tested on
its own stream.

| | {level_names} |
| --- | {rule} |
"""


def write_card(
    path: Path, manifest: Manifest, levels: Mapping[str, Figures], recipe: str, unused: Sequence[str]
) -> None:
    """Write the card to `path`. recipe: the kind and size of the model in words; levels: figures by difficulty, the
    default level among them; unused: inputs that no tree splits on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(card(manifest, levels, recipe, unused), encoding="utf-8")


def card(manifest: Manifest, levels: Mapping[str, Figures], recipe: str, unused: Sequence[str]) -> str:
    """The card as Markdown; see `write_card`."""
    parts = (_intro(manifest, recipe), _stream(manifest, levels), _figures(manifest, levels))
    return "".join((*parts, _features(manifest, unused), _limits(manifest)))


def _intro(m: Manifest, recipe: str) -> str:
    s = m.scaling
    assert s is not None
    points = (
        f"Scaled to {s.points_min:.0f} to {s.points_max:.0f} points, higher is riskier: {s.anchor_points:.0f} at "
        f"{s.anchor_odds:.0f} honest to 1 fraud,\n{s.points_to_double:.0f} more for each doubling of the odds of fraud."
    )
    at_rate = s.anchor_points - s.points_to_double * log2((0.988 / 0.012) / s.anchor_odds)
    return _INTRO.format(
        id=m.id, version=m.version, points=points, at_rate=at_rate, use=m.intended_use, recipe=recipe,
        features=len(m.features),
    )  # fmt: skip


def _stream(m: Manifest, levels: Mapping[str, Figures]) -> str:
    names = [f"**{name}**" if name == DEFAULT_LEVEL else name for name in levels]
    head = _STREAM.format(
        delays=", ".join(f"{kind.replace('_', '-')} {days:.0f}" for kind, days in LABEL_DELAY_MEDIAN_DAYS.items()),
        missed=MISSED_SHARE, window=m.training.window, rows=m.training.rows, bad_rate=m.training.bad_rate,
        shift=m.calibration.intercept, late=1 - exp(-m.calibration.intercept), default=DEFAULT_LEVEL,
        level_names=" | ".join(names), rule=" | ".join("---:" for _ in names),
    )  # fmt: skip
    lines: list[tuple[str, list[str]]] = [
        (knob, [f"{getattr(LEVELS[name], knob):g}" for name in levels]) for knob in ("tell", "reuse", "noise", "pace")
    ]
    lines += [
        ("AUC", [f"{f.auc:.3f}" for f in levels.values()]),
        ("AUC against labels as the lender will have them", [f"{f.auc_observed:.3f}" for f in levels.values()]),
        ("average precision", [f"{f.average_precision:.3f}" for f in levels.values()]),
        ("KS", [f"{f.ks:.3f}" for f in levels.values()]),
    ]
    for rate in next(iter(levels.values())).recall:
        cells = [f"{f.recall[rate]:.3f}" for f in levels.values()]
        lines.append((f"frauds caught, {rate:.0%} of honest stopped", cells))
    for kind in FRAUD_TYPES:
        label = f"caught at 5 %: {kind.replace('_', '-')}"
        lines.append((label, [f"{f.recall_by_type[kind]:.2f} of {f.type_counts[kind]}" for f in levels.values()]))
    lines.append(("tested on applications / frauds", [f"{f.rows:,} / {f.frauds}" for f in levels.values()]))
    return head + "".join(f"| {label} | {' | '.join(cells)} |\n" for label, cells in lines)


def _figures(m: Manifest, levels: Mapping[str, Figures]) -> str:
    f, x, check = levels[DEFAULT_LEVEL], m.metrics, m.export_check
    gates = "".join(f"| {rate:.0%} | {f.recall[rate]:.1%} | {f.precision[rate]:.1%} |\n" for rate in sorted(f.recall))
    parity = (
        f"On all {check.rows:,} training rows the exported file differs from the library by at most "
        f"{check.raw_max_abs:.1e} in the\nraw score and {check.probability_max_abs:.1e} in the probability; on "
        f"{check.contribution_rows:,} rows by {check.contribution_max_abs:.1e} in a contribution, with\nthe same four "
        f"weightiest contributions on {check.top4_agreement:.2%} of them.\n"
        if check
        else ""
    )
    calibration = (
        f"Calibration over 20 bands: error {x['ece_20']:.4f} against all frauds, {x['ece_20_observed_labels']:.4f} "
        f"against those ever\nfound; mean predicted {x['mean_predicted']:.2%}, "
        f"found {x['fraud_rate_observed_labels']:.2%}, true {x['fraud_rate']:.2%}; Brier {x['brier']:.4f}."
    )
    return f"""
## On the later weeks ({DEFAULT_LEVEL} level)

| honest stopped | frauds caught | of those stopped, fraud |
| ---: | ---: | ---: |
{gates}
{calibration}
With {f.frauds} frauds the AUC is good to about ±0.015, and the recall of one type to about ±0.1.

{parity}
![ROC](plots/roc.png)
![KS](plots/ks.png)
![Calibration](plots/calibration.png)
![Score distribution](plots/score_distribution.png)
![Contributions](plots/contributions.png)
![Caught by type](plots/recall_by_type.png)
"""


def _features(m: Manifest, unused: Sequence[str]) -> str:
    reference = m.attribution.reference
    told = ", ".join(f"`{name}`" for name in unused)
    idle = f"This stream gave the model no use for {told};\nthey stay, for other streams will." if unused else ""
    described = reference.description[0].lower() + reference.description[1:]
    code = {name: group.code for group in m.reasons for name in group.features}
    rows = "".join(
        f"| `{f.name}` | {f.entity} | {f.type} | {f.unit or '-'} | {f.range[0]:,.0f} to {f.range[1]:,.0f} "
        f"| {f.missing} | {f.monotone:+d} | {code[f.name]} |\n".replace("| +0 |", "| |")
        for f in FEATURES
    )
    return f"""
## Inputs

Contributions are interventional Shapley values against `{reference.name}`, {reference.rows:,} rows:
{described}.
Texts and mappings of the reasons: `models/training/fraud/reason_codes.md`.

An entity that is given and has no history counts 0; an entity that the application does not have is missing.
{idle}

| input | entity | type | unit | range | missing | monotone | reason |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}"""


def _limits(m: Manifest) -> str:
    return f"""
## Limits

- {m.limitations}.
- The frauds of the stream do not learn. Real ones do, and the best signs wear out first.
- `bureau_file_age_months` rises with age, and new phones, new employers and shared addresses are more common among
  the young, students and newcomers to a country. Test for that on your own population. A
  review is a fairer answer to a high score than a refusal, and the shipped gate does not give it to every one: it sends
  probabilities from 0.08 to a person (from 0.03 for large amounts), and declines from 0.4 on. Change that table if no
  machine is to refuse alone.
- Counters take the ids that they are given. Normalise phone numbers, addresses and e-mails before hashing them.
- The applicant's text of a reason says what could not be verified, never which sign was seen.
- Not used: {", ".join(m.excluded_attributes)}.
"""
