"""`export_model`: from a trained model to one ONNX file that scores, explains and describes itself."""

from __future__ import annotations

import hashlib
import logging
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from pydantic import ValidationError

from engine.errors import Problem
from engine.export.additive import AdditiveModel
from engine.export.additive_trees import additive_ensemble
from engine.export.bins import psi_reference
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
from engine.export.session import Answer, GraphSession
from engine.export.truth import Truths
from engine.export.verify import Verification, compare
from engine.scoring.manifest import MANIFEST_KEY, Attribution, Manifest, Reference

log = logging.getLogger(__name__)

Method = Literal["interventional_shap", "path_dependent_shap"]


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
    draft: what the trainer knows; calibration and scaling become part of the graph. Without a `psi_reference` it gets
    the one of `verify_rows`.
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
        ensemble, made_by = additive_ensemble(structure, reference), "additive"
    else:
        refuse_if(too_deep(structure))
        ensemble, made_by = expand(structure, reference, interventional=method == "interventional_shap"), method
    refuse_if(too_large(ensemble))

    golden = golden_inputs(source.raw, verify_rows, draft.features)
    truths = Truths(source, structure, reference, interventional=made_by == "interventional_shap")
    model, check, answer = _narrowest(ensemble, draft, truths, verify_rows, golden, tolerance, str(path))
    try:
        manifest = draft.complete(
            kind=source.kind,
            psi_reference=draft.psi_reference
            or psi_reference(
                verify_rows,
                source.raw(verify_rows),
                [f.name for f in draft.features],
                draft.calibration,
                draft.scaling,
            ),
            attribution=Attribution.model_validate(
                {
                    "method": made_by,
                    "reference": _reference(draft, reference),
                    "base_value": float(np.float32(ensemble.base)),
                }
            ),
            golden_rows=golden_rows(golden, answer),
            export_check=check.check(),
            libraries={name: _version_of(name) for name in (*source.library, "numpy", "onnx", "onnxruntime")},
        )
    except ValidationError as error:
        raise _invalid("draft", "Correct the draft.", error) from error
    _write(path, with_manifest(model, manifest))
    return manifest


def _narrowest(
    ensemble: Ensemble,
    draft: ManifestDraft,
    truths: Truths,
    rows: Float32Array,
    golden: Float32Array,
    tolerance: float,
    file: str,
) -> tuple[onnx.ModelProto, Verification, Answer]:
    """The graph in float32 if that meets the tolerance, else with its trees in float64: with the measured differences,
    and the answers to the golden rows. Raises `ExportError` when neither meets it."""
    truth, golden_truth = truths.of(rows), truths.of(golden)
    problems: list[Problem] = []
    for wide in (False, True):
        model = build_graph(ensemble, draft.calibration, draft.scaling, wide=wide)
        session = GraphSession(model.SerializeToString())
        answer = session.run(golden)
        check = compare(session.run(rows), truth, draft.calibration, draft.scaling, tolerance)
        golden_check = compare(answer, golden_truth, draft.calibration, draft.scaling, tolerance)
        log.info("export check, trees in %s: %s", "float64" if wide else "float32", check)
        problems = check.problems(file) + golden_check.problems(f"{file} (golden rows)")
        if not problems:
            return model, check, answer
    raise ExportError(problems)


def _version_of(module: str) -> str:
    """The version of a library by its module's name: a distribution can have another (`xgboost-cpu`)."""
    try:
        return version(module)
    except PackageNotFoundError:
        return str(import_module(module).__version__)


def _reference(draft: ManifestDraft, rows: Float32Array) -> Reference:
    content = np.ascontiguousarray(rows).astype("<f4").tobytes()
    return Reference(
        name=draft.reference.name,
        description=draft.reference.description,
        rows=len(rows),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _invalid(file: str, fix: str, error: ValidationError) -> ExportError:
    return ExportError([Problem(file, ".".join(str(p) for p in e["loc"]), str(e["msg"]), fix) for e in error.errors()])


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
        raise _invalid(str(path), "Export the model again.", error) from error
