"""The registry of bundles, and what is sent to it: whole, bounded, and never what it should not hold."""

from __future__ import annotations

import io
import os
import stat
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.bundle.source import digest_of
from engine.errors import BundleError, Refusal
from engine.traffic.registry import BundleRegistry, Stored
from engine.traffic.unpack import unpack_zip


def _bundle(root: Path, text: str = "one") -> Path:
    root.mkdir(parents=True)
    (root / "bundle.yaml").write_text(f"name: {text}\n")
    (root / "policy").mkdir()
    (root / "policy" / "price.json").write_text("{}")
    (root / ".hidden").write_text("secret")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_text("")
    return root


def _take(registry: BundleRegistry, root: Path) -> tuple[Stored, bool]:
    with registry.incoming(root) as incoming:
        return registry.keep(incoming, root.name, "0.1.0", ["b.application", "a.application"])


def test_a_bundle_is_kept_under_its_digest_without_what_is_hidden(tmp_path: Path) -> None:
    root = _bundle(tmp_path / "first")
    registry = BundleRegistry(tmp_path / "bundles")
    stored, known = _take(registry, root)
    assert not known and stored.digest == digest_of(root)
    place = registry.path_of(stored.digest)
    assert digest_of(place) == stored.digest
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*")) == [
        "bundle.yaml",
        "policy",
        "policy/price.json",
    ]
    assert registry.get(stored.digest) == stored
    assert (stored.name, stored.version, stored.flows) == ("first", "0.1.0", ("a.application", "b.application"))
    assert stored.bytes == len("name: one\n{}")
    assert sorted(os.listdir(tmp_path / "bundles")) == sorted([place.name, f"{place.name}.json"])


def test_the_same_bundle_is_kept_once(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles")
    first, _ = _take(registry, _bundle(tmp_path / "first"))
    again, known = _take(registry, _bundle(tmp_path / "second"))
    assert known and again == first
    assert len(registry.all()) == 1


def test_processes_that_bring_the_same_bundle_at_once_both_have_it(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles")
    root = _bundle(tmp_path / "first")
    barrier = threading.Barrier(8)

    def take() -> str:
        with registry.incoming(root) as incoming:
            barrier.wait(20)
            return registry.keep(incoming, "first", "0.1.0", ["a.application"])[0].digest

    with ThreadPoolExecutor(8) as threads:
        assert {one.result() for one in [threads.submit(take) for _ in range(8)]} == {digest_of(root)}
    (stored,) = registry.all()
    assert digest_of(registry.path_of(stored.digest)) == stored.digest == digest_of(root)


def test_one_that_was_changed_by_hand_is_replaced_by_what_its_name_says(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles")
    root = _bundle(tmp_path / "first")
    stored, _ = _take(registry, root)
    (registry.path_of(stored.digest) / "policy" / "price.json").write_text("{1}")
    again, known = _take(registry, root)
    assert not known and again.digest == stored.digest
    assert digest_of(registry.path_of(stored.digest)) == stored.digest


def test_what_is_not_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles")
    with registry.incoming(_bundle(tmp_path / "first")) as incoming:
        assert incoming.path.is_dir()
    assert os.listdir(tmp_path / "bundles") == []
    assert registry.all() == []


@pytest.mark.parametrize("what", ["missing", "file", "large", "unreadable"])
def test_what_cannot_be_copied_is_said(tmp_path: Path, what: str) -> None:
    registry = BundleRegistry(tmp_path / "bundles", bundle_bytes_max=1_000)
    root = tmp_path / "first"
    if what == "file":
        root.write_text("")
    elif what == "large":
        (_bundle(root) / "model.onnx").write_bytes(bytes(1_001))
    elif what == "unreadable":
        (_bundle(root) / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError) as caught, registry.incoming(root):
        pass
    (problem,) = caught.value.problems
    assert problem.file == str(root) and problem.fix
    assert os.listdir(tmp_path / "bundles") == []


def test_a_beginning_of_a_digest_finds_the_only_one(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles")
    stored, _ = _take(registry, _bundle(tmp_path / "first"))
    hexadecimal = stored.digest.removeprefix("sha256:")
    assert registry.find(stored.digest) == registry.find(hexadecimal[:8]) == stored.digest
    for wrong in (
        "",
        "sha256:",
        hexadecimal[:7],
        "0" * 64,
        hexadecimal.upper(),
        "../" + hexadecimal,
        hexadecimal + "0",
    ):
        with pytest.raises(Refusal) as caught:
            registry.find(wrong)
        assert caught.value.reason == "BUNDLE_NOT_FOUND"


def test_pruning_spares_what_is_needed_and_what_was_served_last(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles", keep_max=2)
    digests = [_take(registry, _bundle(tmp_path / f"b{n}", f"b{n}"))[0].digest for n in range(6)]
    registry.note_served([digests[0]], 10)
    registry.note_served([digests[1]], 30)
    registry.note_served([digests[2]], 20)
    removed = registry.prune({digests[0], digests[5]})
    # Of those not needed, the two that were served stay; those never served go.
    assert sorted(removed) == sorted([digests[3], digests[4]])
    assert {one.digest for one in registry.all()} == {digests[0], digests[1], digests[2], digests[5]}
    registry = BundleRegistry(tmp_path / "bundles", keep_max=1)
    assert registry.prune({digests[0]}) == [digests[5], digests[2]]
    assert registry.prune({digests[0]}) == []


def test_facts_that_are_lost_cost_no_bundle(tmp_path: Path) -> None:
    registry = BundleRegistry(tmp_path / "bundles")
    stored, _ = _take(registry, _bundle(tmp_path / "first"))
    registry.path_of(stored.digest).with_suffix(".json").write_text("{torn")
    found = registry.get(stored.digest)
    assert found is not None and found.digest == stored.digest and found.name == ""


def test_copies_that_a_crash_left_go_once_they_are_old(tmp_path: Path) -> None:
    for name, age_s in (("old", 7_200), ("young", 60)):
        left = tmp_path / "bundles" / f".incoming-{name}"
        left.mkdir(parents=True)
        moment = os.stat(left).st_mtime - age_s
        os.utime(left, (moment, moment))
    BundleRegistry(tmp_path / "bundles")
    assert os.listdir(tmp_path / "bundles") == [".incoming-young"]


# --- what is sent -------------------------------------------------------------------------------------------------


def _zip(entries: dict[str, bytes], *, mode: int = 0) -> io.BytesIO:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    content.seek(0)
    return content


def test_a_zip_file_is_unpacked(tmp_path: Path) -> None:
    unpack_zip(_zip({"bundle.yaml": b"name: x", "policy/price.json": b"{}"}), tmp_path / "out", 100)
    assert (tmp_path / "out" / "policy" / "price.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "a\\..\\outside", ".."])
def test_nothing_is_unpacked_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="outside"):
        unpack_zip(_zip({name: b"x"}), tmp_path / "deep" / "out", 100)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_links_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="plain files"):
        unpack_zip(_zip({"link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777), tmp_path / "out", 100)


def test_what_comes_out_is_bounded_whatever_it_says_of_itself(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="more than 1000000 bytes"):
        unpack_zip(_zip({"zeros": bytes(50_000_000)}), tmp_path / "out", 1_000_000)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) <= 1_000_000


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all" * 100])
def test_what_is_no_zip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="ZIP"):
        unpack_zip(io.BytesIO(content), tmp_path / "out", 100)


def test_a_damaged_zip_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(_zip({"bundle.yaml": os.urandom(10_000)}).getvalue())
    content[5_000] ^= 0xFF
    with pytest.raises(BundleError, match="unpacked"):
        unpack_zip(io.BytesIO(bytes(content)), tmp_path / "out", 100_000)


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("bundle.yaml", "one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("bundle.yaml", "two")
    with pytest.raises(BundleError, match="twice"):
        unpack_zip(content, tmp_path / "out", 100)
