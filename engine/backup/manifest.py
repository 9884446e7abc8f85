"""The manifest of a backup: every file with its length and SHA-256, signed with the master key where there is one."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.backup.parts import MANIFEST_FILE
from engine.errors import RecordError

FORMAT = "assay-backup-1"
_CHUNK_BYTES = 1 << 20
_MANIFEST_BYTES_MAX = 256 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its path inside the backup, its length and the SHA-256 of its bytes."""

    path: str
    bytes: int
    sha256: str


@dataclass(slots=True)
class Manifest:
    """What a backup holds.

    started_us, finished_us: microseconds since 1970 UTC; what happened after the first may be missing, what happened
    after the second is. parts: which are there. store_kind: of the settings. master_key: tells which key seals it, and
    nothing else of it. chains: for each worker the number of its last record and that record's link, in hexadecimal.
    subjects: the entities whose ids are subjects'. findings: what was not right with the journal when it was copied.
    """

    started_us: int
    engine: str
    store_kind: str
    master_key: str = ""
    finished_us: int = 0
    parts: list[str] = field(default_factory=list)
    chains: dict[str, tuple[int, str]] = field(default_factory=dict)
    decisions: int = 0
    subjects: list[str] = field(default_factory=list)
    findings: int = 0
    notes: list[str] = field(default_factory=list)
    files: list[FileEntry] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.bytes for entry in self.files)

    def write(self, directory: Path, key: bytes | None) -> None:
        """Puts the manifest beside the files. key: signs it. Raises OSError."""
        body = {"format": FORMAT, **asdict(self)}
        body["signature"] = "" if key is None else _sign(body, key)
        path = directory / MANIFEST_FILE
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        path.chmod(0o600)


def read_manifest(directory: Path, key: bytes | None) -> Manifest:
    """The manifest of a backup. key: what it must be signed with, if it is signed; None: not looked at.

    Raises RecordError for a directory that holds no backup, one of a newer version, or one that was altered."""
    path = directory / MANIFEST_FILE
    try:
        if path.stat().st_size > _MANIFEST_BYTES_MAX:
            raise RecordError(f"{path} is too large for a manifest")
        body: dict[str, Any] = dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise RecordError(f"{directory} holds no whole backup: there is no {MANIFEST_FILE}") from error
    except (OSError, ValueError, TypeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    if body.get("format") != FORMAT:
        raise RecordError(f"{path} is of a form that this version does not know")
    signature = body.pop("signature", "")
    if key is not None and signature and not hmac.compare_digest(str(signature), _sign(body, key)):
        raise RecordError(f"{path} was altered, or signed with another master key")
    try:
        del body["format"]
        files = [FileEntry(str(one["path"]), int(one["bytes"]), str(one["sha256"])) for one in body.pop("files")]
        chains = {str(name): (int(at), str(link)) for name, (at, link) in body.pop("chains").items()}
        return Manifest(**body, files=files, chains=chains)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} makes no sense: {error}") from error


def digest_file(path: Path) -> tuple[int, str]:
    """A file's length and the SHA-256 of its bytes. Raises OSError."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _sign(body: Mapping[str, object], key: bytes) -> str:
    content = json.dumps(body, sort_keys=True).encode()
    return hashlib.blake2b(content, key=key, digest_size=32, person=b"backup").hexdigest()
