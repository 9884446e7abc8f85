"""`export_model`: from a trained model to one ONNX file that scores, explains and describes itself."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from pydantic import ValidationError

from engine.errors import Problem
from engine.export.additive import AdditiveModel
from engine.export.additive_trees import additive_ensemble
from engine.export.draft import ManifestDraft
from engine.export.ensemble import Ensemble
from engine.export.errors import ExportError, refuse_if
from engine.export.expand import expand
from engine.export.families import open_source
from engine.export.float32 import Float32Array
from engine.export.golden import golden_inputs, golden_rows
from engine.export.graph import build_graph, with_manifest
from engine.export.inputs import input_problems
from engine.export.limits import too_deep, too_large
from engine.export.session import GraphSession
from engine.export.source import Source
from engine.export.trees import Forest, IntArray
from engine.export.truth import interventional_contributions
from engine.export.verify import Truth, Verification, compare
from engine.scoring.manifest import MANIFEST_KEY, Attribution, Manifest, Reference

log = logging.getLogger(__name__)

Method = Literal["interventional_shap", "path_dependent_shap"]

# Interventional values are checked by a second algorithm on so many rows; everything else on all rows.
TRUTH_ROWS = 2000
_SEED = 7


def export_model(
    native: Any,
    draft: ManifestDraft,
    *,
    reference: Float32Array,
    verify_rows: Float32Array,
    path: Path,
    tolerance: float = 1e-5,
    method: Method = "interventional_shap",
) -> Manifest:
    """Write `native` as an explained ONNX model to `path`, and return the manifest that it carries.

    native: a LightGBM, XGBoost or CatBoost model, an ExplainableBoostingClassifier, or a `WoeScorecard`; raw scores
    must be log-odds of the bad event.
    draft: what the trainer knows; calibration and scaling become part of the graph.
    reference: float32 [n, F], the population that contributions are measured against; base_value is its mean raw.
    verify_rows: float32 [N, F], all training rows: the graph is compared with the library on every one.
    method: for boosted trees; additive models are always "additive".
    tolerance: the largest absolute difference allowed in raw, probability and every contribution.

    Raises `ExportError` with every problem found, and then leaves no file. The same arguments give the same bytes.
    """
    source = open_source(native)
    refuse_if(input_problems(source, draft, reference, verify_rows))
    structure = source.read()
    if isinstance(structure, AdditiveModel):
        ensemble = additive_ensemble(structure, reference)
        attribution_method: Any = "additive"
    else:
        refuse_if(too_deep(structure))
        ensemble = expand(structure, reference, interventional=method == "interventional_shap")
        attribution_method = method
    refuse_if(too_large(ensemble))

    checked = _Checked(source, structure, ensemble, draft, reference, verify_rows, tolerance, attribution_method)
    model, verification = checked.narrowest()
    refuse_if(verification.problems(str(path)))

    session = GraphSession(model.SerializeToString())
    golden = golden_inputs(session, verify_rows, draft.features)
    try:
        manifest = draft.complete(
            kind=source.kind,
            attribution=Attribution(
                method=attribution_method,
                reference=Reference(
                    name=draft.reference.name,
                    description=draft.reference.description,
                    rows=len(reference),
                    sha256=hashlib.sha256(np.ascontiguousarray(reference).astype("<f4").tobytes()).hexdigest(),
                ),
                base_value=float(np.float32(ensemble.base)),
            ),
            golden_rows=golden_rows(golden, session.run(golden)),
            export_check=verification.check(),
            libraries={name: version(name) for name in (*source.library, "numpy", "onnx", "onnxruntime")},
        )
    except ValidationError as error:
        raise ExportError(
            [
                Problem("draft", ".".join(str(p) for p in e["loc"]), str(e["msg"]), "Correct the draft.")
                for e in error.errors()
            ]
        ) from error
    _write(path, with_manifest(model, manifest))
    return manifest


class _Checked:
    """The graph in float32 if that meets the tolerance, else with its trees in float64."""

    def __init__(
        self,
        source: Source,
        structure: Forest | AdditiveModel,
        ensemble: Ensemble,
        draft: ManifestDraft,
        reference: Float32Array,
        rows: Float32Array,
        tolerance: float,
        method: str,
    ) -> None:
        self._ensemble, self._draft, self._rows, self._tolerance = ensemble, draft, rows, tolerance
        every: IntArray = np.arange(len(rows))
        if isinstance(structure, Forest) and method == "interventional_shap":
            some = min(len(rows), TRUTH_ROWS)
            every = np.sort(np.random.default_rng(_SEED).choice(len(rows), some, replace=False))
            phi = interventional_contributions(structure, rows[every], reference)
        else:
            phi = source.contributions(rows) - source.contributions(reference).mean(axis=0)
        # The base, too, by another way: the library's own mean over the reference rows.
        base = float(source.raw(reference).mean())
        self._truth = Truth(source.raw(rows), phi, every, base)

    def narrowest(self) -> tuple[onnx.ModelProto, Verification]:
        """The first of float32, float64 that passes, else float64 with its failing verification."""
        for wide in (False, True):
            model = build_graph(self._ensemble, self._draft.calibration, self._draft.scaling, wide=wide)
            answer = GraphSession(model.SerializeToString()).run(self._rows)
            verification = compare(
                answer, self._truth, self._draft.calibration, self._draft.scaling, self._tolerance
            )
            log.info("export check, trees in %s: %s", "float64" if wide else "float32", verification)
            if not verification.problems(""):
                break
        return model, verification


def _write(path: Path, content: bytes) -> None:
    """All or nothing: the file appears whole under its name, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def inspect(path: Path) -> Manifest:
    """The manifest of an exported file. Raises `ExportError` when the file is none."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ExportError([Problem(str(path), "", f"is no ONNX file ({error})", "Give an exported model.")]) from error
    found = {p.key: p.value for p in model.metadata_props}
    if MANIFEST_KEY not in found:
        raise ExportError(
            [Problem(str(path), "metadata", f"has no {MANIFEST_KEY}", "Export it with `assay model export`.")]
        )
    try:
        return Manifest.model_validate_json(found[MANIFEST_KEY])
    except ValidationError as error:
        raise ExportError(
            [
                Problem(str(path), ".".join(str(p) for p in e["loc"]), str(e["msg"]), "Export the model again.")
                for e in error.errors()
            ]
        ) from error
