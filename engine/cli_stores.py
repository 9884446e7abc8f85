"""What commands about stores need: settings, catalogue and store. What is no good ends the command, and is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.console import fail
from engine.errors import BundleError, ConfigError, Problem, StoreError

if TYPE_CHECKING:
    from engine.bundle.catalogue import Catalogue
    from engine.config import Config
    from engine.features.store import FeatureStore
    from engine.features.writing.view_writer import ViewWriter


def settings_of(config: Path | None) -> Config:
    """The settings. Ends the command when they cannot be used."""
    from engine.config import load_config

    try:
        return load_config(config)
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)


def catalogue_of(settings: Config) -> Catalogue:
    """The catalogue of the bundle that the settings name. Ends the command when it cannot be used."""
    from engine.bundle.load import default_bundle
    from engine.bundle.write_plan import read_catalogue

    try:
        return read_catalogue(settings.bundle.path or default_bundle())
    except BundleError as error:
        fail("The bundle's catalogue cannot be used", error.problems)


def writer_of(catalogue: Catalogue, view: str) -> ViewWriter:
    """What makes rows of a view. Ends the command for a view that cannot be written."""
    from engine.bundle.write_plan import make_write_plan

    plan = make_write_plan(catalogue)
    if view in plan.counted:
        problem = Problem(
            "command line", "--view", f"{view!r} holds counters, which the engine keeps", "Send events (IngestEvents)."
        )
        fail("The file cannot be loaded", [problem])
    if view not in plan.views:
        fix = f"Use one of {', '.join(plan.views)}."
        fail("The file cannot be loaded", [Problem("command line", "--view", f"{view!r} is not in the catalogue", fix)])
    return plan.views[view]


@contextmanager
def opened_store(settings: Config, *, wanted: bool = True) -> Iterator[FeatureStore | None]:
    """The store that the settings name, without the circuit breaker that would hide its own words; None where it is
    not wanted. Ends the command when it cannot be opened."""
    from engine.bootstrap_stores import open_store

    if not wanted:
        yield None
        return
    if settings.store.kind == "memory":
        problem = Problem("settings", "store.kind", "memory is forgotten at once", "Name a store that keeps its rows.")
        fail("There is no store", [problem])
    try:
        store = open_store(settings, guarded=False)
    except (StoreError, ValueError) as error:
        fail(f"The store cannot be opened: {error}")
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    try:
        yield store
    finally:
        store.close()
