"""ONNX Runtime, behind a small face. The only file of the server that imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from engine.errors import ModelError

_ELEMENT_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a graph. dtype is None for what is no plain tensor of numbers (strings, sequences of
    maps); `type_name` is the runtime's own name of the type. Unknown dimensions are None."""

    name: str
    type_name: str
    dtype: type[np.generic] | None
    shape: tuple[int | None, ...]


class Session:
    """One loaded graph. Safe to run from several threads at once.

    One thread a run and no spinning: the runtime's thread pool costs hundreds of microseconds for the small graphs
    served here, and one thread keeps sums in one order, so the same row gives the same bits.
    """

    def __init__(self, content: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises its own family of classes, and plain RuntimeError
            raise ModelError(f"ONNX Runtime does not load it: {_first_line(error)}") from error
        self.inputs = tuple(_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_info(node) for node in self._session.get_outputs())
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        # The call below `InferenceSession.run`, which only checks again that every input is given.
        inner = getattr(self._session, "_sess", None)
        self._run = self._session.run if inner is None else inner.run

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Runs the graph; answers in the order of `outputs`. Raises ModelError."""
        try:
            return self._run(outputs, feeds, None)  # type: ignore[no-any-return]
        except Exception as error:
            raise ModelError(f"the run failed: {_first_line(error)}") from error


def _info(node: Any) -> TensorInfo:
    shape = tuple(d if isinstance(d, int) else None for d in (node.shape or ()))
    return TensorInfo(node.name, node.type, _ELEMENT_TYPES.get(node.type), shape)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def runtime_version() -> str:
    """The version of ONNX Runtime, for the record of the environment."""
    return str(ort.__version__)
