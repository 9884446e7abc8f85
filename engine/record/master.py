"""The deployment's master key: what is derived from it seals personal parts, hashes subjects and payloads, and signs.

One file of 32 bytes in hexadecimal, for its owner alone, made on the first start. Without it every sealed part is lost
and every signature unproven: it is to be backed up, apart from the journal.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path

from engine.errors import ConfigError, Problem

KEY_BYTES = 32
# The first byte of a keyed digest, which makes it one longer than the plain SHA-256 of earlier versions.
_KEYED = b"\x01"
_BLOCK_BYTES = 64


class MasterKey:
    """The keys that follow from the master key. Safe to use from several threads."""

    def __init__(self, key: bytes) -> None:
        """key: 32 secret bytes. Raises ValueError for another length."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")

        def derive(purpose: bytes) -> bytes:
            return blake2b(key=key, digest_size=32, person=purpose).digest()

        purposes = (b"subject keys", b"subjects", b"payloads", b"heads", b"fingerprint")
        self.__setstate__(tuple(map(derive, purposes)))

    def __getstate__(self) -> tuple[bytes, ...]:
        """The keys, for processes that read sealed records: of subjects' keys, subjects, payloads, heads, and the
        fingerprint. Hashes cannot be sent."""
        return self._keys

    def __setstate__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys
        subject_keys, subjects, payloads, heads, fingerprint = keys
        # Hashes that have taken their key already; a copy of one is half as dear as another.
        self._wrap = blake2b(key=subject_keys, digest_size=32)
        self._mark = blake2b(key=subjects, digest_size=16)
        # HMAC-SHA-256 (RFC 2104): the inner hash and the outer one.
        block = payloads.ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))
        # Signs the heads of chains.
        self.heads = heads
        # Tells two master keys apart, and nothing else of them.
        self.fingerprint = fingerprint[:8]

    @classmethod
    def load(cls, path: Path, journal: Path) -> MasterKey:
        """The key in a file. It is made when there is none and nothing in the journal's directory was sealed yet.

        Raises ConfigError for a file that cannot be used: one that others may read does not hold a secret.
        """
        try:
            if not path.exists():
                if any((journal / "keys").glob("*.keys")):
                    raise _mistake(
                        path, f"is gone, and {journal} holds records sealed with it", "Restore it from its backup."
                    )
                _make_key(path)
        except OSError as error:
            raise _mistake(
                path, f"cannot be made ({error.strerror})", "Name a file in a directory to write."
            ) from error
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> MasterKey:
        """The key in a file that is there. Raises ConfigError for one that cannot be used."""
        try:
            if path.stat().st_mode & 0o077:
                raise _mistake(path, "can be read by others", f"Run `chmod 600 {path}`.")
            return cls(bytes.fromhex(path.read_text("ascii").strip()))
        except OSError as error:
            raise _mistake(path, f"cannot be read ({error.strerror})", "Name the file of the master key.") from error
        except ValueError as error:
            raise _mistake(path, f"holds no key of {KEY_BYTES} bytes", "Restore it from its backup.") from error

    def subject_mark(self, subject: str) -> bytes:
        """A subject's keyed hash, 16 bytes: the same on every host with this key."""
        content = self._mark.copy()
        content.update(subject.encode("utf-8", "replace"))
        return content.digest()

    def payload_digest(self, payload: bytes) -> bytes:
        """The keyed digest of a request's payload, 33 bytes: nobody can confirm a guess at the payload without the key.
        `plain_digest` is what earlier versions kept."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(payload)
        outer.update(inner.digest())
        return _KEYED + outer.digest()

    def wrap_key(self, secret: bytes) -> bytes:
        """The key of 32 bytes that a subject's stored secret stands for. Each is worth nothing without the other."""
        content = self._wrap.copy()
        content.update(secret)
        return content.digest()


def _make_key(path: Path) -> None:
    """Puts a new key in place whole and for good, or leaves the one that another process has put there meanwhile."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # for its owner alone
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(os.urandom(KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _mistake(path: Path, message: str, fix: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", message, fix)])
