"""Keeps the row schemas of the bundle in service beside the rows, so that rows can be read by name for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from engine.errors import StoreError
from engine.features.store import FeatureStore
from engine.plan import BundlePlan

_log = logging.getLogger("assay.schemas")
_RETRY_S, _RETRY_MAX_S = 1.0, 30.0
# A store that was emptied meanwhile gets them again.
_CHECK_EVERY_S = 10.0
_PLANS_MAX = 16


class SchemaKeeper:
    """Writes schemas, and looks from time to time whether they are still there: a server must start without its store,
    and a store may be emptied under it."""

    def __init__(
        self,
        store: FeatureStore,
        learn: Callable[[BundlePlan, Mapping[bytes, bytes]], None] | None = None,
        *,
        check_every_s: float = _CHECK_EVERY_S,
    ) -> None:
        """learn: told of each bundle that may decide and of all schemas that the store keeps, by fingerprint, whenever
        they were looked at."""
        self._learn = learn
        # By digest; the oldest goes when there are too many.
        self._plans: dict[str, BundlePlan] = {}
        self._store, self._check_every_s = store, check_every_s
        self._wanted: dict[bytes, bytes] = {}
        self._failed = False
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, plan: BundlePlan) -> None:
        """Keeps the schemas of all views and counters of a bundle. Never fails, never waits for a store that is down
        longer than one attempt."""
        self._wanted.update(schemas_of(plan))
        self._plans[plan.digest] = plan
        while len(self._plans) > _PLANS_MAX:
            del self._plans[next(iter(self._plans))]
        self._try()
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
        """Writes what is not there. False when the store cannot take it."""
        try:
            kept = dict(self._store.schemas())
            for fingerprint, canonical in list(self._wanted.items()):
                if kept.get(fingerprint) != canonical:
                    self._store.put_schema(fingerprint, canonical)
            if self._learn is not None:
                for plan in list(self._plans.values()):
                    self._learn(plan, kept)
        except StoreError as error:
            if not self._failed:
                _log.warning("row schemas are not kept yet", extra={"store": self._store.name, "error": str(error)})
            self._failed = True
            return False
        if self._failed:
            _log.info("row schemas are kept", extra={"store": self._store.name})
        self._failed = False
        return True

    def _run(self) -> None:
        wait_s = _RETRY_S if self._failed else self._check_every_s
        while not self._stopped.wait(wait_s):
            wait_s = self._check_every_s if self._try() else min(max(2 * wait_s, _RETRY_S), _RETRY_MAX_S)


def schemas_of(plan: BundlePlan) -> Iterable[tuple[bytes, bytes]]:
    """(fingerprint, canonical form) of every row and every state that the bundle's flows read or write."""
    rows = {
        (schema.fingerprint, schema.canonical)
        for flow in plan.flows.values()
        for view in flow.features.views
        for schema in (view.decoder.schema,)
    }
    return rows | set(plan.counters.schemas)
