"""Holds Kubernetes manifests against Kubernetes' own schemas, of the oldest and the newest version that is meant.

python schemas.py FILE [FILE...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import kubernetes_validate  # type: ignore[import-not-found]
import yaml

VERSIONS = ("1.27", "1.31", "1.37")
# Of operators: Kubernetes has no schema for them.
OTHERS = {"ServiceMonitor"}


def main(files: list[str]) -> int:
    """Gives the exit code: 1 when anything does not hold."""
    bad = checked = 0
    for file in files:
        for document in yaml.safe_load_all(Path(file).read_text(encoding="utf-8")):
            if not document or document["kind"] in OTHERS:
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                    checked += 1
                except kubernetes_validate.ValidationError as error:
                    bad += 1
                    print(f"{file}: {document['kind']}, Kubernetes {version}: {error}", file=sys.stderr)
    print(f"{checked} manifests hold against Kubernetes {', '.join(VERSIONS)}")
    return 1 if bad or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
