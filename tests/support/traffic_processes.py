"""Worker processes of one host that serve bundles made of one line of text: quick, and wicked where a test wants.

    python -m tests.support.traffic_processes HOME WORKER CONFIGURED

Commands come as JSON lines on standard input, events leave as JSON lines on standard output. A bundle that says
`fails_in_w1` cannot be loaded by worker w1; `hangs_in_w1` takes it for ever; `dies_in_w1` ends it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.bundle.source import digest_of
from engine.errors import AssayError, BundleError, Problem, RecordError
from engine.traffic.control import ControlSettings, TrafficControl
from engine.traffic.model import ArmShare, Author, ChangeKind, Experiment, FlowTraffic
from engine.traffic.moves import activate, rollback, set_flows
from engine.traffic.registry import BundleRegistry
from engine.traffic.serving import Loaded, Serving
from engine.traffic.start import start
from engine.traffic.worker import Places, TrafficWorker

FLOW = "loan.application"
TIMEOUT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


def word_bundle(root: Path, word: str) -> Path:
    """A bundle that says one word."""
    root.mkdir(parents=True)
    (root / "bundle.yaml").write_text(word)
    return root


# --- in the worker ------------------------------------------------------------------------------------------------


class _Worker:
    def __init__(self, home: Path, name: str, configured: Path) -> None:
        self._home, self._name = home, name
        self._says = threading.Lock()
        places = Places(home / "traffic")
        registry = BundleRegistry(home / "bundles")
        worker: TrafficWorker[str] = TrafficWorker(
            places, registry, self._load, name=name, poll_s=0.02, on_switch=self._switched
        )
        settings = ControlSettings(
            prepare_timeout_s=float(os.environ.get("PREPARE_TIMEOUT_S", "60")), poll_s=0.02, lock_wait_s=60.0
        )
        self._control: TrafficControl[str] = TrafficControl(worker, places, self._record, settings)
        self._stopped = threading.Event()
        serving = start(self._control, configured, self._load)
        threading.Thread(target=self._decide, daemon=True).start()
        self.say(event="ready", generation=serving.generation, word=serving.default.served)

    def _load(self, path: Path) -> Loaded[str]:
        word = (path / "bundle.yaml").read_text()
        if word == f"fails_in_{self._name}":
            raise BundleError([Problem("bundle.yaml", "", "is not liked here", "Send another.")])
        if word == f"hangs_in_{self._name}":
            time.sleep(3_600)
        if word == f"dies_in_{self._name}":
            os._exit(9)
        return Loaded(word, digest_of(path), word, "0.1.0", frozenset({FLOW}))

    def _record(self, content: bytes) -> None:
        if (self._home / "journal_is_full").exists():
            raise RecordError("the journal is full")
        with (self._home / f"{self._name}.journal").open("ab") as stream:
            stream.write(len(content).to_bytes(4, "big") + content)
        if (self._home / f"{self._name}_dies_after_the_record").exists():
            os._exit(9)

    def _switched(self, serving: Serving[str]) -> None:
        self.say(event="switch", generation=serving.generation, word=serving.default.served, at=time.time())

    def _decide(self) -> None:
        """Decides without a pause, as calls do, and tells of every answer that does not go together."""
        words: dict[int, str] = {}
        while not self._stopped.wait(0.0005):
            serving = self._control.serving
            arm = serving.choose(FLOW, "somebody")
            known = words.setdefault(serving.generation, arm.served)
            if known != arm.served or serving.bundles[arm.bundle].served != arm.served:
                self.say(event="mixed", generation=serving.generation)

    def say(self, **event: Any) -> None:
        """One event."""
        with self._says:
            print(json.dumps(event), flush=True)

    def run(self) -> None:
        """Does what it is told until its input ends."""
        for line in sys.stdin:
            command = json.loads(line)
            try:
                self.say(event="done", **self._obey(command))
            except AssayError as error:
                self.say(event="refused", reason=getattr(error, "reason", type(error).__name__), message=str(error))
        self._stopped.set()
        self._control.worker.stop()

    def _obey(self, command: dict[str, Any]) -> dict[str, Any]:
        control, author = self._control, Author("ann", "a test", expected_generation=command.get("expected"))
        if command["do"] == "keep":
            with control.registry.incoming(Path(command["root"])) as incoming:
                stored, _ = control.registry.keep(incoming, "word", "0.1.0", [FLOW])
            return {"digest": stored.digest}
        if command["do"] == "standings":
            standings = control.standings()
            return {"workers": {name: [one.generation, one.trouble] for name, one in standings.items()}}
        if command["do"] == "activate":
            digest = command["digest"]
            changed = control.change(ChangeKind.ACTIVATE, author, lambda t: activate(t, digest, True))
        elif command["do"] == "rollback":
            changed = control.change(ChangeKind.ROLLBACK, author, rollback)
        else:
            arms = tuple(ArmShare(f"arm{n}", d, 5_000) for n, d in enumerate(command["arms"]))
            flows = {FLOW: FlowTraffic(Experiment("test", arms))}
            changed = control.change(ChangeKind.SET_TRAFFIC, author, lambda t: set_flows(t, flows))
        traffic = changed.traffic
        return {"generation": traffic.generation, "changed": changed.changed, "workers": changed.workers}


# --- in the test --------------------------------------------------------------------------------------------------


class WorkerProcess:
    """One of them, from outside."""

    def __init__(self, home: Path, name: str, configured: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.traffic_processes", str(home), name, str(configured)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / f"{name}.log").open("w"),
            env=environment,
            text=True,
        )
        self.seen: list[dict[str, Any]] = []
        self._passed: list[dict[str, Any]] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.seen.append(event)
            self._events.put(event)
        self._events.put({"event": "end"})

    def next(self, *kinds: str) -> dict[str, Any]:
        """The next event of one of these kinds; others before it are there for who asks for them later."""
        for event in self._passed:
            if event["event"] in kinds:
                self._passed.remove(event)
                return event
        end_s = time.monotonic() + TIMEOUT_S
        while True:
            event = self._events.get(timeout=max(0.01, end_s - time.monotonic()))
            if event["event"] in kinds:
                return event
            self._passed.append(event)
            assert event["event"] != "end", f"{self.name} ended while {kinds} was awaited; it said {self.seen}"

    def tell(self, do: str, **command: Any) -> None:
        """Gives a command, and does not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **command}) + "\n")
        self.process.stdin.flush()

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """Gives a command; what came of it."""
        self.tell(do, **command)
        return self.next("done", "refused")

    def switched(self, generation: int) -> dict[str, Any]:
        """Waits until it serves a generation; the switch."""
        while (event := self.next("switch"))["generation"] < generation:
            pass
        return event

    @property
    def mixed(self) -> list[dict[str, Any]]:
        """Answers that did not go together."""
        return [event for event in self.seen if event["event"] == "mixed"]

    def end(self) -> None:
        """Ends it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def workers(home: Path, configured: Path, *names: str) -> Iterator[list[WorkerProcess]]:
    """Workers that are ready, ended at the end."""
    started = [WorkerProcess(home, name, configured) for name in names]
    try:
        for one in started:
            one.next("ready")
        yield started
    finally:
        for one in started:
            one.end()


if __name__ == "__main__":
    _Worker(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])).run()
