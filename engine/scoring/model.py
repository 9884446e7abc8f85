"""A model ready to run: explained ones, which carry a manifest and give exact contributions, and foreign ones, which
give a score only.

Both answer `run(rows)` with one `ModelScore` a row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.domain.score import ModelScore, ScoreStatus, no_score
from engine.errors import ModelError
from engine.scoring.manifest import (
    CONTRIBUTIONS_TENSOR,
    INPUT_TENSOR,
    POINTS_TENSOR,
    PROBABILITY_TENSOR,
    RAW_TENSOR,
    Manifest,
    Scaling,
)
from engine.scoring.onnx_runtime import Session, TensorInfo

_WITH_POINTS = (RAW_TENSOR, PROBABILITY_TENSOR, CONTRIBUTIONS_TENSOR, POINTS_TENSOR)
_WITHOUT_POINTS = _WITH_POINTS[:3]
# How far base plus contributions may be from the raw score. Checked at load, and on every 256th run.
ADDITIVITY_TOLERANCE = 1e-4
_SAMPLE_MASK = 0xFF
# Rows that may share a run at most: the largest batch that invariance is proven for at load. ONNX Runtime's tree
# ensembles change their way of working with the number of rows.
BATCH_ROWS_MAX = 256

_sum = np.add.reduce

_log = logging.getLogger("assay.scoring")


class Model(Protocol):
    """What the pipeline needs of a model."""

    @property
    def id(self) -> str:
        """The model's id."""
        ...

    @property
    def version(self) -> str:
        """Its semantic version."""
        ...

    @property
    def digest(self) -> str:
        """ "sha256:" and the digest of its file."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features it takes, in order."""
        ...

    @property
    def manifest(self) -> Manifest | None:
        """What the file says of itself; None for foreign models."""
        ...

    # Whether a row gets the same bits alone and in a batch, as proven at load.
    batchable: bool

    def run(self, rows: NDArray[np.float64]) -> list[ModelScore]:
        """Scores rows of shape [n, inputs], float64, NaN for missing, in the order of `inputs`."""
        ...


@dataclass(slots=True)
class ExplainedModel:
    """A model made by the exporter: score and exact contributions from one run."""

    session: Session
    manifest: Manifest
    digest: str
    id: str = field(init=False)
    version: str = field(init=False)
    inputs: tuple[str, ...] = field(init=False)
    batchable: bool = False
    _outputs: tuple[str, ...] = field(init=False)
    _runs: int = field(init=False, default=0)
    _needed: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.id, self.version = self.manifest.id, self.manifest.version
        self.inputs = tuple(f.name for f in self.manifest.features)
        self._outputs = _WITH_POINTS if self.manifest.scaling else _WITHOUT_POINTS
        self._needed = [i for i, f in enumerate(self.manifest.features) if f.missing == "not_allowed"]

    def run(self, rows: NDArray[np.float64]) -> list[ModelScore]:
        """See `Model.run`."""
        if self._needed:
            return _run_able(self._run, rows, np.isnan(rows[:, self._needed]))
        return self._run(rows)

    def _run(self, rows: NDArray[np.float64]) -> list[ModelScore]:
        answer = self.session.run(self._outputs, {INPUT_TENSOR: rows.astype(np.float32)})
        contributions = answer[2]
        self._runs += 1
        if len(rows) == 1 and self._runs & _SAMPLE_MASK:
            raw, probability = answer[0].item(), answer[1].item()
            point = answer[3].item() if len(answer) > 3 else None
            total = raw + probability + (point or 0.0) + float(_sum(contributions[0]))
            if total - total != 0.0:  # one of them is NaN or infinite
                return [no_score(ScoreStatus.FAILED)]
            rounded = None if point is None else math.floor(point + 0.5)
            return [ModelScore(ScoreStatus.OK, raw, probability, rounded, contributions[0])]
        raws, probabilities = answer[0].ravel().tolist(), answer[1].ravel().tolist()
        if not self._runs & _SAMPLE_MASK and not self._additive(raws, contributions):
            return [no_score(ScoreStatus.FAILED) for _ in raws]
        # NaN or infinite where anything of a row is.
        scaled = len(answer) > 3
        with np.errstate(all="ignore"):
            totals = answer[0].astype(np.float64) + answer[1] + contributions.sum(axis=1, keepdims=True)
            if scaled:
                totals += answer[3]
        able = np.isfinite(totals).ravel().tolist()
        points = answer[3].ravel().tolist() if scaled else raws
        floor, status = math.floor, ScoreStatus.OK
        return [
            ModelScore(status, raw, probability, floor(point + 0.5) if scaled else None, shares)
            if good
            else no_score(ScoreStatus.FAILED)
            for good, raw, probability, point, shares in zip(
                able, raws, probabilities, points, contributions, strict=True
            )
        ]

    def _additive(self, raws: Sequence[float], contributions: NDArray[np.float32]) -> bool:
        """Whether the contributions of every row add up to its raw score."""
        sums = contributions.sum(axis=1, dtype=np.float64) + self.manifest.attribution.base_value
        if bool((np.abs(sums - raws) <= ADDITIVITY_TOLERANCE).all()):
            return True
        _log.error("contributions do not add up to the raw score", extra={"model": self.id, "version": self.version})
        return False


@dataclass(frozen=True, slots=True)
class ForeignSpec:
    """How to feed and read a foreign model; see `ModelEntry` of the bundle."""

    id: str
    version: str
    features: tuple[str, ...]
    missing: Literal["not_allowed", "nan"]
    kind: Literal["probability", "log_odds"]
    tensor: str | None
    bad_class: int | str
    scaling: Scaling | None


class ForeignModel:
    """Any single-output or two-class ONNX classifier or regressor. It gives no contributions.

    Takes one input tensor [rows, columns] or one tensor a column, of float, double or whole numbers; reads a tensor
    [rows], [rows, 1] or [rows, 2], or the sequence of maps that a ZipMap makes.
    """

    def __init__(self, session: Session, spec: ForeignSpec, digest: str) -> None:
        self.session, self.spec, self.digest = session, spec, digest
        self.id, self.version, self.inputs = spec.id, spec.version, spec.features
        self.manifest: Manifest | None = None
        self.batchable = False
        self._check_inputs()
        self._output = self._find_output()
        self._check_class()
        self._outputs = (self._output.name,)

    def _check_inputs(self) -> None:
        width, tensors = len(self.spec.features), self.session.inputs
        for tensor in tensors:
            if tensor.dtype is None:
                raise ModelError(f"input {tensor.name!r} is of type {tensor.type_name}; only numbers can be fed")
            if self.spec.missing == "nan" and not issubclass(tensor.dtype, np.floating):
                raise ModelError(
                    f"input {tensor.name!r} is of type {tensor.type_name}, which has no NaN; write missing: not_allowed"
                )
        if len(tensors) == 1:
            shape = tensors[0].shape
            columns = shape[1] if len(shape) == 2 else 1 if len(shape) == 1 else -1
            if columns is not None and columns != width:
                raise ModelError(
                    f"input {tensors[0].name!r} has shape {list(shape)}, and {width} features are listed for it"
                )
        elif len(tensors) != width:
            raise ModelError(f"the graph has {len(tensors)} inputs, and {width} features are listed for them")
        else:
            self._check_names([tensor.name for tensor in tensors])

    def _check_names(self, names: Sequence[str]) -> None:
        """Columns are fed by place. Where the graph calls some of them by the features' own names, the order must be
        the same, or values would go to the wrong column in silence."""
        for name, feature in zip(names, self.spec.features, strict=True):
            if name != feature and (name in self.spec.features or feature in names):
                raise ModelError(
                    f"the graph takes its columns in the order {', '.join(names)}; list the features in that order"
                )

    def _find_output(self) -> TensorInfo:
        if self.spec.tensor is not None:
            for tensor in self.session.outputs:
                if tensor.name == self.spec.tensor:
                    return tensor
            names = ", ".join(t.name for t in self.session.outputs)
            raise ModelError(f"there is no output {self.spec.tensor!r}; there are {names}")
        candidates = [t for t in self.session.outputs if t.dtype in (np.float32, np.float64) or _is_zipmap(t)]
        if len(candidates) != 1:
            names = ", ".join(f"{t.name} ({t.type_name})" for t in self.session.outputs)
            raise ModelError(f"it is not clear which output is the score: {names}; name it under output.tensor")
        return candidates[0]

    def _check_class(self) -> None:
        """A two-column answer names no classes; the label's values are the column numbers by ONNX convention only for
        classes 0 and 1, so `bad_class` must be one of them there."""
        if not _is_zipmap(self._output) and self._output.shape[-1:] == (2,) and self.spec.bad_class not in (0, 1):
            raise ModelError(
                f"output {self._output.name!r} has two columns without names; bad_class must be 0 or 1, "
                f"not {self.spec.bad_class!r}"
            )

    def _feeds(self, rows: NDArray[np.float64]) -> dict[str, np.ndarray]:
        tensors = self.session.inputs
        if len(tensors) == 1:
            return {tensors[0].name: rows.astype(tensors[0].dtype)}
        feeds = {}
        for index, tensor in enumerate(tensors):
            column = rows[:, index].astype(tensor.dtype)
            feeds[tensor.name] = column if len(tensor.shape) == 1 else column.reshape(-1, 1)
        return feeds

    def run(self, rows: NDArray[np.float64]) -> list[ModelScore]:
        """See `Model.run`."""
        if self.spec.missing == "not_allowed":
            return _run_able(self._run_whole, rows, np.isnan(rows))
        return self._run_whole(rows)

    def _run_whole(self, rows: NDArray[np.float64]) -> list[ModelScore]:
        answer = self.session.run(self._outputs, self._feeds(rows))[0]
        return [self._score(value) for value in self._column(answer, len(rows))]

    def _column(self, answer: object, count: int) -> Sequence[float]:
        bad = self.spec.bad_class
        if isinstance(answer, list):  # ZipMap: a map a row
            try:
                values = [float(row[bad]) for row in answer]
            except KeyError as error:
                known = ", ".join(repr(k) for k in answer[0])
                raise ModelError(f"the classes are {known}; bad_class {bad!r} is none of them") from error
        else:
            array = np.asarray(answer, dtype=np.float64)
            if array.ndim == 2 and array.shape[1] == 2:
                array = array[:, int(bad)]
            elif array.ndim == 2 and array.shape[1] != 1:
                raise ModelError(f"the answer has {array.shape[1]} columns; one or two are understood")
            values = array.ravel().tolist()
        if len(values) != count:
            raise ModelError(f"{count} rows were fed and {len(values)} answers came back")
        return values

    def _score(self, value: float) -> ModelScore:
        if not math.isfinite(value):
            return no_score(ScoreStatus.FAILED)
        if self.spec.kind == "log_odds":
            raw, probability = value, 1.0 / (1.0 + math.exp(-max(min(value, 700.0), -700.0)))
        else:
            if not -1e-6 <= value <= 1.0 + 1e-6:
                return no_score(ScoreStatus.FAILED)
            raw = value
            probability = min(max(value, 0.0), 1.0)
        return ModelScore(ScoreStatus.OK, raw, probability, _points(self.spec.scaling, probability), None)


def _run_able(
    run: Callable[[NDArray[np.float64]], list[ModelScore]], rows: NDArray[np.float64], missing: NDArray[np.bool_]
) -> list[ModelScore]:
    """Runs the rows that have all that the model cannot do without; the others get no score."""
    if not missing.any():
        return run(rows)
    absent = [any(row) for row in missing.tolist()]
    able = [index for index, gone in enumerate(absent) if not gone]
    scores = iter(run(rows[able]) if able else ())
    return [no_score(ScoreStatus.MISSING_INPUT) if gone else next(scores) for gone in absent]


def _points(scaling: Scaling | None, probability: float) -> int | None:
    if scaling is None:
        return None
    held = min(max(probability, 1e-9), 1.0 - 1e-9)
    logit = math.log((1.0 - held) / held) - math.log(scaling.anchor_odds)
    sign = 1.0 if scaling.higher_is == "safer" else -1.0
    points = scaling.anchor_points + sign * scaling.points_per_logit * logit
    return math.floor(min(max(points, scaling.points_min), scaling.points_max) + 0.5)


def _is_zipmap(tensor: TensorInfo) -> bool:
    return tensor.type_name.startswith("seq(map(")
