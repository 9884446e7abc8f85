"""`assay.client` on several real hosts, of which some are killed, drained, stopped or full."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assay.client import AsyncClient, Budget, Client, Ejection, Hedge, Options, Outcome, Retry, Tls, errors
from assay.decision.v1.decision_service_pb2 import DecideRequest
from tests.support.applications import consumer
from tests.support.client_hosts import Load, joined, stopped
from tests.support.redis_servers import Certificates, free_port
from tests.support.server import ServerProcess, running

# Nothing may fail because the machine stood still: deadlines are long, and what is late shows in counts.
PATIENT = Options(timeout_s=60.0, batch_timeout_s=60.0)


@pytest.fixture(scope="module")
def _second(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ServerProcess]]:
    """Gives the second host; a new one, when a test has ended the last."""
    with contextlib.ExitStack() as stack:
        made: list[ServerProcess] = []

        def living() -> ServerProcess:
            if not made or made[-1].process.poll() is not None:
                made.append(stack.enter_context(joined(server, tmp_path_factory.mktemp("second") / "home")))
            return made[-1]

        yield living


@pytest.fixture
def other(_second: Callable[[], ServerProcess]) -> ServerProcess:
    """A second host beside the shared one. Tests may stop it, and end it."""
    return _second()


def check_decided_once(client: Client, outcomes: list[Outcome]) -> None:
    """What is stored under each request id is what was answered."""
    for outcome in outcomes[:: max(1, len(outcomes) // 20)]:
        stored = client.get_decision(request_id=outcome.request_id).decision
        assert stored.decision_id == outcome.result().decision_id


# --- a host that hangs --------------------------------------------------------------------------------------------


def test_the_deadline_of_a_call_ends_it(other: ServerProcess) -> None:
    with Client(other.address, Options(timeout_s=0.7, attempt_timeout_s=0.3)) as client:
        client.warm_up(60)
        with stopped(other):
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded) as raised:
                client.decide(consumer())
            assert time.monotonic() - begun < 10, "the deadline is 0.7 s"
            assert 1 <= raised.value.attempts <= 3 and raised.value.stopped_by in ("deadline", "attempts")
            with pytest.raises(errors.DeadlineExceeded):
                client.decide(consumer(), timeout_s=0.2)


def test_an_attempt_that_hangs_leaves_time_for_another_host(server: ServerProcess, other: ServerProcess) -> None:
    options = Options(timeout_s=60, attempt_timeout_s=3.0, ejection=Ejection(slow_max=1, base_s=60, out_max_s=60))
    with Client([server.address, other.address], options) as client:
        assert client.warm_up(60) == 2
        with stopped(other):
            for _ in range(12):
                assert client.decide(consumer()).decision_id


@pytest.mark.parametrize("percentile", [None, 0.9])
def test_a_hedge_wins_against_a_host_that_hangs(
    server: ServerProcess, other: ServerProcess, percentile: float | None
) -> None:
    hedge = Hedge(after_s=0.02, percentile=percentile)
    options = Options(timeout_s=60, attempt_timeout_s=60, hedge=hedge, ejection=Ejection(slow_max=1_000))

    async def run() -> None:
        async with AsyncClient([server.address, other.address], options) as client:
            for one in [consumer() for _ in range(6)]:
                assert (await client.decide(one)).request_id == one.request_id

    with Client([server.address, other.address], options) as client:
        assert client.warm_up(60) == 2
        with stopped(other):
            begun = time.monotonic()
            # No host is left out here, so every second call begins with the one that hangs.
            for one in [consumer() for _ in range(10)]:
                assert client.decide(one).request_id == one.request_id
            asyncio.run(run())
            assert time.monotonic() - begun < 50, "an attempt without its hedge takes 60 s"
        with pytest.raises(errors.InvalidRequest) as raised:
            client.decide(consumer(amount=-5))
        assert raised.value.field_violations
        assert client.decide(consumer()).decision_id


def test_hedges_of_one_request_are_one_decision(server: ServerProcess, other: ServerProcess) -> None:
    """Both hosts are well and every call is sent to both."""
    options = replace(PATIENT, attempt_timeout_s=60, hedge=Hedge(after_s=0.0001), budget=Budget(1.0, 100, 100))
    with Client([server.address, other.address], options) as client:
        assert client.warm_up(60) == 2
        found = [Outcome(one.request_id, client.decide(one)) for one in [consumer() for _ in range(30)]]
        check_decided_once(client, found)


# --- a host that goes ---------------------------------------------------------------------------------------------


def test_a_host_killed_under_load_fails_no_call(server: ServerProcess, other: ServerProcess) -> None:
    killed = other
    with Client([server.address, killed.address], PATIENT) as client:
        assert client.warm_up(60) == 2
        streamed: list[Outcome] = []
        load = Load(lambda: client.decide(consumer()))
        stream = Load(lambda: streamed.extend(client.decide_stream([consumer() for _ in range(20)])), threads=1)
        asynchronous: list[Outcome] = []

        async def run() -> None:
            """A stream of asyncio's on the host that dies in the middle of it."""

            async def source() -> AsyncIterator[DecideRequest]:
                for i in range(100):
                    if i == 25:
                        await asyncio.to_thread(killed.stop, signal.SIGKILL)
                    yield consumer()

            async with AsyncClient([killed.address, server.address], PATIENT) as chosen:
                async for outcome in chosen.decide_stream(source(), window=16):
                    asynchronous.append(outcome)
                assert (await chosen.decide(consumer())).decision_id

        try:
            load.wait_for(25)
            asyncio.run(run())
            load.wait_for(50)
        finally:
            load.end()
            stream.end()
        assert load.failed == stream.failed == []
        assert len(asynchronous) == 100 and streamed
        assert [one.error for one in (*streamed, *asynchronous) if one.error] == []
        check_decided_once(client, streamed)
        check_decided_once(client, asynchronous)


def test_a_host_that_drains_is_left_and_fails_no_call(server: ServerProcess, other: ServerProcess) -> None:
    drained = other
    with Client([server.address, drained.address], PATIENT) as client:
        assert client.warm_up(60) == 2
        batched: list[Outcome] = []
        load = Load(lambda: client.decide(consumer()))
        batches = Load(lambda: batched.extend(client.decide_many([consumer() for _ in range(8)])), threads=1)
        try:
            load.wait_for(25)
            assert drained.stop(signal.SIGTERM) == 0
            load.wait_for(50)
        finally:
            load.end()
            batches.end()
        assert load.failed == batches.failed == []
        assert batched and [one.error for one in batched if one.error] == []


# --- a host that refuses ------------------------------------------------------------------------------------------


def test_refusals_are_repeated_after_retry_info_and_within_the_budget(tmp_path: Path) -> None:
    """A server that cannot reach the store which hosts share request ids by refuses every decision, and says after how
    long to ask again."""
    port = free_port()
    settings = {
        "ASSAY_STORE_KIND": "redis",
        "ASSAY_REDIS_ADDRESSES": "127.0.0.1:1",
        "ASSAY_IDEMPOTENCY_SHARE": "store",
        "ASSAY_METRICS_PORT": str(port),
    }

    def refusals() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        found = re.findall(
            r'^assay_requests_total\{method="Decide",reason="STORE_UNAVAILABLE"\} (\d+)', text, flags=re.M
        )
        return int(found[0]) if found else 0

    with running(tmp_path, settings=settings) as (cut_off, _):
        with Client(cut_off.address, Options(timeout_s=60, retry=Retry(attempts_max=2, base_s=0.01))) as client:
            begun = time.monotonic()
            with pytest.raises(errors.StoreUnavailable) as raised:
                client.decide(consumer())
            assert time.monotonic() - begun >= 1.0, "it said 1 s"
        error = raised.value
        assert (error.reason, error.attempts, error.stopped_by) == ("STORE_UNAVAILABLE", 2, "attempts")
        assert error.retry_after_s == 1.0 and refusals() == 2

        with Client(cut_off.address, Options(attempt_timeout_s=60)) as client:
            with pytest.raises(errors.AssayError) as late:
                client.decide(consumer(), timeout_s=0.9)
            assert (late.value.attempts, late.value.stopped_by) == (1, "deadline"), "the wait is longer than the call"
        before = refusals()

        budget = Budget(ratio=0.1, reserve=10, per_s=0)
        with Client(
            cut_off.address, Options(timeout_s=60, budget=budget, retry=Retry(attempts_max=2, base_s=0.01))
        ) as client:
            stopped_by: list[str] = []

            async def run() -> None:
                async with AsyncClient(cut_off.address, client.options) as many:
                    found = await asyncio.gather(*(many.decide(consumer()) for _ in range(100)), return_exceptions=True)
                    stopped_by.extend(one.stopped_by for one in found if isinstance(one, errors.AssayError))

            asyncio.run(run())
            asyncio.run(run())
        assert len(stopped_by) == 200 and "budget" in stopped_by
        attempts = refusals() - before
        assert 200 < attempts <= 200 * 1.1 + 10, "a repeat of every call would make 400"


# --- TLS, tenants -------------------------------------------------------------------------------------------------


def test_tls_with_client_certificates_and_tenants(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls", names="DNS:assay.example")
    settings = {
        "ASSAY_SERVER_TLS_CERTIFICATE": str(files.server),
        "ASSAY_SERVER_TLS_KEY": str(files.server_key),
        "ASSAY_SERVER_TLS_CLIENT_CA": str(files.ca),
        "ASSAY_SERVER_TENANT_HEADER": "x-lender",
        # Two at once, then one in four seconds.
        "ASSAY_ADMISSION_TENANT_RATES": "small=0.25",
        "ASSAY_ADMISSION_TENANT_BURST_S": "8",
    }
    (tmp_path / "home").mkdir()
    tls = Tls(files.ca, files.client, files.client_key, server_name="assay.example")
    with running(tmp_path / "home", settings=settings) as (fenced, _):
        nobody = replace(PATIENT, tls=tls, tenant_header="x-lender")
        request = consumer()
        decided = set()
        for tenant in ("bank-a", "bank-b"):
            with Client(fenced.address, replace(nobody, tenant=tenant)) as client:
                assert client.warm_up(60) == 1
                decided.add(client.decide(request).decision_id)
        assert len(decided) == 2, "request ids are a tenant's own"
        with Client(fenced.address, nobody) as client:
            with pytest.raises(errors.InvalidRequest) as raised:
                client.decide(request)
            assert "x-lender" in raised.value.field_violations[0].field
            assert client.decide(request, metadata=[("x-lender", "bank-a")]).replayed
        with Client(fenced.address, replace(nobody, tenant="small")) as client:
            for _ in range(2):
                client.decide(consumer())
            with pytest.raises(errors.Overloaded) as refused:
                client.decide(consumer(), timeout_s=0.5)
            assert (refused.value.reason, refused.value.stopped_by) == ("QUOTA_EXCEEDED", "deadline")
            assert refused.value.retry_after_s is not None and refused.value.retry_after_s > 0.5
            begun = time.monotonic()
            assert client.decide(consumer()).decision_id, "asked again when there is room"
            assert time.monotonic() - begun > 0.5
        quick = replace(nobody, timeout_s=3.0, retry=Retry(attempts_max=1), tenant="bank-a")
        for wrong in (Tls(files.ca, server_name="assay.example"), Tls(files.ca, files.client, files.client_key), None):
            with (
                Client(fenced.address, replace(quick, tls=wrong)) as client,
                pytest.raises((errors.Unavailable, errors.DeadlineExceeded)),
            ):
                client.decide(request)
