"""`export_model`: from a trained model to one ONNX file that scores, explains and describes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.export.draft import ManifestDraft
from engine.scoring.manifest import Manifest

Method = Literal["interventional_shap", "path_dependent_shap"]


def export_model(
    native: Any,
    draft: ManifestDraft,
    *,
    reference: npt.NDArray[np.float32],
    verify_rows: npt.NDArray[np.float32],
    path: Path,
    tolerance: float = 1e-5,
    method: Method = "interventional_shap",
) -> Manifest:
    """Write `native` as an explained ONNX model to `path` and return its manifest."""
    raise NotImplementedError


def inspect(path: Path) -> Manifest:
    """Read the manifest of an exported file."""
    raise NotImplementedError
