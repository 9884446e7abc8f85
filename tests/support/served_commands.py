"""`assay` beside a server of the tests: as an operator calls it, with the server's own settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.bundles import BUNDLE
from tests.support.server import environment


def assay(
    home: Path,
    *words: str,
    bundle: Path = BUNDLE,
    settings: Mapping[str, str] | None = None,
    timeout_s: float = 200.0,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", *words],
        env=environment(home, bundle, settings),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def assert_journal_is_whole(home: Path, settings: Mapping[str, str] | None = None) -> None:
    """What `assay audit verify` finds."""
    done = assay(home, "audit", "verify", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The journal is whole." in done.stdout
    assert "Signatures were not checked" not in done.stdout
