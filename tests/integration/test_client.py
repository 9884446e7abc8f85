"""`assay.client` against a real server: decisions, errors, batches, streams, traces, features, outcomes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

from assay.client import AsyncClient, Client, Options, Outcome, Retry, errors
from assay.client.calls import GET_FEATURES
from assay.client.channels import HEALTH_SERVICE
from assay.decision.v1 import decision_service_pb2_grpc as rpc
from assay.decision.v1.decision_pb2 import Decision
from assay.decision.v1.decision_service_pb2 import DecideRequest, DecideResponse
from assay.feature.v1.feature_pb2 import FeatureRow
from assay.feature.v1.feature_service_pb2 import GetFeaturesRequest
from assay.outcome.v1 import outcome_pb2
from tests.support.applications import consumer, new_id, now_us
from tests.support.server import ServerProcess

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def assay(server: ServerProcess) -> Iterator[Client]:
    # The machine may stand still for longer than a caller would wait.
    with Client(server.address, Options(timeout_s=60, attempt_timeout_s=60)) as client:
        yield client


def ids(outcomes: list[Outcome]) -> list[str]:
    return [outcome.result().request_id for outcome in outcomes]


# --- one call -----------------------------------------------------------------------------------------------------


def test_a_decision_and_its_repeat(assay: Client) -> None:
    request = consumer()
    first = assay.decide(request.application, request_id=request.request_id, language="zh")
    again = assay.decide(request)
    assert (first.request_id, first.language, first.replayed) == (request.request_id, "zh", False)
    assert (again.decision_id, again.replayed) == (first.decision_id, True)
    found = assay.get_decision(request_id=request.request_id, full=True)
    assert found.decision.decision_id == first.decision_id and found.HasField("record")
    assert assay.get_decision(decision_id=first.decision_id).decision.request_id == request.request_id
    with pytest.raises(ValueError, match="not both"):
        assay.get_decision()


def test_who_gives_no_request_id_gets_one_that_can_be_asked_again(assay: Client) -> None:
    one, other = consumer(request_id=""), consumer(request_id="")
    made = assay.decide(one).request_id
    assert made.startswith("req-") and made != assay.decide(other).request_id
    assert one.request_id == "", "the caller's own message is not to be changed"
    assert assay.decide(one, request_id=made).replayed
    with pytest.raises(errors.InvalidRequest) as raised:
        assay.decide(consumer(request_id="", amount=-5))
    assert raised.value.request_id.startswith("req-")


def test_fields_at_fault_are_all_named_and_nothing_is_repeated(assay: Client) -> None:
    wrong = consumer(amount=-5, term_months=7)
    with pytest.raises(errors.InvalidRequest) as raised:
        assay.decide(wrong)
    error = raised.value
    assert {one.field for one in error.field_violations} == {"application.amount", "application.term_months"}
    assert (error.reason, error.metadata["fields"], error.attempts, error.stopped_by) == ("INVALID_REQUEST", "2", 1, "")
    assert error.request_id == wrong.request_id and len(error.trace_id) == 32


def test_other_refusals_have_classes_of_their_own(assay: Client) -> None:
    request = consumer()
    assay.decide(request)
    with pytest.raises(errors.IdReused) as reused:
        assay.decide(consumer(request_id=request.request_id, amount=6000))
    assert "amount" in reused.value.metadata["differs"]
    elsewhere = consumer()
    elsewhere.application.product = "boat_loan"
    with pytest.raises(errors.UnknownFlow) as unknown:
        assay.decide(elsewhere)
    assert "consumer_loan.application" in unknown.value.metadata["known"]
    with pytest.raises(errors.NotFound):
        assay.get_decision(request_id=new_id("nobody"))


def test_a_host_that_is_not_there_is_told_after_all_attempts() -> None:
    options = Options(timeout_s=60, retry=Retry(attempts_max=3, base_s=0.01))
    with Client(["127.0.0.1:1", "127.0.0.1:2"], options) as client:
        assert client.warm_up(0.2) == 0
        with pytest.raises(errors.Unavailable) as raised:
            client.list_flows()
    assert (raised.value.attempts, raised.value.stopped_by, raised.value.reason) == (3, "attempts", "")
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE and raised.value.host in ("127.0.0.1:1", "127.0.0.1:2")


def test_a_host_is_ready_when_its_health_service_says_so() -> None:
    host, state = grpc.server(futures.ThreadPoolExecutor(4)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, host)
    address = f"127.0.0.1:{host.add_insecure_port('127.0.0.1:0')}"
    host.start()
    try:
        state.set(HEALTH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        with Client(address) as client:
            assert client.warm_up(0.3) == 0
            state.set(HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
            assert client.warm_up(60) == 1
        state.set(HEALTH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        with Client(address, Options(health=False)) as client:
            assert client.warm_up(60) == 1
    finally:
        host.stop(None)


class _Named(rpc.DecisionServiceServicer):
    """A host of the stubs alone, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def Decide(self, request: DecideRequest, context: grpc.ServicerContext) -> DecideResponse:
        self.calls += 1
        return DecideResponse(decision=Decision(request_id=request.request_id))


def _serve(servicer: _Named, port: int = 0) -> tuple[grpc.Server, int]:
    made = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_DecisionServiceServicer_to_server(servicer, made)
    port = made.add_insecure_port(f"127.0.0.1:{port}")
    made.start()
    return made, port


def test_a_host_that_comes_back_gets_its_share_again() -> None:
    first, second = _Named(), _Named()  # type: ignore[abstract]
    (stays, first_port), (goes, second_port) = _serve(first), _serve(second)
    options = Options(timeout_s=60, attempt_timeout_s=60, health=False)
    try:
        with Client([f"127.0.0.1:{first_port}", f"127.0.0.1:{second_port}"], options) as client:
            assert client.warm_up(60) == 2
            goes.stop(None).wait()
            for _ in range(20):
                client.decide(consumer())
            assert (first.calls, second.calls) == (20, 0)
            goes, _ = _serve(second, second_port)
            end = time.monotonic() + 60
            while second.calls == 0:
                assert time.monotonic() < end, "it never came back"
                client.decide(consumer())
            before = second.calls
            for _ in range(40):
                client.decide(consumer())
            assert second.calls - before >= 15
    finally:
        stays.stop(None)
        goes.stop(None)


# --- traces -------------------------------------------------------------------------------------------------------


def test_the_callers_trace_goes_along_with_decisions_and_errors(assay: Client) -> None:
    assert assay.decide(consumer(), traceparent=PARENT).trace_id == TRACE
    with pytest.raises(errors.InvalidRequest) as raised:
        assay.decide(consumer(amount=-5), traceparent=PARENT)
    assert raised.value.trace_id == TRACE
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        assert assay.decide(consumer()).trace_id == f"{span.get_span_context().trace_id:032x}"
    assert assay.decide(consumer()).trace_id not in ("", TRACE)


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_of_any_size_keeps_its_order_and_its_errors_apart(server: ServerProcess) -> None:
    sent = [consumer() for _ in range(300)]
    sent[7] = consumer(amount=-5)
    # More than the server takes at once: it says how many that is.
    with Client(server.address, Options(batch_timeout_s=120, items_max=1_000)) as client:
        found = list(client.decide_many(iter(sent)))
        assert list(client.decide_many([])) == []
    assert [one.request_id for one in found] == [one.request_id for one in sent]
    assert [i for i, one in enumerate(found) if one.decision is None] == [7]
    error = found[7].error
    assert isinstance(error, errors.InvalidRequest) and error.request_id == sent[7].request_id
    assert [one.field for one in error.field_violations] == ["requests[7].application.amount"]
    with pytest.raises(errors.InvalidRequest):
        found[7].result()


def test_a_batch_that_no_host_takes_fails_item_by_item() -> None:
    with Client("127.0.0.1:1", Options(retry=Retry(attempts_max=2, base_s=0.01))) as client:
        found = list(client.decide_many([consumer(), consumer()]))
    assert [type(one.error) for one in found] == [errors.Unavailable] * 2
    assert [one.error.request_id for one in found if one.error] == [one.request_id for one in found]


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_keeps_order_and_window(assay: Client) -> None:
    sent = [consumer() for _ in range(60)]
    sent[3] = consumer(amount=-5)
    read = 0

    def source() -> Iterator[DecideRequest]:
        nonlocal read
        for request in sent:
            read += 1
            yield request

    found = []
    for given, outcome in enumerate(assay.decide_stream(source(), window=5)):
        assert read - given <= 6, "it read more ahead than its window, and this one"
        found.append(outcome)
    assert [one.request_id for one in found] == [one.request_id for one in sent]
    assert [i for i, one in enumerate(found) if one.error] == [3]
    assert isinstance(found[3].error, errors.InvalidRequest)
    assert list(assay.decide_stream([])) == []


def test_a_stream_answers_while_its_source_waits_for_the_answer(assay: Client) -> None:
    answered = threading.Semaphore(1)

    def source() -> Iterator[DecideRequest]:
        for _ in range(4):
            assert answered.acquire(timeout=60)
            yield consumer()

    for outcome in assay.decide_stream(source(), window=64):
        assert outcome.decision is not None
        answered.release()


def test_what_the_source_raises_comes_after_what_it_gave(assay: Client) -> None:
    def source() -> Iterator[DecideRequest]:
        yield consumer()
        raise LookupError("the file ends here")

    found = []
    with pytest.raises(LookupError, match="ends here"):
        for outcome in assay.decide_stream(source()):
            found.append(outcome)
    assert len(found) == 1 and found[0].decision is not None


def test_a_stream_outlives_the_streams_that_carry_it(server: ServerProcess) -> None:
    sent = [consumer() for _ in range(6)]
    pause = threading.Event()

    def source() -> Iterator[DecideRequest]:
        for request in sent:
            yield request
            pause.wait(0.4)

    with Client(server.address, Options(stream_s=0.7)) as client:
        assert ids(list(client.decide_stream(source()))) == [one.request_id for one in sent]


def test_a_stream_that_is_left_early_leaves_no_thread_behind(assay: Client) -> None:
    before = threading.active_count()
    for _ in range(3):
        for outcome in assay.decide_stream(consumer() for _ in range(1_000)):
            assert outcome.decision is not None
            break
    for _ in range(100):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.1)
    assert threading.active_count() <= before


# --- features and outcomes ----------------------------------------------------------------------------------------


def test_features_are_written_read_and_erased(assay: Client) -> None:
    subject = new_id("client")
    row = FeatureRow(view="applicant_file", entity_id=subject)
    row.event_time.FromMicroseconds(now_us())
    row.values["age_years"].integer = 44
    for _ in range(2):
        answer = assay.put_features([row])
        assert answer.written + answer.ignored_older == 1 and not answer.rejected
    request = GetFeaturesRequest(entity="applicant", entity_id=subject, views=["applicant_file"])
    (view,) = assay.get_features(request).views
    assert {one.name: one.value.integer for one in view.features}["age_years"] == 44
    assert assay.call(GET_FEATURES, request).views[0].schema_fingerprint == view.schema_fingerprint
    assert assay.delete_subject(subject).rows_removed == 1
    assert assay.delete_subject(subject).rows_removed == 0


def test_an_outcome_is_recorded_once(assay: Client) -> None:
    decision = assay.decide(consumer())
    outcome = outcome_pb2.Outcome(outcome_id=new_id("outcome"), decision_id=decision.decision_id, source="servicing")
    outcome.observed_at.FromMicroseconds(now_us())
    outcome.repayment_status.days_past_due = 0
    assert not assay.record_outcome(outcome).already_recorded
    assert assay.record_outcome(outcome).already_recorded
    outcome.repayment_status.days_past_due = 30
    with pytest.raises(errors.IdReused):
        assay.record_outcome(outcome)
    assert len(assay.list_outcomes(decision.decision_id).outcomes) == 1


# --- asyncio ------------------------------------------------------------------------------------------------------


def test_the_same_for_asyncio(server: ServerProcess) -> None:
    async def run() -> None:
        options = Options(timeout_s=60, attempt_timeout_s=60, batch_timeout_s=120, items_max=3)
        async with AsyncClient(server.address, options) as client:
            assert await client.warm_up(60) == 1
            sent = [consumer() for _ in range(8)]
            first = await asyncio.gather(*(client.decide(one, traceparent=PARENT) for one in sent))
            assert {one.trace_id for one in first} == {TRACE}
            again = [one.result() async for one in client.decide_many(sent)]
            assert [one.decision_id for one in again] == [one.decision_id for one in first]
            with pytest.raises(errors.InvalidRequest) as raised:
                await client.decide(consumer(amount=-5), traceparent=PARENT)
            assert raised.value.field_violations and raised.value.trace_id == TRACE

            async def source() -> AsyncIterator[DecideRequest]:
                for one in sent:
                    yield one
                yield consumer(amount=-5)

            outcomes = [one async for one in client.decide_stream(source(), window=3)]
            assert ids(outcomes[:-1]) == [one.request_id for one in sent]
            assert isinstance(outcomes[-1].error, errors.InvalidRequest)
            assert ids([one async for one in client.decide_stream(sent)]) == [one.request_id for one in sent]
            assert [one async for one in client.decide_stream([])] == []
            flows = await client.list_flows()
            assert flows.flows

    asyncio.run(run())


def test_a_broken_source_for_asyncio(server: ServerProcess) -> None:
    async def source() -> AsyncIterator[DecideRequest]:
        yield consumer()
        raise LookupError("the file ends here")

    async def run() -> list[Outcome]:
        found = []
        async with AsyncClient(server.address) as client:
            with pytest.raises(LookupError, match="ends here"):
                async for outcome in client.decide_stream(source()):
                    found.append(outcome)
        return found

    assert len(asyncio.run(run())) == 1
