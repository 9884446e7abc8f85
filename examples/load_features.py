"""Writes the rows of examples/application.json into the embedded store of a server that runs from this folder.

    .venv/bin/python examples/load_features.py            # rows into var/features, the default of `store.path`
    .venv/bin/python examples/load_features.py DIRECTORY

The server may run meanwhile: LMDB takes several processes. A row is one view of one entity; its event time says when
its facts were true, and the newer event time wins.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from engine.bundle.load import default_bundle, load_bundle
from engine.bundle.rows import RowWriter
from engine.features.stores.embedded import EmbeddedStore

_DAY_US = 86_400_000_000


def rows(document: dict[str, Any], now_us: int) -> list[tuple[bytes, bytes, int]]:
    """(key, value, event time) of every row of a document as `assay decide` takes it."""
    application, features = document["application"], document["features"]
    ids = {entity["entity"]: entity["id"] for entity in application["entities"]}
    ids["applicant"] = application["subject"]["id"]
    catalogue = load_bundle(default_bundle(), scenarios=False).catalogue
    writer = RowWriter(catalogue)
    return [
        writer.row(
            view, ids[catalogue.file.views[view].entity], row["values"], now_us - round(row["age_days"] * _DAY_US)
        )
        for view, row in features.items()
    ]


def main() -> None:
    """Reads the example beside this file, and writes its rows."""
    document = json.loads((Path(__file__).parent / "application.json").read_text(encoding="utf-8"))
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "var/features")
    store = EmbeddedStore(directory)
    result = store.write(rows(document, time.time_ns() // 1000))
    store.close()
    print(f"{result.written} rows written to {directory}, {result.ignored_older} not newer than those there")


if __name__ == "__main__":
    main()
