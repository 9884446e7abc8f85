"""Spark on this machine, for who has it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

MASTER = "local[2]"


def needed() -> None:
    """Says by name what is not here."""
    pytest.importorskip("pyspark", reason="PySpark is not installed: pip install 'assay-engine[spark]'")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'assay-engine[load]'")
    java = shutil.which("java")
    if java is None or subprocess.run([java, "-version"], capture_output=True, check=False).returncode:
        pytest.skip("Java is not installed: Spark needs Java 17 or later")
