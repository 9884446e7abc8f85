"""Persons erased: what a journal knows of it, and how it is done again to what was restored.

An erasure is known by a keyed hash of the subject (frames of the journal) and by a hash of the entity (the lists beside
it, which reach 31 days back and name devices and the like as well). Neither says who it was; the second can be guessed
by who knows the ids, so a list of erasures is kept like the journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from engine.backup.parts import REAPPLIED_FILE
from engine.erased import FILE_NAME as ENTITIES_FILE
from engine.errors import RecordError
from engine.features.store import entity_prefix, parse_key
from engine.features.stores.embedded import EmbeddedStore
from engine.record.entries import unpack_erasure
from engine.record.key_files import erase_slots, key_files, live_slots
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind

_MARK_BYTES = 16
_BATCH = 1000


class Erasure(NamedTuple):
    """kind: `subject` with the subject's keyed hash, or `entity` with the hash of the prefix of its rows' keys.
    at_us: when, microseconds since 1970 UTC."""

    at_us: int
    kind: str
    mark: bytes

    def line(self) -> str:
        """As it stands in a list."""
        return json.dumps({"at_us": self.at_us, "kind": self.kind, "mark": self.mark.hex()})


class Applied(NamedTuple):
    """How many keys of subjects and rows of features went, of how many erasures that were looked at."""

    keys: int
    rows: int
    erasures: int


def erasures_of(journal: Path, since_us: int = 0) -> list[Erasure]:
    """All erasures that a journal knows of, from a moment on, oldest first. Reads all of it. Raises RecordError."""
    found: set[Erasure] = set()
    reader = JournalReader(journal)
    for worker in reader.workers():
        for item in reader.frames(worker):
            if isinstance(item, Frame) and item.kind == FrameKind.ERASED:
                one = unpack_erasure(item)
                found.add(Erasure(one.moment_us, "subject", one.mark))
    # One of all workers; earlier versions had one each.
    for path in sorted({*journal.glob(ENTITIES_FILE), *journal.glob("velocity.*.erased")}):
        for line in _lines(path):
            mark, _, moment = line.partition(" ")
            try:
                found.add(Erasure(int(moment), "entity", bytes.fromhex(mark)))
            except ValueError:
                continue  # a line that a crash cut short
    if (journal / REAPPLIED_FILE).exists():
        found.update(read_list(journal / REAPPLIED_FILE))
    return sorted(one for one in found if one.at_us >= since_us)


def read_list(path: Path) -> list[Erasure]:
    """A list of erasures as `Erasure.line` writes it. Raises RecordError for one that makes no sense: to leave an
    erasure out in silence would be worse."""
    found = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            erasure = Erasure(int(one["at_us"]), str(one["kind"]), bytes.fromhex(one["mark"]))
            if erasure.kind not in ("subject", "entity") or len(erasure.mark) != _MARK_BYTES:
                raise ValueError("no erasure")
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path}, line {number}, is no erasure: write the list again") from error
        found.append(erasure)
    return found


def note(decisions: Path, erasures: Iterable[Erasure]) -> None:
    """Notes beside a journal that nobody writes what was erased again: for the next list and the next backup, and so
    that what the journal holds of an entity is not counted again. Raises OSError."""
    todo = sorted(erasures)
    entities = [f"{one.mark.hex()} {one.at_us}\n" for one in todo if one.kind == "entity"]
    for name, lines in ((REAPPLIED_FILE, [one.line() + "\n" for one in todo]), (ENTITIES_FILE, entities)):
        if lines:
            fd = os.open(decisions / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(fd)


def apply_to_keys(keys: Path, erasures: Iterable[Erasure]) -> int:
    """Erases the keys that were made before their subject was erased; how many. Raises RecordError."""
    latest: dict[bytes, int] = {}
    for one in erasures:
        if one.kind == "subject":
            latest[one.mark] = max(one.at_us, latest.get(one.mark, 0))
    gone = 0
    try:
        for path in key_files(keys) if latest else ():
            slots = [slot for slot, key in live_slots(path) if latest.get(key.mark, -1) >= key.created_us]
            gone += erase_slots(path, slots)
    except OSError as error:
        raise RecordError(f"keys of erased persons cannot be erased in {keys}: {error.strerror}") from error
    return gone


def apply_to_features(
    features: Path, erasures: Iterable[Erasure], subjects: Iterable[str], master: MasterKey | None
) -> int:
    """Deletes all rows of what was erased from an embedded store; how many. subjects: the entities whose ids are
    subjects'. Raises StoreError."""
    todo = list(erasures)
    entities = {one.mark for one in todo if one.kind == "entity"}
    persons = {one.mark for one in todo if one.kind == "subject"} if master is not None else set()
    if not entities and not persons:
        return 0
    kinds, keys, gone = set(subjects), [], 0
    store = EmbeddedStore(features)
    try:
        for key, _ in store.scan():
            try:
                entity, entity_id, _ = parse_key(key)
            except ValueError:
                continue
            mark = blake2b(entity_prefix(entity, entity_id), digest_size=_MARK_BYTES).digest()
            if mark in entities or (
                persons and entity in kinds and master is not None and master.subject_mark(entity_id) in persons
            ):
                keys.append(key)
        for start in range(0, len(keys), _BATCH):
            gone += store.delete(keys[start : start + _BATCH])
    finally:
        store.close()
    return gone


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
