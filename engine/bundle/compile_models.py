"""Loads the models of a bundle and proves that each does what it says: shapes, golden rows, additivity, finite answers,
and whether rows may share a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from engine.bundle.schema import ModelEntry
from engine.bundle.source import Document, Source
from engine.domain.score import ModelScore, ScoreStatus
from engine.errors import ModelError
from engine.scoring.manifest import (
    CONTRIBUTIONS_TENSOR,
    INPUT_TENSOR,
    MANIFEST_KEY,
    POINTS_TENSOR,
    PROBABILITY_TENSOR,
    RAW_TENSOR,
    Manifest,
)
from engine.scoring.model import ADDITIVITY_TOLERANCE, BATCH_ROWS_MAX, ExplainedModel, ForeignModel, ForeignSpec, Model
from engine.scoring.onnx_runtime import Session

_POINTS_TOLERANCE = 0.05
_BATCH_SIZES = (2, 3, 7, 16, 50, 64, 128, BATCH_ROWS_MAX)
_PROOF_ROWS = 64


def load_model(name: str, entry: ModelEntry, document: Document, source: Source) -> Model | None:
    """One model of bundle.yaml, ready to run; None, with problems noted, when it cannot be used."""
    place = document.place("models", name)
    content = source.read_bytes(entry.file, named_by=document.file)
    if content is None:
        return None
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    try:
        session = Session(content)
        if entry.explanation == "none":
            model: Model | None = _foreign(name, entry, session, digest, document, source)
        else:
            model = _explained(name, entry, session, digest, source)
        if model is None:
            return None
        rows = _proof_rows(model)
        # A model that fails here is still given: the bundle is refused for it, and the check goes on to its flows.
        if _answers(model, rows, entry, place, source):
            model.batchable = _batch_invariant(model, rows)
    except ModelError as error:
        source.report(entry.file, place, str(error), "Export the model again, or correct its entry in bundle.yaml.")
        return None
    return model


def _explained(name: str, entry: ModelEntry, session: Session, digest: str, source: Source) -> Model | None:
    document = session.metadata.get(MANIFEST_KEY)
    if document is None:
        source.report(
            entry.file,
            "metadata",
            f"there is no {MANIFEST_KEY!r}, so the file gives no exact contributions",
            "Export it with `assay model export`, or declare `explanation: none` for it in bundle.yaml.",
        )
        return None
    try:
        manifest = Manifest.model_validate(json.loads(document))
    except (ValidationError, json.JSONDecodeError) as error:
        wrong: list[tuple[tuple[int | str, ...], str]] = [((), str(error))]
        if isinstance(error, ValidationError):
            wrong = [(item["loc"], item["msg"]) for item in error.errors()]
        for where, message in wrong:
            place = "manifest " + ".".join(str(p) for p in where)
            source.report(entry.file, place.strip(), message, "Export the model again.")
        return None
    if manifest.id != name:
        source.report(
            entry.file,
            "manifest id",
            f"the file holds the model {manifest.id!r}, and bundle.yaml calls it {name!r}",
            "Use the model's own id in bundle.yaml.",
        )
        return None
    return ExplainedModel(session, manifest, digest) if _shapes(entry, session, manifest, source) else None


def _shapes(entry: ModelEntry, session: Session, manifest: Manifest, source: Source) -> bool:
    width = len(manifest.features)
    wanted = {INPUT_TENSOR: width, RAW_TENSOR: 1, PROBABILITY_TENSOR: 1, CONTRIBUTIONS_TENSOR: width}
    if manifest.scaling is not None:
        wanted[POINTS_TENSOR] = 1
    found = {t.name: t for t in (*session.inputs, *session.outputs)}
    good = True
    if len(session.inputs) != 1:
        source.report(entry.file, "inputs", f"there are {len(session.inputs)} inputs", "Export the model again.")
        good = False
    for tensor, columns in wanted.items():
        info = found.get(tensor)
        if info is None:
            source.report(entry.file, f"tensor {tensor}", "is not in the graph", "Export the model again.")
        elif info.dtype is not np.float32 or len(info.shape) != 2 or info.shape[1] not in (columns, None):
            source.report(
                entry.file,
                f"tensor {tensor}",
                f"is {info.type_name} of shape {list(info.shape)}; it must be float32 [rows, {columns}]",
                "Export the model again.",
            )
        else:
            continue
        good = False
    return good


def _foreign(
    name: str, entry: ModelEntry, session: Session, digest: str, document: Document, source: Source
) -> Model | None:
    missing = [key for key, value in (("inputs", entry.inputs), ("version", entry.version)) if value is None]
    for key in missing:
        source.report(
            document.file,
            document.place("models", name, key),
            f"a model with `explanation: none` needs `{key}`",
            "Add it: `inputs.features` names the columns in order, `version` is x.y.z.",
        )
    if entry.inputs is None or entry.version is None:
        return None
    spec = ForeignSpec(
        id=name,
        version=entry.version,
        features=entry.inputs.features,
        missing=entry.inputs.missing,
        kind=entry.output.kind,
        tensor=entry.output.tensor,
        bad_class=entry.output.bad_class,
        scaling=entry.scaling,
    )
    return ForeignModel(session, spec, digest)


def _proof_rows(model: Model) -> NDArray[np.float64]:
    """Rows to try a model on: its golden rows, and others drawn around them with a fixed seed."""
    random = np.random.default_rng(20240229)
    width = len(model.inputs)
    if model.manifest is None:
        return random.uniform(0.0, 1.0, (_PROOF_ROWS, width)).round(3)
    golden = np.array([row.inputs for row in model.manifest.golden_rows], dtype=np.float64)
    picks = random.integers(0, len(golden), (_PROOF_ROWS, width))
    return np.vstack([golden, golden[picks, np.arange(width)]])[:_PROOF_ROWS]


def _answers(model: Model, rows: NDArray[np.float64], entry: ModelEntry, place: str, source: Source) -> bool:
    """Warm-up: every row must get a finite score; golden rows their stored answers; contributions must add up."""
    scores = [model.run(rows[i : i + 1])[0] for i in range(len(rows))]
    bad = [i for i, s in enumerate(scores) if not _finite(s)]
    if bad:
        source.report(
            entry.file,
            place,
            f"{len(bad)} of {len(rows)} trial rows got no finite score (the first: {_shown(rows[bad[0]])})",
            "A model must answer every row of its inputs with a number; export it again.",
        )
        return False
    if model.manifest is None:
        return True
    return all([_golden(model.manifest, entry, scores, source), _additive(model.manifest, entry, scores, source)])


def _finite(score: ModelScore) -> bool:
    """Whether there is a score, a probability within its bounds, and a number for every contribution."""
    if score.status is not ScoreStatus.OK or not np.isfinite(score.raw):
        return False
    if score.probability is not None and not 0.0 <= score.probability <= 1.0:
        return False
    return score.contributions is None or bool(np.isfinite(score.contributions).all())


def _golden(manifest: Manifest, entry: ModelEntry, scores: Sequence[ModelScore], source: Source) -> bool:
    good = True
    for index, (row, score) in enumerate(zip(manifest.golden_rows, scores, strict=False)):
        assert score.contributions is not None
        off = max(
            abs(score.raw - row.raw),
            abs((score.probability or 0.0) - row.probability),
            float(np.abs(score.contributions - np.array(row.contributions)).max()),
        )
        points_off = 0.0
        if row.points is not None and score.points is not None:
            points_off = max(0.0, abs(score.points - row.points) - 0.5)
        # Golden rows were written down with the same numbers, so they must agree as closely as sums do.
        if not (off <= ADDITIVITY_TOLERANCE and points_off <= _POINTS_TOLERANCE):
            source.report(
                entry.file,
                f"golden row {index}",
                f"the graph's answer is off by {max(off, points_off):.3g} from the stored one",
                "The file was changed after export, or this ONNX Runtime computes otherwise: export it again.",
            )
            good = False
    return good


def _additive(manifest: Manifest, entry: ModelEntry, scores: Sequence[ModelScore], source: Source) -> bool:
    base = manifest.attribution.base_value
    worst = max(abs(base + float(s.contributions.sum(dtype=np.float64)) - s.raw) for s in scores)  # type: ignore[union-attr]
    if worst <= ADDITIVITY_TOLERANCE:
        return True
    source.report(
        entry.file,
        "contributions",
        f"base plus contributions differ from the raw score by up to {worst:.3g}",
        f"They must agree to {ADDITIVITY_TOLERANCE:g}; export the model again.",
    )
    return False


def _batch_invariant(model: Model, rows: NDArray[np.float64]) -> bool:
    """Whether a row gets the same bits alone and in batches of several sizes, at every place."""
    alone = [_bits(model.run(rows[i : i + 1])[0]) for i in range(len(rows))]
    for size in _BATCH_SIZES:
        places = np.arange(size) % len(rows)
        for turn in range(3):
            chosen = (places + 17 * turn) % len(rows)
            batch = [_bits(score) for score in model.run(rows[chosen])]
            if batch != [alone[i] for i in chosen.tolist()]:
                return False
    return True


def _bits(score: ModelScore) -> tuple[object, ...]:
    shares = None if score.contributions is None else score.contributions.tobytes()
    return (score.raw, score.probability, score.points, shares)


def _shown(row: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in row[:8].tolist()) + (", ...]" if len(row) > 8 else "]")
