"""What a worker process serves when it starts: what the host served last.

The bundle that the settings name is served the first time, and again when it is another than it was: naming another
bundle, or changing its files, and starting anew is a change like any other, made by "settings".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from engine.bundle.source import digest_of
from engine.errors import AssayError, BundleError, Problem, RequestError
from engine.traffic.control import TrafficControl
from engine.traffic.model import Author, ChangeKind, FlowTraffic, Traffic
from engine.traffic.moves import activate, check_fit
from engine.traffic.serving import Loaded, Serving

P = TypeVar("P")
_log = logging.getLogger("assay.traffic")
SETTINGS = "settings"


class _Target(NamedTuple):
    """What is to be served instead of what the files say, and why."""

    traffic: Traffic
    why: str


def start(control: TrafficControl[P], configured: Path, load: Callable[[Path], Loaded[P]]) -> Serving[P]:
    """Puts this worker process in service, and gives what it serves.

    configured: the directory that the settings name; load: checks a bundle wholly, golden scenarios and all, and makes
    it ready. Raises BundleError when neither what was served nor what the settings name can be loaded, Refusal,
    ConfigError.
    """
    named = _configured(control, configured, load)
    # Loaded before the lock is taken: the host's workers start side by side.
    _try_ready(control, control.worker.file.read_last_good())
    with control.lock(control.start_wait_s):
        found = control.worker.file.read_last_good()
        failure = _try_ready(control, found)
        target = _target(control, found, failure, named)
        if target is not None:
            loaded = control.worker.ready(target.traffic.bundles)
            fitting = replace(target.traffic, flows=_fitting(target.traffic, loaded))
            found = control.commit(ChangeKind.START, Author(SETTINGS, target.why), found, fitting).traffic
        assert found is not None
        return control.worker.start(found)


def _configured(control: TrafficControl[P], root: Path, load: Callable[[Path], Loaded[P]]) -> str | BundleError:
    """The digest of the bundle that the settings name, in the registry by then; or what is wrong with it."""
    found = control.worker.file.read_last_good()
    try:
        digest = _digest(root)
        if found is not None and found.configured == digest and control.registry.get(digest) is not None:
            return digest
        with control.registry.incoming(root) as incoming:
            loaded = load(incoming.path)
            control.worker.adopt(loaded)
            return control.registry.keep(incoming, loaded.name, loaded.version, loaded.flows)[0].digest
    except BundleError as error:
        return error


def _digest(root: Path) -> str:
    try:
        return digest_of(root)
    except (OSError, ValueError) as error:
        problem = Problem(str(root), "", f"cannot be read ({error})", "Name the directory of a bundle.")
        raise BundleError([problem]) from error


def _try_ready(control: TrafficControl[P], found: Traffic | None) -> Exception | None:
    """Loads what was served. Gives why that cannot be."""
    try:
        if found is not None:
            control.worker.ready(found.bundles)
    except Exception as error:
        return error
    return None


def _target(
    control: TrafficControl[P], found: Traffic | None, failure: Exception | None, named: str | BundleError
) -> _Target | None:
    """What is to be served instead; None where what was served is served on."""
    if isinstance(named, BundleError):
        if found is None or failure is not None:
            raise named
        _log.error("the bundle that the settings name cannot be used; what was served is served on: %s", named)
        return None
    if found is None:
        # Other workers follow what is later only.
        floor = control.worker.members.latest_generation()
        return _Target(Traffic(floor, named, configured=named), "what is served was not known: the settings' bundle")
    if failure is not None:
        if not isinstance(failure, AssayError):
            _log.error("what was served cannot be loaded", exc_info=failure)
        lost = f"what was served cannot be loaded, so the settings' bundle is: {failure}"
        return _Target(Traffic(found.generation, named, flows=found.flows, configured=named), lost[:1000])
    if named == found.configured:
        return None
    other = activate(found, named, end_experiments=True) or found
    return _Target(replace(other, configured=named), "the settings name another bundle than at the last start")


def _fitting(traffic: Traffic, loaded: Mapping[str, Loaded[Any]]) -> dict[str, FlowTraffic]:
    """The flows' settings that go together with the bundles; the others are told and left out."""
    flows = {}
    for name, flow in traffic.flows.items():
        try:
            check_fit(replace(traffic, flows={name: flow}), loaded)
        except (RequestError, KeyError) as error:
            _log.error("a flow's experiment, shadows and cut-out end: %s", error, extra={"flow": name})
        else:
            flows[name] = flow
    return flows
