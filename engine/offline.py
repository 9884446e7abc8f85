"""One decision without server or store: the same pipeline, rows from a file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError, field_validator

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.bundle.load import load_bundle
from engine.bundle.scenarios import ScenarioError, encode_rows
from engine.bundle.schema import ScenarioRow
from engine.clock import new_decision_id
from engine.domain.facts import Row
from engine.errors import BundleError, Problem
from engine.labels import make_labels
from engine.pipeline import conclude, prepare
from engine.record.build import Parts, build_decision, build_record, not_recorded
from engine.record.read import parse_record, unpack
from engine.shape import mistakes


class OfflineDocument(BaseModel):
    """What `assay decide` reads: the application as proto3 JSON, and the rows that the store would hold, by view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    application: dict[str, Any]
    features: dict[str, ScenarioRow] = {}
    request_id: str = "offline"
    language: str = ""
    now: AwareDatetime | None = None

    @field_validator("now", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise ValueError("write a moment as text: 2026-01-15T12:00:00Z")
        return value


def decide_file(bundle: Path, text: str, file: str, *, full: bool = False) -> str:
    """Decides what a JSON document holds, and gives the Decision (or the whole record) as JSON.

    The document: `application` (as Application in proto3 JSON), `features` (rows by view: `values`, `age_days`), and
    optionally `request_id`, `language`, `now` (RFC 3339). A document without `application` is taken for the
    application alone. Raises BundleError for what is wrong with bundle or document, RequestError for a refused
    application.
    """

    document = _parse(text, file)
    request = DecideRequest(request_id=document.request_id, language=document.language)
    try:
        ParseDict(document.application, request.application)
    except ParseError as error:
        raise _wrong(file, "application", str(error), "docs/api.md describes the fields.") from error
    now_us = time.time_ns() // 1000 if document.now is None else round(document.now.timestamp() * 1_000_000)

    loaded = load_bundle(bundle, scenarios=False)
    prepared = prepare(loaded.plan, request, now_us, time.perf_counter_ns)
    try:
        rows: list[Row] = encode_rows(loaded.catalogue, prepared, document.features, now_us)
    except ScenarioError as error:
        raise _wrong(file, ".".join(str(p) for p in error.place), error.message, "Correct the row.") from error
    prepared.marks.append(time.perf_counter_ns())
    concluded = conclude(prepared, rows, now_us, time.perf_counter_ns)
    labels = make_labels(loaded.plan, "file").flows[prepared.flow.name]
    parts = Parts(
        prepared.application,
        concluded.facts,
        concluded.scores,
        concluded.outcome,
        concluded.reasons,
        now_us,
        prepared.marks,
    )
    decision = build_decision(labels, parts, new_decision_id(now_us), "", time.perf_counter_ns())
    if not full:
        return _json(pb.Decision.FromString(not_recorded(decision)))
    content = build_record(
        labels, parts, not_recorded(decision), request.application.SerializeToString(deterministic=True), b""
    )
    record = parse_record(content)
    inputs = {m.model.digest: m.model.inputs for m in prepared.flow.models}
    unpack(record, prepared.flow.features.catalogue_json, inputs)
    return _json(record)


def _wrong(file: str, place: str, message: str, fix: str) -> BundleError:
    return BundleError([Problem(file, place, message, fix)])


def _parse(text: str, file: str) -> OfflineDocument:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _wrong(file, "", f"is not JSON ({error})", "Correct the syntax.") from error
    if not isinstance(content, dict):
        raise _wrong(file, "", "is not a JSON object", "Write an object with `application` and `features`.")
    if "application" not in content:
        content = {"application": content}
    try:
        return OfflineDocument.model_validate(content)
    except ValidationError as error:
        raise BundleError(
            [
                Problem(file, ".".join(str(part) for part in path), message, fix)
                for path, message, fix in mistakes(error, "docs/api.md describes the document.")
            ]
        ) from error


def _json(message: object) -> str:
    content = MessageToDict(message, preserving_proto_field_name=True)  # type: ignore[arg-type]
    return json.dumps(content, indent=2, ensure_ascii=False)
