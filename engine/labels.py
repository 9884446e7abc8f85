"""What answers of a bundle carry besides the decision itself, prepared once when the bundle is put in service."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import engine
from assay.decision.v1 import decision_pb2 as pb
from engine.plan import BundlePlan, FlowPlan
from engine.record.build import FlowLabels, ModelLabel, decision_head, model_label, reason_head, record_heads
from engine.scoring.plan import ModelPlan

_LIBRARIES = ("onnxruntime", "numpy", "protobuf", "grpcio", "zen-engine", "lmdb")


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels by flow; the slot lists by digest; the environment that decides."""

    flows: Mapping[str, FlowLabels]
    catalogues: Mapping[str, bytes]
    environment: bytes
    environment_digest: str


def make_labels(plan: BundlePlan, store: str) -> Labels:
    """Labels of every flow of a bundle. store: the name of the store that rows come from."""
    environment = describe_environment()
    digest = "sha256:" + hashlib.sha256(environment).hexdigest()
    bundle = pb.BundleRef(name=plan.name, version=plan.version, digest=plan.digest)
    return Labels(
        flows={name: _flow_labels(flow, plan.languages, bundle, store, digest) for name, flow in plan.flows.items()},
        catalogues={f.features.catalogue_digest: f.features.catalogue_json for f in plan.flows.values()},
        environment=environment,
        environment_digest=digest,
    )


def describe_environment() -> bytes:
    """The versions that a decision's bits depend on, as JSON."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    facts = {
        "engine": engine.__version__,
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "machine": platform.machine(),
        "libraries": versions,
    }
    return json.dumps(facts, sort_keys=True).encode()


def _flow_labels(
    flow: FlowPlan, languages: tuple[str, ...], bundle: pb.BundleRef, store: str, environment_digest: str
) -> FlowLabels:
    catalogue = flow.reasons.catalogue
    record_head, facts_head = record_heads(
        flow.features.catalogue_digest, environment_digest, engine.__version__, store, flow.policy_digest
    )
    return FlowLabels(
        currency=flow.currency,
        minor_per_major=flow.minor_per_major,
        features=tuple(f.name for f in flow.features.features),
        models=tuple(_model_label(m) for m in flow.models),
        decision_heads={language: decision_head(flow.name, bundle, language) for language in languages},
        reason_heads={
            language: {
                code: reason_head(
                    code, int(text.component), text.applicant[language], text.internal[language], text.regulation_b
                )
                for code, text in catalogue.items()
            }
            for language in languages
        },
        record_head=record_head,
        facts_head=facts_head,
    )


def _model_label(plan: ModelPlan) -> ModelLabel:
    model = plan.model
    if model.manifest is None:
        return model_label(model.id, model.version, model.digest, int(plan.component), None, "")
    attribution = model.manifest.attribution
    method = f"{attribution.method}@{attribution.reference.name}:{attribution.reference.sha256[:12]}"
    return model_label(model.id, model.version, model.digest, int(plan.component), attribution.base_value, method)
