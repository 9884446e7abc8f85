"""Fixtures that several kinds of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from engine.features.stores.embedded import EmbeddedStore
from tests.support.server import Client, ServerProcess, open_store, running

# Examples come from the test's own code, so that every run tries the same ones, however slow the machine is.
settings.register_profile("assay", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("assay")


@pytest.fixture(autouse=True)
def _no_key_of_the_tree(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that tests run in this process find no master key that somebody's own server left in the tree."""
    monkeypatch.setenv("ASSAY_RECORD_MASTER_KEY", str(tmp_path_factory.getbasetemp() / "no-master.key"))


@pytest.fixture(scope="session")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Client]]:
    with running(tmp_path_factory.mktemp("server")) as pair:
        yield pair
        server = pair[0]
        # No test may have brought it down, and nothing that it was sent may have been a surprise to it.
        assert server.process.poll() is None, f"the server ended with {server.process.poll()}: {server.output}"
        assert "Traceback" not in server.output, server.output


@pytest.fixture(scope="session")
def server(_serving: tuple[ServerProcess, Client]) -> ServerProcess:
    """A server with the shipped bundle that all tests share. Nobody may stop it."""
    return _serving[0]


@pytest.fixture(scope="session")
def client(_serving: tuple[ServerProcess, Client]) -> Client:
    """A client of the shared server."""
    return _serving[1]


@pytest.fixture(scope="session")
def store(server: ServerProcess) -> Iterator[EmbeddedStore]:
    """The shared server's store, to load rows of applicants that no other test uses."""
    with open_store(server.home) as opened:
        yield opened


# Tests against real servers: on a machine that others use as well, a process may stand still for a second, and what
# then looks like a fault is none. Such a test gets two more tries, each of them named in the summary; a fault that is
# there shows in all three.
_REAL = ("contract", "faults", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that may be tried again."""
    root = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(root) and item.path.relative_to(root).parts[0] in _REAL:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))
