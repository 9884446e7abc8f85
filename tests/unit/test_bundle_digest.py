"""The digest of a bundle: the same files give the same one anywhere, and any byte changes it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine.bundle.load import load_bundle
from engine.bundle.source import digest_of
from tests.support import tiny


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.write_bundle(tmp_path / "tiny")


def test_a_copy_elsewhere_has_the_same_digest(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "deep" / "er" / "place"
    # Files made in another order, with other times and rights.
    other.mkdir(parents=True)
    for path in sorted(bundle.rglob("*"), reverse=True):
        target = other / path.relative_to(bundle)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target, (0, 0))
            target.chmod(0o600)
    assert load_bundle(other).plan.digest == load_bundle(bundle).plan.digest == digest_of(bundle)


def test_any_byte_of_any_file_changes_it(bundle: Path) -> None:
    before = digest_of(bundle)
    for path in [p for p in bundle.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        for spoilt in (content[:-1] + bytes([content[-1] ^ 1]), content + b" ", bytes([content[0] ^ 1]) + content[1:]):
            path.write_bytes(spoilt)
            assert digest_of(bundle) != before, path
        path.write_bytes(content)
    assert digest_of(bundle) == before


def test_names_of_files_count(bundle: Path) -> None:
    before = digest_of(bundle)
    card = bundle / "card.md"
    card.write_text("x")
    added = digest_of(bundle)
    assert added != before
    card.rename(bundle / "cards.md")
    assert digest_of(bundle) not in (before, added)


def test_what_editors_and_systems_leave_behind_does_not_count(bundle: Path) -> None:
    before = digest_of(bundle)
    (bundle / ".DS_Store").write_bytes(b"x")
    (bundle / ".git").mkdir()
    (bundle / ".git" / "HEAD").write_text("x")
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert digest_of(bundle) == before


@pytest.mark.parametrize("hidden", [".policy/price.json", "__pycache__/price.json", "policy/.price.json"])
def test_what_does_not_count_cannot_decide_either(bundle: Path, hidden: str) -> None:
    from tests.support.bundles import problems_of

    target = bundle / hidden
    target.parent.mkdir(exist_ok=True)
    (bundle / "policy" / "price.json").rename(target)
    tiny.change(bundle / "flows" / "tiny_loan.yaml", ["policy", "tables", "price"], hidden)
    assert problems_of(bundle)
