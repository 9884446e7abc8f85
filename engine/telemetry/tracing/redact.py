"""Ids that may be shown: a keyed hash in place of the id itself.

A plain hash of a national number is undone by hashing every number there is; without the key that cannot be done. Who
holds the key and an id can find its traces. Another key for another installation keeps their traces apart.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from engine.errors import ConfigError, Problem

KEY_BYTES = 32
_HASH_BYTES = 8


class IdHasher:
    """Hashes ids with one key. A hash is 16 hexadecimal digits.

    The kind of the id goes in as well, so that a subject and a device of the same id have nothing to do with one
    another.
    """

    def __init__(self, key: bytes) -> None:
        """key: 16 to 64 secret bytes. Raises ValueError for another length."""
        if not 16 <= len(key) <= 64:
            raise ValueError("the key of hashed ids needs 16 to 64 bytes")
        # The key is taken in once; each hash goes on from there.
        self._request, self._subject = (
            blake2b(key=key, digest_size=_HASH_BYTES, person=kind).copy for kind in (b"request", b"subject")
        )

    def subject(self, subject_id: str) -> str:
        """A subject's id, hashed."""
        state = self._subject()
        state.update(subject_id.encode("utf-8", "replace"))
        return state.hexdigest()

    def request(self, request_id: str) -> str:
        """A request's id, hashed."""
        state = self._request()
        state.update(request_id.encode("utf-8", "replace"))
        return state.hexdigest()


def load_key(path: Path) -> bytes:
    """The key in a file; one is made, readable by its owner alone, when there is no file yet.

    Raises ConfigError for a file that cannot be used: one that others may read does not hold a secret.
    """
    try:
        if not path.exists():
            _make_key(path)
        if path.stat().st_mode & 0o077:
            raise _mistake(path, "can be read by others", f"Run `chmod 600 {path}`, or remove it to have another made.")
        key = bytes.fromhex(path.read_text("ascii").strip())
    except OSError as error:
        raise _mistake(path, f"cannot be used ({error.strerror})", "Name a file in a directory that exists.") from error
    except ValueError as error:
        raise _mistake(path, "holds no hexadecimal key", "Remove it to have another made.") from error
    if not 16 <= len(key) <= 64:
        raise _mistake(path, f"holds {len(key)} bytes, not 16 to 64", "Remove it to have another made.")
    return key


def _make_key(path: Path) -> None:
    """Puts a new key in place whole, or leaves the one that another process has put there meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # for its owner alone
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(os.urandom(KEY_BYTES).hex() + "\n")
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)


def _mistake(path: Path, message: str, fix: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", message, fix)])
