"""Builds stubs and client as a distribution of their own: gen/ and clients/python/ -> dist/assay_stubs-*.whl.

Needs no network: the build runs in this environment, not in a fresh one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "clients" / "python"


def build(out: Path) -> Path:
    """Builds the wheel into the folder `out` and returns its path.

    Raises subprocess.CalledProcessError with the build's output when it fails.
    """
    build_dir = ROOT / "build"
    build_dir.mkdir(exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build_dir, prefix="stubs.") as scratch:
        tree = Path(scratch) / "tree"
        ignored = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build")
        shutil.copytree(CLIENT, tree, ignore=ignored)
        shutil.copy(ROOT / "LICENSE", tree / "LICENSE")
        shutil.copytree(
            ROOT / "gen" / "assay",
            tree / "src" / "assay",
            ignore=ignored,
            dirs_exist_ok=True,
        )
        # PEP 561: the .pyi files count only below a py.typed. A namespace package has it in each of its real packages.
        for folder in {path.parent for path in (tree / "src" / "assay").rglob("*_pb2.py")}:
            (folder / "py.typed").touch()
        wheels = Path(scratch) / "wheels"
        pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run(
            [*pip_wheel, "--wheel-dir", str(wheels), str(tree)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        (wheel,) = wheels.glob("assay_stubs-*.whl")
        return Path(shutil.copy(wheel, out / wheel.name))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the stubs and the client as a wheel.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheel (default: dist)")
    print(build(parser.parse_args().out))


if __name__ == "__main__":
    main()
