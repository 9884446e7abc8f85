"""One piece of a replay: a chunk of records in, what was found out. The same on one core, on many and on a cluster."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from engine.domain.enums import FeatureStatus
from engine.labels import describe_environment
from engine.replay.items import Chunk
from engine.replay.other import OtherReplay
from engine.replay.same import SameReplay
from engine.replay.shelf import Shelf, open_bundle
from engine.replay.tally import Tally


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done with every record. Small, and the same for every worker.

    bundles: the directories of bundles by digest; other: the bundle to back-test, None to replay with the recorded
    ones; absent: the status of features that a record does not have; segments: further dimensions of a back-test.
    """

    bundles: dict[str, str]
    other: str | None = None
    absent: FeatureStatus = FeatureStatus.NOT_FOUND
    segments: tuple[str, ...] = ()


class Replayer:
    """Does a job, chunk by chunk. Not safe to use from several threads; every process makes its own."""

    def __init__(self, job: Job) -> None:
        """Raises BundleError when the bundle to back-test cannot be loaded."""
        self._same: SameReplay | None = None
        self._other: OtherReplay | None = None
        if job.other is not None:
            self._other = OtherReplay(open_bundle(Path(job.other)), job.absent, job.segments)
            return
        shelf = Shelf({digest: Path(root) for digest, root in job.bundles.items()})
        environment, digest = environment_here()
        self._same = SameReplay(shelf, environment, digest)

    def run(self, chunk: Chunk) -> Tally:
        """What came of a chunk."""
        if self._other is not None:
            return self._other.run(chunk.items, chunk.outcomes)
        assert self._same is not None
        return self._same.run(chunk.items)


def environment_here() -> tuple[bytes, str]:
    """The description of the environment that this process decides in, and its digest."""
    environment = describe_environment()
    return environment, "sha256:" + hashlib.sha256(environment).hexdigest()
