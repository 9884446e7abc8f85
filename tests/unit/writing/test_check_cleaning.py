"""Mistakes in what the catalogue says of cleaning are told with their place, and the shipped bundle has none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.check_cleaning import check_cleaning
from engine.bundle.schema import FeaturesFile
from engine.bundle.source import Document, Source
from tests.support.bundles import BUNDLE
from tests.support.catalogue import FEATURES, write_catalogue


def problems_of(root: Path) -> list[tuple[str, str]]:
    """(place, message) of all that is wrong."""
    source = Source(root)
    file, document = source.read_as("features.yaml", FeaturesFile, named_by="test")
    assert isinstance(file, FeaturesFile) and isinstance(document, Document), source.problems
    check_cleaning(file, document, source)
    return [(problem.place, problem.message) for problem in source.problems]


@pytest.mark.parametrize(
    ("feature", "cleaning", "place", "told"),
    [
        ("employed", {"units": {"percent": 0.01}}, "cleaning.units (line", "type boolean"),
        ("status", {"units": {"percent": 0.01}}, "cleaning.units (line", "type category"),
        ("default_at", {"units": {"ms": 0.001}}, "cleaning.units (line", "type timestamp"),
        ("arrears", {"units": {"dozens": 12}}, "cleaning.units (line", "no unit"),
        ("income", {"units": {"EUR/month": 1}}, "cleaning.units.EUR/month (line", "own unit"),
        ("balance", {"outside": "clip"}, "cleaning.outside (line", "no range"),
        ("balance", {"outside": "drop"}, "cleaning.outside (line", "no range"),
        ("employed", {"outside": "drop"}, "cleaning.outside (line", "type boolean"),
        ("status", {"outside": "clip"}, "cleaning.outside (line", "type category"),
        ("income", {"map": {"a": "b"}}, "cleaning.map (line", "type float"),
        ("income", {"unknown": "drop"}, "cleaning.unknown (line", "type float"),
        ("status", {"map": {"D": "divorced"}}, "cleaning.map.D (line", "'divorced'"),
        ("status", {"map": {"single": "married"}}, "cleaning.map.single (line", "never mapped"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, feature: str, cleaning: dict[str, Any], place: str, told: str
) -> None:
    features = copy.deepcopy(FEATURES)
    features["views"]["file"]["features"][feature]["cleaning"] = cleaning
    ((where, message),) = problems_of(write_catalogue(tmp_path, features))
    assert where.startswith(f"views.file.features.{feature}.{place}")
    assert told in message


def test_clipping_to_a_range_without_a_whole_number(tmp_path: Path) -> None:
    features = copy.deepcopy(FEATURES)
    features["views"]["file"]["features"]["arrears"] |= {"range": [0.2, 0.8], "cleaning": {"outside": "clip"}}
    ((where, message),) = problems_of(write_catalogue(tmp_path, features))
    assert "arrears.cleaning.outside" in where and "no whole number" in message


def test_what_nobody_writes_has_nothing_to_clean(tmp_path: Path) -> None:
    features = copy.deepcopy(FEATURES)
    features["views"]["seen"]["features"]["device_since"]["cleaning"] = {"units": {"minutes": 60}}
    features["request"] = {"age": {"type": "integer", "description": "Age", "cleaning": {"outside": "clip"}}}
    found = problems_of(write_catalogue(tmp_path, features))
    assert [where.split(" ")[0] for where, _ in found] == [
        "views.seen.features.device_since.cleaning",
        "request.age.cleaning",
    ]


def test_the_catalogue_of_tests_and_the_shipped_one_have_no_mistake(tmp_path: Path) -> None:
    assert problems_of(write_catalogue(tmp_path)) == []
    assert problems_of(BUNDLE) == []
