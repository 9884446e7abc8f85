"""What there is to count of a bundle: its plan turned into shapes, once, when it is put in service."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine import __version__
from engine.domain.enums import ValueOrigin
from engine.plan import BundlePlan, FlowPlan
from engine.scoring.manifest import Manifest
from engine.scoring.plan import ModelPlan
from engine.telemetry.metrics.drift import TrackPlan
from engine.telemetry.metrics.flow_series import FlowShape, ModelSeries
from engine.telemetry.metrics.snapshot import Snapshot

_SCORE_BUCKETS = 20
# Inputs of a model whose drift is watched; of more, those that move the score most.
FEATURES_MAX = 40
# Codes of a flow; what its catalogue has beyond them counts as `other`.
_CODES_MAX = 200
_REQUEST, _DERIVED = "request", "derived"


def shapes_of(plan: BundlePlan, features_max: int = FEATURES_MAX) -> list[FlowShape]:
    """The shapes of all flows of a bundle. features_max: inputs of each model whose drift is watched."""
    return [_shape(flow, features_max) for flow in plan.flows.values()]


def _shape(flow: FlowPlan, features_max: int) -> FlowShape:
    features = flow.features
    names = tuple(view.name for view in features.views)
    places = {name: index for index, name in enumerate((*names, _REQUEST, _DERIVED))}
    groups = [
        places[f.view if f.view in places else _DERIVED if f.origin is ValueOrigin.DERIVED else _REQUEST]
        for f in features.features
    ]
    tracks: list[TrackPlan] = []
    recodes: list[tuple[int, NDArray[np.float64]]] = []
    for model in flow.models:
        manifest = model.model.manifest
        if manifest is not None:
            watched = _tracks(model, manifest, features_max)
            tables = dict(model.recodes)
            recodes += [
                (len(tracks) + at, tables[column]) for at, (column, _) in enumerate(watched) if column in tables
            ]
            tracks += [track for _, track in watched]
    scores = [track for m in flow.models if (track := _score_track(m)) is not None]
    codes = {code: text.component.name for code, text in list(flow.reasons.catalogue.items())[:_CODES_MAX]}
    return FlowShape(
        name=flow.name,
        views=names,
        # A view that the engine counts itself is counted up to the moment of the decision, and so has no age.
        aged=tuple(view.counters is None for view in features.views),
        group_names=tuple(places),
        groups=tuple(groups),
        models=tuple(ModelSeries(m.model.id, _score_bounds(m)) for m in flow.models),
        codes=codes,
        tracks=(*tracks, *scores),
        recodes=tuple(recodes),
    )


def _score_bounds(model: ModelPlan) -> tuple[float, ...] | None:
    """The buckets of a model's points: its scale in equal parts. None for one without a manifest or a scale."""
    scaling = _scaling_range(model)
    if scaling is None:
        return None
    least, most = scaling
    step = (most - least) / _SCORE_BUCKETS
    return tuple(round(least + step * index, 6) for index in range(1, _SCORE_BUCKETS))


def _scaling_range(model: ModelPlan) -> tuple[float, float] | None:
    manifest = model.model.manifest
    scaling = manifest.scaling if manifest is not None else getattr(getattr(model.model, "spec", None), "scaling", None)
    return None if scaling is None else (scaling.points_min, scaling.points_max)


def _score_track(model: ModelPlan) -> TrackPlan | None:
    manifest = model.model.manifest
    if manifest is None:
        return None
    bins = manifest.psi_reference.score
    return TrackPlan(model.model.id, "", -1, bins.edges, bins.shares, bins.missing_share)


def _tracks(model: ModelPlan, manifest: Manifest, features_max: int) -> list[tuple[int, TrackPlan]]:
    """(column, track) of the inputs to watch."""
    reference = manifest.psi_reference.features
    columns = [column for column, one in enumerate(manifest.features) if one.name in reference]
    weights = _weights(manifest)
    columns = sorted(columns, key=lambda column: -weights[column])[:features_max]
    found = []
    for column in sorted(columns):
        name = manifest.features[column].name
        bins = reference[name]
        slot = int(model.slots[column])
        found.append((column, TrackPlan(model.model.id, name, slot, bins.edges, bins.shares, bins.missing_share)))
    return found


def _weights(manifest: Manifest) -> Sequence[float]:
    """How much each input moves the score: the mean size of its contribution over the rows that the model carries."""
    rows = np.array([row.contributions for row in manifest.golden_rows], dtype=np.float64)
    found: list[float] = np.abs(rows).mean(axis=0).tolist()
    return found


class InService:
    """Which bundle is in service, as metrics. Read while it changes, it gives the one or the other whole."""

    def __init__(self) -> None:
        self._plan: BundlePlan | None = None
        self._since_s = 0.0

    def serve(self, plan: BundlePlan) -> None:
        """Puts a bundle in service."""
        self._since_s, self._plan = time.time(), plan

    def put(self, snapshot: Snapshot) -> None:
        """Adds what is in service to a snapshot."""
        plan = self._plan
        snapshot.put("assay.engine.info", (__version__,), 1)
        snapshot.put("assay.ready", (), int(plan is not None))
        if plan is None:
            return
        snapshot.put("assay.bundle.info", (plan.name, plan.version, plan.digest), 1)
        snapshot.put("assay.bundle.served_at", (), self._since_s)
        for flow in plan.flows.values():
            for model in flow.models:
                labels = (model.model.id, model.model.version, model.component.name)
                snapshot.put("assay.model.info", labels, 1)
