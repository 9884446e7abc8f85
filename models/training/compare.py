"""What score and reasons cost at run time: CatBoost's symmetric trees against LightGBM, as credit_pd could ship either.

Run as `python -m models.training.compare`. Prints the median time of one row, cycling through many.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from engine.scoring.manifest import INPUT_TENSOR, Calibration
from models.training import credit_pd
from models.training.data import Table, load_consumers
from models.training.metrics import Labels
from models.training.publish import Release, publish

ROWS = 2_000


def main() -> None:
    """Train and export both on all rows, and time them."""
    table = load_consumers()
    candidates: dict[str, Callable[[Any, Labels], Any]] = {
        "CatBoost, 300 x depth 6": credit_pd.catboost,
        "LightGBM, 300 x depth 4": credit_pd.lightgbm,
    }
    for name, train in candidates.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Release(out=Path(folder))
            none = Calibration(method="none")
            done = publish(train(table.features, table.bad), credit_pd.SPEC, table, {}, run, calibration=none)
            size = done.path.stat().st_size / 1e6
            print(f"{name}: {_microseconds(done.path, table):.1f} us a row, {size:.1f} MB", flush=True)


def _microseconds(path: Path, table: Table) -> float:
    """Median time of score, probability, points and contributions for one row, in microseconds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rows = [table.features[at : at + 1] for at in np.linspace(0, len(table.bad) - 1, ROWS).astype(int)]
    taken = []
    for row in [*rows, *rows]:
        started = time.perf_counter()
        session.run(None, {INPUT_TENSOR: row})
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[ROWS:])) * 1e6


if __name__ == "__main__":
    main()
