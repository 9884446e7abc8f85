"""What Locust loads: the users and the shape of the scenario that LOADTEST_SCENARIO holds, or of `two_minutes`.

`python -m loadtest run` and `ui` start Locust with it. By hand, against a server that runs and has its rows:

    locust -f loadtest/locustfile.py --headless --host 127.0.0.1:50051
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

# Locust puts this file's directory on the path; the modules are the package's.
_ROOT = Path(__file__).resolve().parents[1]
for _entry in (str(_ROOT / "gen"), str(_ROOT)):
    if _entry not in sys.path:
        sys.path.insert(0, _entry)

import grpc.experimental.gevent  # noqa: E402
from locust import LoadTestShape, events  # noqa: E402
from locust.env import Environment  # noqa: E402

# Before anything of gRPC is made, and after Locust has patched the process.
grpc.experimental.gevent.init_gevent()

from loadtest import population  # noqa: E402
from loadtest.locust_process import POPULATION, PROCESS, SCENARIO, TARGET, listen  # noqa: E402
from loadtest.scenario import SCENARIOS, Scenario, read  # noqa: E402
from loadtest.shapes import shape_class  # noqa: E402
from loadtest.target import Target  # noqa: E402
from loadtest.users import KINDS, AssayUser  # noqa: E402

_text = os.environ.get(SCENARIO)
PROCESS.scenario = Scenario.model_validate_json(_text) if _text else read(SCENARIOS / "two_minutes.toml")
_driver = PROCESS.scenario.locust
assert _driver is not None, "the scenario is for the open-loop driver: python -m loadtest open"

if POPULATION not in os.environ:
    # Started by hand: the applications are made here, once, for all workers.
    _file = Path(tempfile.mkdtemp(prefix="assay-loadtest-")) / "population.bin"
    population.save(population.generate(PROCESS.scenario.population, time.time_ns() // 1000), _file)
    os.environ[POPULATION] = str(_file)


def _user(kind: str, weight: int) -> type[AssayUser]:
    """The class of a kind with the scenario's weight, as Locust finds classes: by name in this module."""
    base = KINDS[kind]
    return type(base.__name__, (base,), {"weight": weight, "__module__": __name__, "__doc__": base.__doc__})


globals().update({KINDS[part.kind].__name__: _user(part.kind, part.weight) for part in _driver.users})

if os.environ.get("LOADTEST_SHAPED", "1") == "1":
    ScenarioShape: type[LoadTestShape] = shape_class(_driver.shape)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _ready(environment: Environment, **_: object) -> None:
    text = os.environ.get(TARGET)
    if text:
        PROCESS.target = Target.from_json(text)
    else:
        PROCESS.target = Target((environment.host or "127.0.0.1:50051").removeprefix("http://"))
    listen(environment)
