"""Batches on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.telemetry.tracing.spill import Spill, SpillBusy


def everything(spill: Spill) -> list[tuple[bytes, int]]:
    found = []
    while (one := spill.oldest()) is not None:
        file, body, spans = one
        found.append((body, spans))
        assert spill.drop(file) == spans
    return found


def test_what_was_put_first_comes_first_and_what_a_former_process_left_too(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 1000)
    assert [spill.put(b"%d" % n, n) for n in range(3)] == [0, 0, 0]
    spill.close()
    again = Spill(tmp_path, 1000)
    assert (len(again), again.bytes) == (3, 3)
    again.put(b"3", 3)
    assert everything(again) == [(b"0", 0), (b"1", 1), (b"2", 2), (b"3", 3)]
    assert (len(again), again.bytes) == (0, 0)
    again.close()


def test_the_oldest_make_room(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 100)
    assert [spill.put(b"x" * 40, n) for n in (1, 2)] == [0, 0]
    assert spill.put(b"y" * 90, 7) == 3
    assert spill.put(b"z" * 101, 9) == 9
    assert everything(spill) == [(b"y" * 90, 7)]
    assert sum(file.stat().st_size for file in tmp_path.glob("*.otlp")) == 0
    spill.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 100)
    with pytest.raises(SpillBusy):
        Spill(tmp_path, 100)
    spill.close()
    spill.close()
    Spill(tmp_path, 100).close()


def test_drafts_that_were_never_finished_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000001-5.draft").write_bytes(b"half")
    spill = Spill(tmp_path, 100)
    assert spill.oldest() is None
    assert not list(tmp_path.glob("*.draft"))
    spill.close()


def test_a_file_that_somebody_removed_is_left_out(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 100)
    spill.put(b"a", 1)
    spill.put(b"b", 2)
    sorted(tmp_path.glob("*.otlp"))[0].unlink()
    assert everything(spill) == [(b"b", 2)]
    spill.close()


def test_a_directory_that_cannot_be_written_counts_the_spans(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 100)
    (tmp_path / "moved").mkdir()
    spill._path = tmp_path / "nowhere"
    assert spill.put(b"a", 4) == 4
    assert spill.bytes == 0
    spill.close()
