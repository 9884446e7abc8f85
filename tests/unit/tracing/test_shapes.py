"""The shapes of the engine's spans, and the one file of names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import db_attributes, rpc_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes, service_attributes

from assay.decision.v1 import decision_service_pb2
from assay.feature.v1 import feature_service_pb2
from assay.outcome.v1 import outcome_service_pb2
from engine.telemetry.tracing import names, shapes
from engine.telemetry.tracing.shapes import SHAPES, misfits
from tests.support.traces import decision

PACKAGE = Path(shapes.__file__).parent


def test_every_method_has_a_shape() -> None:
    methods = {
        f"{service.full_name}/{method.name}"
        for file in (decision_service_pb2, feature_service_pb2, outcome_service_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == {shape.name for shape in SHAPES if shape.kind == shapes.SERVER}
    for shape in SHAPES:
        if shape.kind == shapes.SERVER:
            assert dict(shape.constants) == {"rpc.system.name": "grpc", "rpc.method": shape.name}


def test_names_are_opentelemetrys_where_it_has_them() -> None:
    known = {
        value
        for module in (
            db_attributes,
            rpc_attributes,
            error_attributes,
            server_attributes,
            service_attributes,
        )
        for key, value in vars(module).items()
        if key.isupper() and isinstance(value, str)
    }
    used = {a.key for shape in SHAPES for a in shape.attributes} | {k for shape in SHAPES for k, _ in shape.constants}
    assert {key for key in used if not key.startswith("assay.")} <= known
    assert names.SCHEMA_URL in {schema.value for schema in schemas.Schemas}


def test_no_shape_has_a_name_twice_and_every_name_is_well_formed() -> None:
    for shape in SHAPES:
        keys = [a.key for a in shape.attributes] + [key for key, _ in shape.constants]
        assert len(set(keys)) == len(keys)
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", key) for key in keys)


def test_names_are_spelled_in_one_file() -> None:
    spelled = {
        value
        for key, value in vars(names).items()
        if key.isupper() and isinstance(value, str) and value.count(".") and key != "SCHEMA_URL"
    }
    for file in PACKAGE.glob("*.py"):
        if file.name != "names.py":
            texts = {
                node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant)
            }
            assert not spelled & {text for text in texts if isinstance(text, str)}, file.name


def test_misfits_are_told() -> None:
    for span in decision()[8]:
        assert misfits(SHAPES[span[0]], span[6]) == []
    model = SHAPES[shapes.MODEL]
    assert misfits(model, ("credit",)) == ["assay.model takes 4 values, not 1"]
    assert misfits(model, (None, None, None, None)) == []
    assert misfits(model, ("credit", 3, "ok", True)) == [
        "assay.model: assay.model.version takes a str, not 3",
        "assay.model: assay.model.batch_size takes a int, not True",
    ]
    assert misfits(SHAPES[shapes.POLICY], ("APPROVE", ["a"], False)) != []
    assert misfits(SHAPES[shapes.POLICY], ("APPROVE", ("a", 1), False)) != []
