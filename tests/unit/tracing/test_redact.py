"""Hashed ids and the key that they are hashed with."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.telemetry.tracing.redact import IdHasher, load_key


def test_a_hash_needs_the_key_and_the_kind_of_id() -> None:
    one, other = IdHasher(b"k" * 32), IdHasher(b"l" * 32)
    assert one.subject("4711") == IdHasher(b"k" * 32).subject("4711")
    assert len({one.subject("4711"), one.request("4711"), other.subject("4711"), one.subject("4712")}) == 4
    assert len(one.subject("4711")) == 16
    assert "4711" not in one.subject("4711")
    assert one.subject("\ud800")  # a caller may send anything


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_that_is_too_short_or_too_long_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="16 to 64"):
        IdHasher(b"k" * size)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "trace.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_key(file), range(32)))
    assert keys == {load_key(file)}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(load_key(file)) == 32
    assert [one.name for one in file.parent.iterdir()] == ["trace.key"]


@pytest.mark.parametrize(("content", "mode", "why"), [("", 0o600, "0 bytes"), ("xyz", 0o600, "hexadecimal")])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: str, mode: int, why: str) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=why):
        load_key(file)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ab" * 32)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="read by others"):
        load_key(file)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_key(tmp_path)
