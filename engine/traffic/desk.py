"""Everything about traffic in one worker process, put together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from engine.telemetry.counters import Counters
from engine.traffic.carry import Learn
from engine.traffic.control import ControlSettings, TrafficControl
from engine.traffic.intake import BundleIntake
from engine.traffic.registry import BundleRegistry
from engine.traffic.serving import Loaded, Serving
from engine.traffic.shadow import Answered, RecordShadow, ShadowRunner, ShadowSettings
from engine.traffic.start import start
from engine.traffic.worker import Places, TrafficWorker

P = TypeVar("P")
_log = logging.getLogger("assay.traffic")


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """What an operator chooses. directory: where the host's workers meet; bundles: the registry; bundles_kept: how many
    are kept beyond those needed; bundle_directories: below which paths LoadBundle reads; poll_s: how often workers look
    for changes."""

    directory: Path
    bundles: Path
    bundles_kept: int = 16
    bundle_bytes_max: int = 1 << 30
    bundle_directories: tuple[Path, ...] = ()
    prepare_timeout_s: float = 60.0
    shadow_queue_max: int = 256
    shadow_cpu_share: float = 0.25
    poll_s: float = 0.2


class TrafficDesk(Generic[P]):
    """load: makes a bundle of the registry ready to decide; load_whole: the same with golden scenarios and all, for
    the one that the settings name. record_change: writes a frame of kind CHANGE to the journal; raises RecordError.
    record_shadow: the same for shadows. on_switch: told of every switch in this process. learn: of the reader that
    reads rows for answers."""

    def __init__(
        self,
        settings: TrafficSettings,
        load: Callable[[Path], Loaded[P]],
        load_whole: Callable[[Path], Loaded[P]],
        record_change: Callable[[bytes], object],
        record_shadow: RecordShadow,
        *,
        worker: str = "w0",
        counters: Counters | None = None,
        on_switch: Callable[[Serving[P]], None] | None = None,
        learn: Learn | None = None,
    ) -> None:
        """Raises OSError."""
        counters = counters or Counters()
        self._load_whole = load_whole
        self.registry = BundleRegistry(settings.bundles, settings.bundles_kept, settings.bundle_bytes_max)
        places = Places(settings.directory)
        self.worker: TrafficWorker[P] = TrafficWorker(
            places,
            self.registry,
            load,
            name=worker,
            poll_s=settings.poll_s,
            counters=counters,
            on_switch=on_switch,
        )
        self.control: TrafficControl[P] = TrafficControl(
            self.worker,
            places,
            record_change,
            ControlSettings(prepare_timeout_s=settings.prepare_timeout_s, poll_s=settings.poll_s),
            counters,
        )
        self.shadows = ShadowRunner(
            record_shadow, ShadowSettings(settings.shadow_queue_max, settings.shadow_cpu_share), counters, learn
        )
        self.worker.shadow_state = self.shadows.state
        self.intake = BundleIntake(self.control, settings.bundle_directories, settings.bundle_bytes_max)

    @property
    def serving(self) -> Serving[P]:
        """What calls that begin now decide with. Raises Refusal before there is something."""
        return self.worker.serving

    def tell(self, answered: Answered) -> None:
        """A decision was made, and stands: it counts for its flow's cut-out, and its shadows get it. Never waits, never
        fails."""
        try:
            conclusion = answered.conclusion
            self.worker.cut_outs.note(conclusion.prepared.flow.name, conclusion.outcome.verdict)
            self.shadows.offer(answered)
        except Exception:
            _log.exception("an answer could not be handed to shadows and cut-outs")

    def start(self, configured: Path) -> Serving[P]:
        """Serves what the host served last, or the bundle in the directory that the settings name. Raises BundleError,
        Refusal, ConfigError."""
        return start(self.control, configured, self._load_whole)

    def stop(self) -> None:
        """Ends shadows and the watch. Before the journal is closed. Harmless when repeated."""
        self.shadows.stop()
        self.worker.stop()
