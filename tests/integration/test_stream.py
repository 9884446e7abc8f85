"""DecideStream: answers are correlated, an error ends nothing, and streams leave threads for single calls."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import consumer
from tests.support.errors import failure_of, failure_of_status
from tests.support.server import Client, running


class Talk:
    """One open stream that is written to by hand."""

    def __init__(self, client: Client) -> None:
        self._out: queue.Queue[pb.DecideStreamRequest | None] = queue.Queue()
        self.call = client.stub.DecideStream(self._requests(), timeout=100)

    def _requests(self) -> Iterator[pb.DecideStreamRequest]:
        while (message := self._out.get()) is not None:
            yield message

    def ask(self, request: pb.DecideRequest) -> pb.DecideStreamResponse:
        """Sends one request and waits for one answer."""
        self._out.put(pb.DecideStreamRequest(request=request))
        return next(self.call)

    def end(self) -> None:
        """Says that no more requests come."""
        self._out.put(None)


def test_every_request_of_a_stream_is_answered_under_its_id(client: Client) -> None:
    requests = [consumer() for _ in range(40)]
    answers = list(client.stub.DecideStream(iter([pb.DecideStreamRequest(request=r) for r in requests])))
    assert sorted(a.request_id for a in answers) == sorted(r.request_id for r in requests)
    assert all(a.decision.request_id == a.request_id for a in answers)


def test_an_error_is_answered_and_the_stream_goes_on(client: Client) -> None:
    bad = consumer()
    bad.application.amount.currency_code = "EUR"
    used = consumer()
    client.stub.Decide(used)
    used.application.term_months = 36
    requests = [consumer(), bad, pb.DecideRequest(), used, consumer()]
    stream = client.stub.DecideStream(iter([pb.DecideStreamRequest(request=r) for r in requests]))
    answers = {a.request_id: a for a in stream}
    assert len(answers) == 5
    failure = failure_of_status(answers[bad.request_id].error)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    assert set(failure.fields) == {"request.application.amount.currency_code"}
    assert "request.request_id" in failure_of_status(answers[""].error).fields
    assert failure_of_status(answers[used.request_id].error).reason == "REQUEST_ID_REUSED"
    assert answers[requests[-1].request_id].WhichOneof("outcome") == "decision"


def test_a_stream_of_nothing_ends_well(client: Client) -> None:
    assert list(client.stub.DecideStream(iter([]))) == []


def test_repeats_in_a_stream_get_the_stored_answer(client: Client) -> None:
    request = consumer()
    messages = [pb.DecideStreamRequest(request=request)] * 3
    answers = [a.decision for a in client.stub.DecideStream(iter(messages))]
    assert len({a.decision_id for a in answers}) == 1
    assert [a.replayed for a in answers] == [False, True, True]


def test_too_many_streams_are_refused_and_single_calls_go_on(tmp_path: Path) -> None:
    settings = {"ASSAY_SERVER_STREAMS_MAX": "2", "ASSAY_SERVER_THREADS": "3"}
    with running(tmp_path, settings=settings) as (_, client):
        open_streams = [Talk(client), Talk(client)]
        for talk in open_streams:
            assert talk.ask(consumer()).WhichOneof("outcome") == "decision"
        third = Talk(client)
        with pytest.raises(grpc.RpcError) as caught:
            third.ask(consumer())
        failure = failure_of(caught.value)
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "OVERLOADED"
        assert failure.retry_ms is not None
        assert failure.retry_ms > 0
        assert client.stub.Decide(consumer(), timeout=60).decision.decision_id

        open_streams[0].end()
        assert list(open_streams[0].call) == []
        fourth = Talk(client)
        assert fourth.ask(consumer()).WhichOneof("outcome") == "decision"
        for talk in (open_streams[1], fourth):
            talk.end()


def test_a_caller_that_goes_away_frees_its_stream(tmp_path: Path) -> None:
    with running(tmp_path, settings={"ASSAY_SERVER_STREAMS_MAX": "1"}) as (_, client):
        for _ in range(5):
            talk = Talk(client)
            end_s = time.monotonic() + 60
            while True:
                try:
                    answer = talk.ask(consumer())
                    break
                except grpc.RpcError as error:
                    # The server has not noticed yet that the last caller went away.
                    assert failure_of(error).reason == "OVERLOADED"
                    assert time.monotonic() < end_s
                    talk.end()
                    talk = Talk(client)
            assert answer.WhichOneof("outcome") == "decision"
            talk.call.cancel()
            talk.end()
