"""Running an exported graph as the engine runs it: one thread, one fixed order of sums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from engine.export.float32 import Float32Array
from engine.scoring.manifest import (
    CONTRIBUTIONS_TENSOR,
    INPUT_TENSOR,
    POINTS_TENSOR,
    PROBABILITY_TENSOR,
    RAW_TENSOR,
)

_CHUNK_ROWS = 4096


class Answer(NamedTuple):
    """What the graph says: raw [n], probability [n], points [n] or None, contributions [n, F]."""

    raw: Float32Array
    probability: Float32Array
    points: Float32Array | None
    contributions: Float32Array


class GraphSession:
    """An explained graph in ONNX Runtime."""

    def __init__(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]

    def run(self, rows: Float32Array) -> Answer:
        """All rows, in chunks."""
        parts = list(self._chunks(rows))
        whole = {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
        points = whole.get(POINTS_TENSOR)
        return Answer(
            raw=whole[RAW_TENSOR][:, 0],
            probability=whole[PROBABILITY_TENSOR][:, 0],
            points=None if points is None else points[:, 0],
            contributions=whole[CONTRIBUTIONS_TENSOR],
        )

    def _chunks(self, rows: Float32Array) -> Iterator[dict[str, Float32Array]]:
        for start in range(0, max(len(rows), 1), _CHUNK_ROWS):
            chunk = np.ascontiguousarray(rows[start : start + _CHUNK_ROWS])
            yield dict(zip(self._outputs, self._session.run(None, {INPUT_TENSOR: chunk}), strict=True))
