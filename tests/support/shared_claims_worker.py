"""A worker process that decides request ids: a real journal, real claims, and a decision that says who made it.

with Worker(directory, "w0") as worker:                       # claims shared with the workers of the directory
    worker.decide("r-1", b"payload", threads=50)              # [["fresh", id], ["stands", id], ...]
    worker.hold("r-1", b"payload"); worker.commit("r-1"); worker.finish("r-1")     # the same, step by step
    worker.pause(); worker.resume(); worker.kill()            # SIGSTOP, SIGCONT, SIGKILL

Worker(directory, "w0", redis="127.0.0.1:6379", lease_s=1.0)  # shared with whoever shares the store
"""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Outcome = tuple[str, str]


class Worker:
    """One process; its commands one after the other, from several threads if need be. It starts while others do."""

    def __init__(self, directory: Path, name: str, **settings: Any) -> None:
        self._turn = threading.Lock()
        arguments = json.dumps({"directory": str(directory), "name": name, **settings})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.shared_claims_worker", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        )
        self._ready = False

    def ready(self) -> Worker:
        """Waits until it has opened everything."""
        if not self._ready:
            assert self._process.stdout is not None and self._process.stdout.readline(), "the worker ended"
            self._ready = True
        return self

    def send(self, **command: Any) -> None:
        """Sends a command without waiting for its answer, which `receive` gives."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The answer to the oldest command that has none."""
        return self._answer()

    def ask(self, **command: Any) -> Any:
        """A command and its answer."""
        with self._turn:
            self.send(**command)
            return self._answer()

    def decide(self, request_id: str, payload: bytes, threads: int = 1, deadline_s: float = 20.0) -> list[Outcome]:
        """What came of so many calls at once: fresh, stands, reused or refused, with an id or a reason."""
        answer = self.ask(do="decide", id=request_id, payload=_text(payload), threads=threads, deadline_s=deadline_s)
        return [(str(what), str(which)) for what, which in answer]

    def hold(self, request_id: str, payload: bytes) -> Outcome:
        """Claims alone."""
        what, which = self.ask(do="hold", id=request_id, payload=_text(payload))
        return str(what), str(which)

    def commit(self, request_id: str) -> Outcome:
        """Rechecks and commits what is held; gives ("committed", id), or what stands."""
        what, which = self.ask(do="commit", id=request_id)
        return str(what), str(which)

    def finish(self, request_id: str) -> Outcome:
        """Finishes what was committed."""
        what, which = self.ask(do="finish", id=request_id)
        return str(what), str(which)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(20)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.kill()
        self._process.stdout.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        self.ready()
        line = self._process.stdout.readline()
        assert line, f"the worker ended with {self._process.wait(20)}"
        return json.loads(line)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def main(arguments: dict[str, Any]) -> None:
    """The process: reads commands, a line each, and answers each with a line."""
    from assay.decision.v1 import decision_pb2 as pb
    from assay.decision.v1 import decision_record_pb2 as record_pb
    from engine.claims.desk import RequestIds, Standing
    from engine.claims.host import HostClaims
    from engine.claims.layered import LayeredClaims
    from engine.claims.reconcile import Reconciler
    from engine.claims.shared import Decided, SharedClaims
    from engine.claims.store import StoreClaims, StoreClaimSettings
    from engine.claims.superseded import FILE_NAME, Superseded
    from engine.clock import new_decision_id
    from engine.errors import Refusal
    from engine.features.stores.redis import RedisStore
    from engine.features.stores.redis_settings import RedisSettings
    from engine.record.keys import request_key
    from engine.record.log import DecisionLog

    directory, name = Path(arguments["directory"]), str(arguments["name"])
    lease_s = float(arguments.get("lease_s", 5.0))
    log = DecisionLog.open(directory, worker=name)
    shared: SharedClaims = HostClaims(
        directory,
        lambda: log.get_by_decision_id("-"),
        lambda: log._index.watermark(name),
    )
    superseded = Superseded(directory / FILE_NAME)
    reconciler = None
    if arguments.get("redis"):
        address = str(arguments["redis"])
        # Quick to say that it is gone, patient with a busy machine.
        store = RedisStore(
            RedisSettings((address,), connect_timeout_ms=2000, read_timeout_ms=5000, write_timeout_ms=5000)
        )
        far = StoreClaims(
            store,
            StoreClaimSettings(on_failure=arguments.get("on_failure", "refuse"), timeout_ms=5000, clock_skew_ms=100),
        )
        shared = LayeredClaims(shared, far)
        reconciler = Reconciler(log, far, superseded, directory / f"claims.{name}.json", settle_s=1.0, every_s=0.1)
    ids = RequestIds(log, shared, lease_s=lease_s, superseded=superseded)
    held: dict[str, tuple[bytes, bytes, str, bytes, Any]] = {}

    def standing(found: Standing, digest: bytes, payload: bytes, request_id: str) -> Outcome:
        if found.payload_digest != digest:
            return "reused", found.reused(request_id, payload).metadata.get("differs", "")
        return "stands", found.replayed().decision_id

    def claim(request_id: str, payload: bytes, deadline_s: float) -> Outcome | None:
        key, digest = request_key("", request_id), hashlib.sha256(payload).digest()
        until_s = time.monotonic() + deadline_s
        while True:
            taken = ids.claim(key, digest, until_s)
            if isinstance(taken, Standing):
                return standing(taken, digest, payload, request_id)
            if taken is not None:
                held[request_id] = (key, digest, "", payload, None)
                return None
            if not ids.wait(key, until_s):
                return "refused", "DECISION_IN_PROGRESS"

    def commit(request_id: str) -> Outcome:
        key, digest, _, payload, _ = held[request_id]
        found = ids.recheck(key, digest)
        if found is not None:
            ids.abandon(key)
            return standing(found, digest, payload, request_id)
        now_us = time.time_ns() // 1000
        decision_id = new_decision_id(now_us)
        decision = pb.Decision(decision_id=decision_id, request_id=request_id)
        decision.decided_at.FromMicroseconds(now_us)
        record = record_pb.DecisionRecord(decision=decision, application=pb.Application.FromString(payload))
        position = log.commit(key, decision_id, digest, record.SerializeToString())
        held[request_id] = (key, digest, decision_id, payload, (decision.SerializeToString(), position))
        return "committed", decision_id

    def finish(request_id: str) -> Outcome:
        key, digest, decision_id, payload, (answer, position) = held.pop(request_id)
        found = ids.finish(Decided(key, digest, decision_id, answer, position))
        if found is not None:
            return standing(found, digest, payload, request_id)
        return "fresh", decision_id

    def decide(request_id: str, payload: bytes, deadline_s: float) -> Outcome:
        outcome = claim(request_id, payload, deadline_s)
        if outcome is None:
            time.sleep(0.002)  # what a decision takes
            outcome = commit(request_id)
            if outcome[0] == "committed":
                outcome = finish(request_id)
        return outcome

    def guarded(work: Any, *given: Any) -> Any:
        try:
            return work(*given)
        except Refusal as error:
            return "refused", error.reason

    def many(request_id: str, payload: bytes, threads: int, deadline_s: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        start = threading.Barrier(threads)

        def one() -> None:
            start.wait()
            outcomes.append(guarded(decide, request_id, payload, deadline_s))

        running = [threading.Thread(target=one) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return outcomes

    def run(command: dict[str, Any]) -> Any:
        do, request_id = command["do"], command.get("id", "")
        payload = base64.b64decode(command.get("payload", ""))
        if do == "decide":
            return many(request_id, payload, command["threads"], command["deadline_s"])
        if do == "hold":
            return guarded(claim, request_id, payload, 5.0) or ("held", "")
        if do == "commit":
            return guarded(commit, request_id)
        if do == "finish":
            return guarded(finish, request_id)
        if do == "reconcile":
            assert reconciler is not None
            return reconciler.reconcile()
        if do == "start_reconciling":
            assert reconciler is not None
            reconciler.start()
            return None
        if do == "settled":
            assert reconciler is not None
            return not reconciler.is_behind and reconciler.counters()["passes"] > 0
        if do == "counters":
            return ids.counters()
        if do == "recorded":
            return [stored.decision_id for stored in log.iterate()]
        raise AssertionError(do)

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
    if reconciler is not None:
        reconciler.stop()
    ids.close()
    log.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
