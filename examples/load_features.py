"""Writes the rows of examples/application.json to a server that runs (`make serve`), as a feature pipeline would.

    .venv/bin/python examples/load_features.py                  # to 127.0.0.1:50051
    .venv/bin/python examples/load_features.py HOST:PORT

A row is one view of one entity; its event time says when its facts were true, and the newer event time wins. Counters
(the views that end in _velocity) are not written: the server counts the applications that it decides.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from assay.decision.v1.decision_pb2 import Value
from assay.feature.v1 import feature_service_pb2 as pb
from assay.feature.v1 import feature_service_pb2_grpc as rpc

_DAY_US = 86_400_000_000


def value(plain: Any) -> Value:
    """A plain value as the service takes it."""
    if isinstance(plain, bool):
        return Value(flag=plain)
    if isinstance(plain, int):
        return Value(integer=plain)
    return Value(number=plain) if isinstance(plain, float) else Value(text=plain)


def put_request(document: dict[str, Any], now_us: int) -> pb.PutFeaturesRequest:
    """The rows of a document as `assay decide` takes it, counters left out."""
    application = document["application"]
    ids = {entity["entity"]: entity["id"] for entity in application["entities"]}
    request = pb.PutFeaturesRequest()
    for view, content in document["features"].items():
        entity = view.rpartition("_")[0]
        if view.endswith("_velocity"):
            continue
        row = request.rows.add(view=view, entity_id=ids.get(entity, application["subject"]["id"]))
        row.event_time.FromMicroseconds(now_us - round(content["age_days"] * _DAY_US))
        for name, plain in content["values"].items():
            if plain is not None:  # a value that is left out is NULL
                row.values[name].CopyFrom(value(plain))
    return request


def main() -> None:
    """Reads the example beside this file, and sends its rows."""
    document = json.loads((Path(__file__).parent / "application.json").read_text(encoding="utf-8"))
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
    with grpc.insecure_channel(address) as channel:
        answer = rpc.FeatureServiceStub(channel).PutFeatures(put_request(document, time.time_ns() // 1000), timeout=5)
    for rejected in answer.rejected:
        print(f"rejected: {rejected}")
    print(f"{answer.written} rows written to {address}, {answer.ignored_older} not newer than those there")


if __name__ == "__main__":
    main()
