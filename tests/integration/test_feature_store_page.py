"""The commands of docs/feature-store.md work as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from assay.feature.v1 import feature_pb2
from engine.features.writing.outcome import RejectReason
from tests.support.server import ROOT, ServerProcess, environment

PAGE = (ROOT / "docs" / "feature-store.md").read_text("utf-8")


def test_the_commands_end_as_they_are_said_to(tmp_path: Path) -> None:
    blocks = re.findall(r"(?:<!-- exit: (\d) -->\n)?```sh\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) == 5
    assay = f'assay() {{ {shlex.quote(sys.executable)} -m engine.cli "$@"; }}\n'
    for code, block in blocks:
        done = subprocess.run(
            ["bash", "-euc", assay + block],
            env=environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == int(code or 0), block + done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert "age_years,OUT_OF_RANGE" in (tmp_path / "rejected.csv").read_text("utf-8")
    assert '"employment_status"' in (tmp_path / "c-1001.json").read_text("utf-8")


def test_the_example_of_events_counts_them(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    exec(compile(snippet.replace("127.0.0.1:50051", server.address), "feature-store.md", "exec"), {})
    assert capsys.readouterr().out == "1 1 0 0\n"


def test_every_reason_has_its_line() -> None:
    table = PAGE[PAGE.index("| reason | what it means |") : PAGE.index("Errors, logs and metrics")]
    assert set(re.findall(r"`([A-Z][A-Z_]+)`", table)) == {reason.name for reason in RejectReason}
    assert len(RejectReason) == len(feature_pb2.RejectReason.items()) - 1
