"""One decision without server or store: the same pipeline, rows from a file."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic import ValidationError

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


def decide_file(bundle: Path, text: str, file: str, *, full: bool = False) -> str:
    """Decides what a JSON document holds, and gives the Decision (or the whole record) as JSON.

    The document: `application` (as Application in proto3 JSON), `features` (rows by view: `values`, `age_days`), and
    optionally `request_id`, `language`, `now` (RFC 3339). A document without `application` is taken for the
    application alone. Raises BundleError for what is wrong with bundle or document, RequestError for a refused
    application.
    """

    def wrong(place: str, message: str, fix: str) -> BundleError:
        return BundleError([Problem(file, place, message, fix)])

    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise wrong("", f"is not JSON ({error})", "Correct the syntax.") from error
    if not isinstance(document, dict):
        raise wrong("", "is not a JSON object", "Write an object with `application` and `features`.")
    if "application" not in document:
        document = {"application": document}
    strange = set(document) - {"application", "features", "request_id", "language", "now"}
    if strange:
        raise wrong(", ".join(sorted(strange)), "is not understood", "Keep application, features, now, language.")
    request = DecideRequest()
    try:
        ParseDict(document["application"], request.application)
        request.request_id = document.get("request_id", "offline")
        request.language = document.get("language", "")
        now_us = _moment_us(document.get("now"))
        given = {k: ScenarioRow.model_validate(v) for k, v in dict(document.get("features", {})).items()}
    except ParseError as error:
        raise wrong("application", str(error), "docs/api.md describes the fields.") from error
    except (ValidationError, TypeError, ValueError) as error:
        raise wrong("", str(error).replace("\n", "; "), "Correct the document.") from error

    loaded = load_bundle(bundle, scenarios=False)
    prepared = prepare(loaded.plan, request, now_us, time.perf_counter_ns)
    try:
        rows: list[Row] = encode_rows(loaded.catalogue, prepared, given, now_us)
    except ScenarioError as error:
        raise wrong(".".join(str(p) for p in error.place), error.message, "Correct the row.") from error
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


def _moment_us(text: str | None) -> int:
    if text is None:
        return time.time_ns() // 1000
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"now {text!r} has no time zone; write 2026-01-15T12:00:00Z")
    return round(moment.timestamp() * 1_000_000)


def _json(message: object) -> str:
    content = MessageToDict(message, preserving_proto_field_name=True)  # type: ignore[arg-type]
    return json.dumps(content, indent=2, ensure_ascii=False)
