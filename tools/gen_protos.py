"""Generates the Python stubs from protos/ into gen/, with types, and lays out the common protos for buf.

    python tools/gen_protos.py            # protos/ -> gen/, google/type and google/rpc -> build/third_party/

`gen/assay` gets no `__init__.py`: `assay` is a namespace package, so that another distribution may add to it. Files are
put in place one by one with a rename, so a run beside another, or beside a program that imports the stubs, never shows
half a file.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"
THIRD_PARTY = ROOT / "build" / "third_party"
COMMON = ("google/rpc", "google/type")


def main() -> int:
    """Returns the exit code of protoc; 0 when every stub is in place."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build, prefix="gen.") as scratch:
        common = Path(scratch) / "third_party"
        _copy_common(common)
        out = Path(scratch) / "gen"
        out.mkdir()
        code = _protoc(common, out)
        if code != 0:
            return code
        _put_in_place(common, THIRD_PARTY)
        _put_in_place(out, GEN)
    return 0


def _copy_common(target: Path) -> None:
    """Copies the .proto files that googleapis-common-protos brings along, and no others."""
    for folder in COMMON:
        source = resources.files(folder.replace("/", "."))
        (target / folder).mkdir(parents=True)
        for entry in source.iterdir():
            if entry.name.endswith(".proto"):
                (target / folder / entry.name).write_bytes(entry.read_bytes())


def _protoc(common: Path, out: Path) -> int:
    from grpc_tools import protoc

    # protoc finds the plug-ins of mypy-protobuf by name; they stand beside this interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    wellknown = resources.files("grpc_tools") / "_proto"
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    return int(
        protoc.main(
            [
                "protoc",
                f"--proto_path={PROTOS}",
                f"--proto_path={common}",
                f"--proto_path={wellknown}",
                f"--python_out={out}",
                f"--grpc_python_out={out}",
                f"--mypy_out=quiet:{out}",
                f"--mypy_grpc_out=quiet:{out}",
                *files,
            ]
        )
    )


def _put_in_place(source: Path, target: Path) -> None:
    """Makes `target` hold exactly the files of `source`. Unchanged files and hidden ones (make's stamp) are let be."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for relative in sorted(wanted):
        new, old = source / relative, target / relative
        if old.is_file() and old.read_bytes() == new.read_bytes():
            continue
        old.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new, old)
    for old in [path for path in target.rglob("*") if path.is_file()]:
        if old.relative_to(target) not in wanted and "__pycache__" not in old.parts and old.name[0] != ".":
            old.unlink(missing_ok=True)
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        if not any(part for part in folder.rglob("*") if part.is_file() and part.suffix != ".pyc"):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
