"""Loads a bundle: reads, checks and compiles everything, and runs the golden scenarios.

Every mistake of every file is reported at once. A bundle that fails leaves the one in service untouched, because
nothing is put in service here.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from engine.bundle.compile_counters import velocity_views
from engine.bundle.compile_features import Catalogue, check_catalogue
from engine.bundle.compile_flow import Parts, compile_flow
from engine.bundle.compile_models import load_model
from engine.bundle.scenarios import run_scenarios
from engine.bundle.schema import BundleFile, FeaturesFile, FlowFile, ReasonsFile, ScenarioFile
from engine.bundle.source import Document, Source, digest_of
from engine.domain.enums import Component
from engine.errors import BundleError
from engine.features.velocity.changes import Definitions
from engine.plan import BundlePlan, FlowPlan
from engine.reasons.plan import ReasonText
from engine.scoring.model import Model

BUNDLE_FILE = "bundle.yaml"
FEATURES_FILE = "features.yaml"
REASONS_FILE = "reasons.yaml"


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle fit to serve: its plan, its catalogue (for writers and docs), and how many scenarios gave their stored
    answer."""

    plan: BundlePlan
    catalogue: Catalogue
    models: dict[str, Model]
    scenarios: int
    notes: tuple[str, ...] = field(default=())


def load_bundle(root: Path, *, scenarios: bool = True) -> LoadedBundle:
    """Loads and checks the bundle in a directory. Raises BundleError with every problem found.

    scenarios: whether to run the golden scenarios. Leaving them out is for tools that write them.
    """
    source = Source(root)
    if not root.is_dir():
        source.report(str(root), "", "is not a directory", "Name the directory that holds bundle.yaml.")
        raise BundleError(source.problems)
    if not (root / BUNDLE_FILE).is_file():
        source.report(str(root), "", f"holds no {BUNDLE_FILE}", "Name the directory of a bundle.")
        raise BundleError(source.problems)
    try:
        digest = digest_of(root)
    except (OSError, ValueError) as error:
        source.report(str(root), "", f"cannot be read ({error})", "Make every file readable.")
        raise BundleError(source.problems) from error

    bundle, bundle_doc = source.read_as(BUNDLE_FILE, BundleFile, named_by=str(root))
    features, features_doc = source.read_as(FEATURES_FILE, FeaturesFile, named_by=str(root))
    reasons, reasons_doc = source.read_as(REASONS_FILE, ReasonsFile, named_by=str(root))
    if bundle is None or bundle_doc is None or features is None or features_doc is None or reasons is None:
        raise BundleError(source.problems)

    catalogue = Catalogue(features, features_doc, reasons, frozenset(bundle.models))
    check_catalogue(catalogue, source)
    texts = _reason_texts(reasons, bundle, reasons_doc, source)
    models = {
        name: model
        for name, entry in bundle.models.items()
        if (model := load_model(name, entry, bundle_doc, source)) is not None
    }
    parts = Parts(catalogue, models, texts, bundle.languages)
    flows = _flows(bundle, parts, source)
    plan = BundlePlan(
        name=bundle.name,
        version=bundle.version,
        digest=digest,
        languages=bundle.languages,
        flows=flows,
        counters=Definitions(velocity_views(features)),
    )
    count = 0
    # A scenario says little about a bundle with mistakes, but what is wrong with its own form is worth knowing now.
    if scenarios:
        for name in bundle.scenarios:
            file, document = source.read_as(name, ScenarioFile, named_by=BUNDLE_FILE)
            if file is not None and document is not None and len(flows) == len(bundle.flows):
                count += run_scenarios(plan, catalogue, file, document, source)
    if not source.problems and digest_of(root) != digest:
        source.report(str(root), "", "files changed while the bundle was loaded", "Load it again.")
    if source.problems:
        raise BundleError(source.problems)
    notes = tuple(f"{flow.name}: {note}" for flow in flows.values() for note in flow.policy.notes)
    for path in sorted((root / "scenarios").glob("*.y*ml")):
        name = path.relative_to(root).as_posix()
        if name not in bundle.scenarios:
            notes += (f"{name}: is not listed in {BUNDLE_FILE}, so its scenarios do not run",)
    return LoadedBundle(plan, catalogue, models, count, notes)


def _flows(bundle: BundleFile, parts: Parts, source: Source) -> dict[str, FlowPlan]:
    flows: dict[str, FlowPlan] = {}
    for name in bundle.flows:
        flow, document = source.read_as(name, FlowFile, named_by=BUNDLE_FILE)
        if flow is None or document is None:
            continue
        plan = compile_flow(flow, document, parts, source)
        if plan is None:
            continue
        if plan.name in flows:
            source.report(name, "product", f"the flow {plan.name!r} stands twice", "Keep one file for it.")
        flows[plan.name] = plan
    return dict(sorted(flows.items()))


def _reason_texts(
    reasons: ReasonsFile, bundle: BundleFile, document: Document | None, source: Source
) -> dict[str, ReasonText]:
    texts = {}
    for code, entry in reasons.reasons.items():
        for language in bundle.languages:
            if language not in entry.texts:
                source.report(
                    REASONS_FILE,
                    document.place("reasons", code, "texts") if document else code,
                    f"there is no text in {language!r}",
                    "Add it, or take the language out of bundle.yaml.",
                )
        texts[code] = ReasonText(
            code=code,
            component=Component[entry.component.upper()],
            applicant={k: v.applicant for k, v in entry.texts.items()},
            internal={k: v.internal for k, v in entry.texts.items()},
            regulation_b=entry.legal.regulation_b,
            gdpr=entry.legal.gdpr,
            pipl=entry.legal.pipl,
            retired=entry.retired,
        )
    return texts


def default_bundle() -> Path:
    """The bundle that ships, beside the engine's package."""
    spec = importlib.util.find_spec("engine")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).resolve().parent.parent / "models" / "lending"
