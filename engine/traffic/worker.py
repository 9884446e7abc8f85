"""One worker process's own part: it holds what it serves, gets ready for what is proposed, follows every switch.

Workers see proposals and switches in two small files that they look at five times a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from engine.errors import AssayError, BundleError, Problem, Refusal
from engine.telemetry.counters import Counters
from engine.traffic.cutout import CutOuts, Trip
from engine.traffic.files import DamagedFile, read_sealed
from engine.traffic.gentle import gently
from engine.traffic.members import Members, Standing
from engine.traffic.model import Traffic
from engine.traffic.registry import BundleRegistry
from engine.traffic.serving import Loaded, Serving
from engine.traffic.state import TrafficFile, parse_traffic

P = TypeVar("P")
_log = logging.getLogger("assay.traffic")
_RETRY_S = 5.0
_TELL_EVERY_S = 1.0
_TROUBLE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Places:
    """Where the host's workers meet: one directory."""

    directory: Path

    @property
    def lock(self) -> Path:
        """Held by who makes a change, and by who starts."""
        return self.directory / "change.lock"

    @property
    def proposal(self) -> Path:
        """What all are to get ready for."""
        return self.directory / "proposal.json"

    @property
    def workers(self) -> Path:
        """The directory where workers say how they stand."""
        return self.directory / "workers"


class TrafficWorker(Generic[P]):
    """Threads may call it at once. Open it after the last fork.

    load: makes a bundle ready to decide, wholly warmed up, from its directory; raises BundleError or another error
    where it cannot. on_switch: told of every switch in this process, right after `serving` has it; must not fail.
    """

    def __init__(
        self,
        places: Places,
        registry: BundleRegistry,
        load: Callable[[Path], Loaded[P]],
        *,
        name: str = "w0",
        poll_s: float = 0.2,
        counters: Counters | None = None,
        on_switch: Callable[[Serving[P]], None] | None = None,
    ) -> None:
        """Raises OSError."""
        places.directory.mkdir(parents=True, exist_ok=True)
        self._places, self.registry, self._load = places, registry, load
        self._poll_s, self._on_switch = poll_s, on_switch
        self.file = TrafficFile(places.directory)
        self.members = Members(places.workers, name)
        self.cut_outs = CutOuts(time.monotonic, counters)
        # What shadows have seen, as plain data, for the other workers to see.
        self.shadow_state: Callable[[], Mapping[str, Any]] = dict
        # Told of cut-outs that tripped and are to fall back, as long as they are.
        self.on_trip: Callable[[Trip], None] | None = None
        self._standing = Standing()
        self._loaded: dict[str, Loaded[P]] = {}
        self._loading, self._switching = threading.Lock(), threading.RLock()
        self._serving: Serving[P] | None = None
        self._follow_at_s = 0.0
        self._polls_without_proposal = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """This worker's name."""
        return self.members.worker

    @property
    def started(self) -> bool:
        """Whether it serves, and is not stopping."""
        return self._thread is not None and not self._stopped.is_set()

    @property
    def serving(self) -> Serving[P]:
        """What calls that begin now decide with. Raises Refusal before there is something."""
        if self._serving is None:
            raise Refusal("NO_BUNDLE", "No bundle is in service yet; retry shortly.")
        return self._serving

    def start(self, traffic: Traffic) -> Serving[P]:
        """Serves, as one of the host's workers from now on. Called while no change can be under way."""
        self.ready(traffic.bundles)
        self.switch(traffic)
        self.members.join(self._standing)
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()
        return self.serving

    def stop(self) -> None:
        """Ends the watch, and is no worker any more. What is served stays. Harmless when repeated."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self.members.leave()

    def adopt(self, loaded: Loaded[P]) -> None:
        """Takes a bundle that was loaded otherwise."""
        with self._loading:
            self._loaded[loaded.digest] = loaded

    def ready(self, digests: Iterable[str]) -> Mapping[str, Loaded[P]]:
        """Loads bundles that are to be served. Gives all that are loaded. Raises what `load` does."""
        with self._loading:
            for digest in digests:
                if digest in self._loaded:
                    continue
                place = self.registry.path_of(digest)
                with gently():
                    loaded = self._load(place)
                if loaded.digest != digest:
                    message = f"holds other files than its name says: {loaded.digest}"
                    raise BundleError([Problem(str(place), "", message, "Load the bundle again.")])
                self._loaded[digest] = loaded
            return dict(self._loaded)

    def switch(self, traffic: Traffic) -> None:
        """Serves a generation whose bundles are loaded, from its moment on. Harmless when repeated."""
        with self._switching:
            if self._serving is not None and traffic.generation <= self._serving.generation:
                return
            serving = Serving(traffic, self.ready(traffic.bundles))
            early_s = traffic.effective_us / 1e6 - time.time()
            if self._serving is not None and 0 < early_s < 10 * self._poll_s:
                time.sleep(early_s)
            self._serving = serving
            rules = {flow: one.cut_out for flow, one in traffic.flows.items() if one.cut_out is not None}
            self.cut_outs.use(rules, traffic.generation)
            trouble = ""
            if self._on_switch is not None:
                try:
                    self._on_switch(serving)
                except Exception as error:
                    _log.exception("what follows a switch failed")
                    trouble = f"what follows the switch failed: {type(error).__name__}"
            self._standing = replace(self._standing, generation=traffic.generation, trouble=trouble)
            self.trim()
            self._tell()
        _log.info(
            "traffic is served",
            extra={"generation": traffic.generation, "bundle": traffic.default, "worker": self.name},
        )

    def trim(self) -> None:
        """Lets go of bundles that are not needed. The previous one stays, to be back at once."""
        with self._loading:
            if self._serving is not None:
                traffic = self._serving.traffic
                needed = traffic.bundles | {traffic.previous}
                self._loaded = {digest: one for digest, one in self._loaded.items() if digest in needed}

    def standing(self) -> Standing:
        """How this worker stands now."""
        return replace(self._standing, cut_outs=self.cut_outs.states(), shadows=dict(self.shadow_state()))

    def _tell(self) -> None:
        try:
            self.members.tell(self.standing())
        except OSError as error:
            _log.warning("other workers cannot be told how this one stands", extra={"error": str(error)})

    # --- the watch ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        told, tell_at_s = self.standing(), 0.0
        while not self._stopped.wait(self._poll_s):
            try:
                self._follow_switch()
                self._follow_proposal()
                for trip in self.cut_outs.judge():
                    if self.on_trip is not None and trip.generation == self.serving.generation:
                        self.on_trip(trip)
                if time.monotonic() >= tell_at_s and (now := self.standing()) != told:
                    tell_at_s, told = time.monotonic() + _TELL_EVERY_S, now
                    self._tell()
            except Exception:
                _log.exception("the watch over what is served failed; it goes on")

    def _follow_proposal(self) -> None:
        """Gets ready for what is proposed, and says whether it is."""
        try:
            body = read_sealed(self._places.proposal)
            if body is None:
                self._polls_without_proposal += 1
                if self._polls_without_proposal == 2:  # it may have gone because the switch is here
                    self.trim()
                return
            self._polls_without_proposal = 0
            proposed = parse_traffic(body, self._places.proposal.name)
        except DamagedFile as error:
            _log.warning("a proposed change cannot be read: %s", error)
            return
        if proposed.change_id == self._standing.proposal:
            return
        problem = ""
        try:
            self.ready(proposed.bundles)
        except Exception as error:
            level = logging.WARNING if isinstance(error, AssayError) else logging.ERROR
            _log.log(level, "this worker cannot follow a change that is proposed", exc_info=error)
            problem = _words(error)
        self._standing = replace(self._standing, proposal=proposed.change_id, problem=problem)
        self._tell()

    def _follow_switch(self) -> None:
        """Serves what the host's file says, once it is ready for that."""
        behind = bool(self._standing.trouble) and time.monotonic() >= self._follow_at_s
        if not self.file.changed() and not behind:
            return
        try:
            traffic = self.file.read()
            if traffic is None or traffic.generation <= self.serving.generation:
                return
            self.ready(traffic.bundles)
        except Exception as error:
            trouble = _words(error)
            if trouble != self._standing.trouble:
                _log.error("this worker keeps serving what it does: the latest change cannot be followed: %s", trouble)
            self._standing = replace(self._standing, trouble=trouble)
            self._follow_at_s = time.monotonic() + _RETRY_S
            return
        self.switch(traffic)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_TROUBLE_MAX]
