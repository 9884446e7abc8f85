"""Bundles by digest: found under directories, loaded when they are first wanted, kept while they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from engine.bundle.load import BUNDLE_FILE, LoadedBundle, load_bundle
from engine.bundle.source import digest_of
from engine.errors import BundleError
from engine.labels import Labels, make_labels

_FOUND_MAX = 1000
# A bundle holds models; a replay over the life of a lender meets many.
_LOADED_MAX = 16


@dataclass(frozen=True, slots=True)
class OnShelf:
    """A bundle ready to decide, and the labels of its records."""

    loaded: LoadedBundle
    labels: Labels
    root: Path


def find_bundles(directories: Iterable[Path]) -> dict[str, Path]:
    """The bundles in directories, by digest: a directory is a bundle or holds some, one level deep. What cannot be read
    is left out: whoever wants it is told that it is not there."""
    found: dict[str, Path] = {}
    for directory in directories:
        for root in _roots(directory):
            if len(found) >= _FOUND_MAX:
                return found
            try:
                found.setdefault(digest_of(root), root)
            except (OSError, ValueError):
                continue
    return found


def _roots(directory: Path) -> list[Path]:
    if (directory / BUNDLE_FILE).is_file():
        return [directory]
    try:
        return sorted(child for child in directory.iterdir() if (child / BUNDLE_FILE).is_file())
    except OSError:
        return []


class Shelf:
    """Loads bundles by digest. Not safe to use from several threads."""

    def __init__(self, bundles: dict[str, Path]) -> None:
        self._bundles = bundles
        self._loaded: dict[str, OnShelf | None] = {}
        # Why a bundle that is there could not be loaded, by digest.
        self.faults: dict[str, str] = {}

    def get(self, digest: str) -> OnShelf | None:
        """The bundle of a digest; None when there is none, or it does not load."""
        if digest not in self._loaded:
            if len(self._loaded) >= _LOADED_MAX:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[digest] = self._load(digest)
        return self._loaded[digest]

    def _load(self, digest: str) -> OnShelf | None:
        root = self._bundles.get(digest)
        if root is None:
            return None
        try:
            return open_bundle(root)
        except BundleError as error:
            self.faults[digest] = f"{root} does not load: {error.problems[0]}"
            return None

    def nearest(self, name: str, version: str) -> OnShelf | None:
        """A bundle of this name: of this version before another, and else the one whose version sorts last. None when
        there is none that loads."""
        titles = [(title, digest) for digest, root in self._bundles.items() if (title := _title(root))[0] == name]
        for (_, _), digest in sorted(titles, key=lambda one: (one[0][1] == version, one), reverse=True):
            found = self.get(digest)
            if found is not None:
                return found
        return None


def _title(root: Path) -> tuple[str, str]:
    """Name and version, as bundle.yaml states them."""
    try:
        content = yaml.safe_load((root / BUNDLE_FILE).read_text(encoding="utf-8"))
        return str(content["name"]), str(content["version"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return "", ""


def open_bundle(root: Path) -> OnShelf:
    """A bundle ready to decide, its scenarios left alone. Raises BundleError."""
    loaded = load_bundle(root, scenarios=False)
    return OnShelf(loaded, make_labels(loaded.plan, "replay"), root)


def directories_of(given: Sequence[Path], shipped: Path, registry: Path) -> tuple[Path, ...]:
    """Where to look for bundles: the directories given, or, without any, the shipped bundle and the registry."""
    return tuple(given) if given else (shipped, registry)
