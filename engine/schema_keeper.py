"""Keeps the row schemas of the bundle in service beside the rows, so that rows can be read by name for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from engine.errors import StoreError
from engine.features.store import FeatureStore
from engine.plan import BundlePlan

_log = logging.getLogger("assay.schemas")
_RETRY_S = 1.0
_RETRY_MAX_S = 30.0


class SchemaKeeper:
    """Writes schemas, and goes on trying in the background while the store cannot take them: a server must start
    without its store, and say what it lacks."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._waiting: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, plan: BundlePlan) -> None:
        """Keeps the schemas of all views and counters of a bundle. Never fails, never waits for a store that is down
        longer than one attempt."""
        self._waiting.update(schemas_of(plan))
        if not self._try():
            with self._lock:
                if self._thread is None and not self._stopped.is_set():
                    self._thread = threading.Thread(target=self._run, name="schemas", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """Ends the attempts."""
        self._stopped.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout=5.0)

    def _try(self) -> bool:
        try:
            for fingerprint, canonical in list(self._waiting.items()):
                self._store.put_schema(fingerprint, canonical)
                self._waiting.pop(fingerprint, None)
        except StoreError as error:
            _log.warning("row schemas are not kept yet", extra={"store": self._store.name, "error": str(error)})
            return False
        return True

    def _run(self) -> None:
        wait_s = _RETRY_S
        while not self._stopped.wait(wait_s):
            if self._try():
                with self._lock:
                    if not self._waiting:
                        self._thread = None
                        return
            wait_s = min(2 * wait_s, _RETRY_MAX_S)


def schemas_of(plan: BundlePlan) -> Iterable[tuple[bytes, bytes]]:
    """(fingerprint, canonical form) of every row and every state that the bundle's flows read or write."""
    rows = {
        (schema.fingerprint, schema.canonical)
        for flow in plan.flows.values()
        for view in flow.features.views
        for schema in (view.decoder.schema,)
    }
    return rows | set(plan.counters.schemas)
