"""The embedded store: LMDB, a memory-mapped B-tree in one directory. No server; several processes read and write it.

Readers never wait for writers. Writers of all processes take turns. Every read transaction is short, taken under one
lock and ended before the lock goes: LMDB may only be grown while this process has none open. A thread that wants the
lock waits some microseconds at most, and LMDB's reads hold the interpreter's own lock anyway.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NoReturn

import lmdb

from engine.errors import StoreError
from engine.features.store import (
    Change,
    StoreCorrupt,
    StoreTimeout,
    StoreUnavailable,
    WriteResult,
    check_event_time,
    entity_prefix,
    event_time_of,
    parse_key,
)

# What runs in a write transaction. It may run again from the start, so it keeps nothing between runs.
_Work = Callable[["lmdb.Transaction[bytes]"], int]

_ROWS, _SCHEMAS = b"rows", b"schemas"
_BATCH = 1000
_MAX_READERS = 1024
_READ_ALL = """
import sys, lmdb
env = lmdb.open(sys.argv[1], readonly=True, lock=False, create=False, max_dbs=2)
for name in (b"rows", b"schemas"):
    with env.begin(env.open_db(name, create=False)) as txn:
        for _ in txn.cursor():
            pass
"""


class EmbeddedStore:
    """Rows in an LMDB environment.

    directory: made if it is not there, for this user alone (0700; files 0600). readonly: refuses writes, and the
    store must exist. durability: "disk" reaches the disk before a write returns; "process" survives the death of the
    process, and a loss of power may then cost the whole store, so it is for rows that can be loaded again.
    map_bytes: address space to start with; it doubles by itself up to max_map_bytes, and costs neither memory nor
    disk until it is filled.

    One process may open a directory once. A forked child opens it anew by itself on first use.
    """

    name = "embedded"

    def __init__(
        self,
        directory: str | Path,
        *,
        readonly: bool = False,
        durability: Literal["disk", "process"] = "disk",
        map_bytes: int = 1 << 30,
        max_map_bytes: int = 1 << 40,
    ) -> None:
        """Raises StoreUnavailable, StoreCorrupt."""
        self._directory = Path(directory)
        self._readonly = readonly
        self._durability = durability
        self._map_bytes = map_bytes
        self._max_map_bytes = max_map_bytes
        self._closed = False
        self._forget()
        self._open()
        _forkable.add(self)

    def _forget(self) -> None:
        """Start without an environment, and with locks that nobody holds."""
        self._env: lmdb.Environment | None = None
        self._read_lock = threading.Lock()
        # Taken before the read lock where both are needed.
        self._write_lock = threading.RLock()

    def _open(self) -> lmdb.Environment:
        with self._write_lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._env is not None:
                return self._env
            try:
                if not self._readonly:
                    self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                env = lmdb.open(
                    str(self._directory),
                    map_size=self._map_bytes,
                    readonly=self._readonly,
                    create=not self._readonly,
                    sync=self._durability == "disk",
                    # Without it a crash of the machine may undo the last write, but never harms the file.
                    metasync=self._durability == "disk",
                    mode=0o600,
                    max_dbs=2,
                    max_readers=_MAX_READERS,
                    max_spare_txns=16,
                )
                try:
                    env.reader_check()  # frees the slots of processes that were killed
                    while True:
                        try:
                            self._check_length(env)
                            self._rows = env.open_db(_ROWS, create=not self._readonly)
                            self._schemas = env.open_db(_SCHEMAS, create=not self._readonly)
                            break
                        except lmdb.MapResizedError:  # another process is making room right now
                            env.set_mapsize(0)
                except BaseException:
                    env.close()
                    raise
            except (lmdb.Error, OSError) as e:
                _fail(e)
            self._env = env
            return env

    def _check_length(self, env: lmdb.Environment) -> None:
        """A file that was cut short kills the process at the first page that is not there. A short file need not be
        one (pages that were taken and given back at once are never written), so another process reads all of it first.
        """
        least_bytes = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        found_bytes = (self._directory / "data.mdb").stat().st_size
        if found_bytes >= least_bytes:
            return
        done = subprocess.run([sys.executable, "-c", _READ_ALL, str(self._directory)], capture_output=True, check=False)
        if done.returncode:
            raise StoreCorrupt(f"{self._directory}: the file is cut short: {found_bytes} of {least_bytes} bytes")

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says. The rows are of one moment."""
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise StoreTimeout("no time left to read")
        try:
            env = self._env
            with self._read_lock, (env or self._open()).begin(self._rows) as txn:
                return list(map(txn.get, keys))
        except lmdb.MapResizedError:
            self._follow()
            return self.read(keys, deadline_s)
        except lmdb.Error as e:
            _fail(e)

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says, in transactions of up to 1,000 rows. Keeps rows until they are deleted."""
        self._writable()
        written = ignored = 0
        todo = iter(rows)
        while batch := list(islice(todo, _BATCH)):
            for _, value, event_time_us in batch:
                check_event_time(value, event_time_us)
            fresh = self._in_transaction(partial(self._put, batch))
            written += fresh
            ignored += len(batch) - fresh
        return WriteResult(written, ignored)

    def _put(self, batch: Sequence[tuple[bytes, bytes, int]], txn: lmdb.Transaction[bytes]) -> int:
        written = 0
        for key, value, event_time_us in batch:
            held = txn.get(key, db=self._rows)
            if held is None or (event_time_of(held), held) < (event_time_us, value):
                txn.put(key, value, db=self._rows)
                written += 1
        return written

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says, in transactions of up to 1,000 changes."""
        self._writable()
        held: list[bytes | None] = []
        todo = iter(changes)
        while batch := list(islice(todo, _BATCH)):
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise StoreTimeout("no time left to write")
            found: list[bytes | None] = []
            self._in_transaction(partial(self._change, batch, found))
            held += found
        return held

    def _change(
        self,
        batch: Sequence[tuple[bytes, Change]],
        found: list[bytes | None],
        txn: lmdb.Transaction[bytes],
    ) -> int:
        found.clear()  # of an attempt that ran out of room
        for key, change in batch:
            old = txn.get(key, db=self._rows)
            new = change(old)
            if new is not None:
                txn.put(key, new, db=self._rows)
            found.append(old if new is None else new)
        return len(found)

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says, in one transaction."""
        self._writable()
        return self._in_transaction(lambda txn: sum(txn.delete(key, db=self._rows) for key in keys))

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As the protocol says, in one transaction."""
        self._writable()
        prefix = entity_prefix(entity, entity_id)

        def delete(txn: lmdb.Transaction[bytes]) -> int:
            keys = []
            cursor = txn.cursor(self._rows)
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix):
                        break
                    if parse_key(key).entity_id == entity_id:
                        keys.append(key)
            for key in keys:
                txn.delete(key, db=self._rows)
            return len(keys)

        return self._in_transaction(delete)

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says, in the order of the keys."""
        start = prefix
        while page := self._page(prefix, start):
            yield from page
            start = page[-1][0] + b"\0"

    def _page(self, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        try:
            with self._read_lock, (self._env or self._open()).begin(self._rows) as txn:
                cursor = txn.cursor()
                if not (cursor.set_range(start) if start else cursor.first()):
                    return []
                page = list(islice(cursor.iternext(), _BATCH))
        except lmdb.MapResizedError:
            self._follow()
            return self._page(prefix, start)
        except lmdb.Error as e:
            _fail(e)
        return [(key, value) for key, value in page if key.startswith(prefix)]

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says."""
        if self.get_schema(fingerprint) != canonical:
            self._writable()
            self._in_transaction(lambda txn: int(txn.put(fingerprint, canonical, db=self._schemas)))

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says."""
        try:
            with self._read_lock, (self._env or self._open()).begin(self._schemas) as txn:
                return txn.get(fingerprint)
        except lmdb.MapResizedError:
            self._follow()
            return self.get_schema(fingerprint)
        except lmdb.Error as e:
            _fail(e)

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says."""
        try:
            with self._read_lock, (self._env or self._open()).begin(self._schemas) as txn:
                return iter(list(txn.cursor().iternext()))
        except lmdb.MapResizedError:
            self._follow()
            return self.schemas()
        except lmdb.Error as e:
            _fail(e)

    def ping(self) -> None:
        """As the protocol says."""
        self.get_schema(b"ping")

    def close(self) -> None:
        """As the protocol says."""
        with self._write_lock, self._read_lock:
            self._closed = True
            env, self._env = self._env, None
            if env is not None:
                env.close()

    def _writable(self) -> None:
        if self._readonly:
            raise StoreUnavailable("the store was opened for reading only")

    def _in_transaction(self, work: _Work) -> int:
        """Run `work` in a write transaction and commit it, making room first as often as it takes."""
        with self._write_lock:
            while True:
                env = self._env or self._open()
                try:
                    with env.begin(write=True) as txn:
                        return work(txn)
                except lmdb.MapFullError:
                    self._grow(env)
                except lmdb.MapResizedError:
                    self._follow()
                except (lmdb.Error, OSError) as e:
                    _fail(e)

    def _grow(self, env: lmdb.Environment) -> None:
        larger = 2 * env.info()["map_size"]
        if larger > self._max_map_bytes:
            raise StoreUnavailable(
                f"the store is full: {self._directory} may not grow beyond {self._max_map_bytes} bytes"
            )
        with self._read_lock:
            env.set_mapsize(larger)

    def _follow(self) -> None:
        """Another process made room: take its map size over."""
        with self._write_lock, self._read_lock:
            if self._env is not None:
                try:
                    self._env.set_mapsize(0)
                except (lmdb.Error, MemoryError) as e:  # a size that makes no sense
                    raise StoreCorrupt(f"{self._directory}: the file says that it has another size") from e


def _fail(e: Exception) -> NoReturn:
    corrupt = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)
    kind: type[StoreError] = StoreCorrupt if isinstance(e, corrupt) else StoreUnavailable
    raise kind(f"the embedded store failed: {e}") from e


_forkable: weakref.WeakSet[EmbeddedStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_forkable):
        env = store._env
        store._forget()
        if env is not None:
            # In a child this frees memory and leaves the parent's locks alone.
            env.close()


os.register_at_fork(after_in_child=_after_fork)


def copy_environment(directory: Path, target: Path) -> None:
    """Copies an LMDB environment of this moment into a directory that is there, without its free pages, while others
    read and write it. Not one that this very process has open. Raises StoreUnavailable, StoreCorrupt."""
    try:
        env = lmdb.open(str(directory), readonly=True, create=False, max_dbs=4, max_readers=_MAX_READERS)
        try:
            while True:
                try:
                    env.copy(str(target), compact=True)
                    break
                except lmdb.MapResizedError:
                    env.set_mapsize(0)
        finally:
            env.close()
        (target / "data.mdb").chmod(0o600)
    except (lmdb.Error, OSError) as e:
        _fail(e)
