"""The bundle that tests decide with, and copies of it to spoil."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from engine.bundle.load import LoadedBundle, default_bundle, load_bundle
from engine.errors import BundleError, Problem

BUNDLE = default_bundle()
FIXTURE_MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


@cache
def shipped() -> LoadedBundle:
    """The shipped bundle, loaded once a test run. Its scenarios have a test of their own."""
    return load_bundle(BUNDLE, scenarios=False)


def copy_bundle(target: Path) -> Path:
    """A copy of the shipped bundle; its models' cards and plots, which nothing reads, are left behind."""
    shutil.copytree(BUNDLE, target, ignore=shutil.ignore_patterns("*.png", "*.md"))
    return target


def edit(file: Path, old: str, new: str, count: int = 1) -> None:
    """Puts `new` in place of the first `count` occurrences of `old`, which must be there."""
    text = file.read_text("utf-8")
    assert old in text, f"{file.name} does not hold {old!r}"
    file.write_text(text.replace(old, new, count), "utf-8")


def problems_of(root: Path, *, scenarios: bool = False) -> tuple[Problem, ...]:
    """What is wrong with a bundle; none when it loads."""
    try:
        load_bundle(root, scenarios=scenarios)
    except BundleError as error:
        return error.problems
    return ()
