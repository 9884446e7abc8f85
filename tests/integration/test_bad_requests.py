"""Requests at fault: the right code, every field's path at once, nothing of the caller's values, and a server that goes
on."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import consumer
from tests.support.errors import Failure, failure_of
from tests.support.server import Client

METHODS = ("Decide", "DecideBatch", "GetDecision")
PREFIX = "/assay.decision.v1.DecisionService/"
SECRET = "SECRET-4929-1234"
EXCEPTION_WORDS = ("Traceback", "Exception", "Error(", "TypeError", "ValueError", "KeyError", "NoneType", "<class")

Change = Callable[[pb.DecideRequest], Any]


def unary(client: Client, method: str, content: bytes) -> bytes:
    """Sends bytes as they are."""
    call: Any = client.channel.unary_unary(PREFIX + method)
    return bytes(call(content, timeout=60))


def refused(client: Client, request: pb.DecideRequest) -> Failure:
    """The failure of a request that must be refused as a bad one; a good one after it must succeed."""
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.Decide(request, timeout=60)
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, failure
    assert failure.domain == "assay.decision.v1"
    assert failure.fields
    assert all(failure.fields.values()), "every field says what is wrong with it"
    assert not any(word in failure.everything for word in EXCEPTION_WORDS), failure
    return failure


def _set(path: str, value: Any) -> Change:
    def change(request: pb.DecideRequest) -> None:
        *parents, last = path.split(".")
        target: Any = request
        for name in parents:
            target = getattr(target, name)
        setattr(target, last, value)

    return change


def _field(name: str, kind: str, value: Any) -> Change:
    return lambda r: setattr(r.application.fields[name], kind, value)


def _far(**parts: int) -> Change:
    return lambda r: r.application.submitted_at.CopyFrom(Timestamp(**parts))


def _money(name: str, currency: str, units: int, nanos: int = 0) -> Change:
    def change(request: pb.DecideRequest) -> None:
        money = request.application.fields[name].money
        money.currency_code, money.units, money.nanos = currency, units, nanos

    return change


def _entity(entity: str, entity_id: str) -> Change:
    return lambda r: r.application.entities.add(entity=entity, id=entity_id)


INCOME = 'application.fields["stated_monthly_income"]'
A = "application"
CASES: dict[str, tuple[Change, set[str]]] = {
    "no request id": (_set("request_id", ""), {"request_id"}),
    "long request id": (_set("request_id", "x" * 129), {"request_id"}),
    "space in request id": (_set("request_id", "a b"), {"request_id"}),
    "newline in request id": (_set("request_id", "abc\n"), {"request_id"}),
    "nul in request id": (_set("request_id", "a\x00"), {"request_id"}),
    "unicode request id": (_set("request_id", "贷款１"), {"request_id"}),
    "unknown language": (_set("language", "fr"), {"language"}),
    "language in capitals": (_set("language", "EN"), {"language"}),
    "no product": (_set("application.product", ""), {f"{A}.product"}),
    "unknown product": (_set("application.product", "boat_loan"), {f"{A}.product"}),
    "product with a moment": (_set("application.product", "consumer_loan.application"), {f"{A}.product"}),
    "unknown moment": (_set("application.moment", "renewal"), {f"{A}.moment"}),
    "no amount": (lambda r: r.application.ClearField("amount"), {f"{A}.amount"}),
    "amount of zero": (_set("application.amount.units", 0), {f"{A}.amount"}),
    "negative amount": (_set("application.amount.units", -5000), {f"{A}.amount"}),
    "amount below the bound": (_set("application.amount.units", 499), {f"{A}.amount"}),
    "amount above the bound": (_set("application.amount.units", 50_001), {f"{A}.amount"}),
    "huge amount": (_set("application.amount.units", 2**63 - 1), {f"{A}.amount.units"}),
    "hugely negative amount": (_set("application.amount.units", -(2**63)), {f"{A}.amount.units"}),
    "no currency": (_set("application.amount.currency_code", ""), {f"{A}.amount.currency_code"}),
    "another currency": (_set("application.amount.currency_code", "EUR"), {f"{A}.amount.currency_code"}),
    "currency in small letters": (_set("application.amount.currency_code", "usd"), {f"{A}.amount.currency_code"}),
    "fraction of a cent": (_set("application.amount.nanos", 1), {f"{A}.amount.nanos"}),
    "nanos of another sign": (_set("application.amount.nanos", -10_000_000), {f"{A}.amount.nanos"}),
    "nanos too large": (_set("application.amount.nanos", 1_000_000_000), {f"{A}.amount.nanos"}),
    "term of zero": (_set("application.term_months", 0), {f"{A}.term_months"}),
    "negative term": (_set("application.term_months", -(2**31)), {f"{A}.term_months"}),
    "term not offered": (_set("application.term_months", 25), {f"{A}.term_months"}),
    "no subject": (lambda r: r.application.ClearField("subject"), {f"{A}.subject.id"}),
    "subject of another kind": (_set("application.subject.kind", 2), {f"{A}.subject.kind"}),
    "subject of an unknown kind": (_set("application.subject.kind", 99), {f"{A}.subject.kind"}),
    "strange subject": (_set("application.subject.id", "a/../b"), {f"{A}.subject.id"}),
    "unknown entity": (_entity("aircraft", "x"), {f"{A}.entities[7].entity"}),
    "entity without a name": (_entity("", "x"), {f"{A}.entities[7].entity"}),
    "entity twice": (_entity("device", "d2"), {f"{A}.entities[7].entity"}),
    "entity without an id": (lambda r: setattr(r.application.entities[2], "id", ""), {f"{A}.entities[2].id"}),
    "too many entities": (
        lambda r: [r.application.entities.add(entity="device", id=f"d{i}") for i in range(40)],
        {f"{A}.entities"},
    ),
    "unknown field": (_field("stated_montly_income", "number", 1.0), {'application.fields["stated_montly_income"]'}),
    "field without a name": (_field("", "number", 1.0), {'application.fields[""]'}),
    "feature of a view": (_field("debt_ratio", "number", 0.1), {'application.fields["debt_ratio"]'}),
    "derived feature": (_field("monthly_income", "number", 1e6), {'application.fields["monthly_income"]'}),
    "NaN": (_field("stated_monthly_income", "number", math.nan), {f"{INCOME}.number"}),
    "infinity": (_field("stated_monthly_income", "number", math.inf), {f"{INCOME}.number"}),
    "negative infinity": (_field("stated_monthly_income", "number", -math.inf), {f"{INCOME}.number"}),
    "number too large": (_field("stated_monthly_income", "number", 1e308), {f"{INCOME}.number"}),
    "negative number": (_field("stated_monthly_income", "number", -0.01), {f"{INCOME}.number"}),
    "integer too large": (_field("stated_monthly_income", "integer", 2**62), {f"{INCOME}.integer"}),
    "flag for a number": (_field("stated_monthly_income", "flag", True), {f"{INCOME}.flag"}),
    "text for a number": (_field("stated_monthly_income", "text", SECRET), {f"{INCOME}.text"}),
    "long text for a number": (_field("stated_monthly_income", "text", "9" * 100_000), {f"{INCOME}.text"}),
    "time for a number": (
        lambda r: r.application.fields["stated_monthly_income"].time.GetCurrentTime(),
        {f"{INCOME}.time"},
    ),
    "empty value": (lambda r: r.application.fields["stated_monthly_income"].Clear(), {INCOME}),
    "money of another currency": (_money("stated_monthly_income", "CNY", 1), {f"{INCOME}.money.currency_code"}),
    "money for seconds": (_money("form_fill_seconds", "USD", 60), {'application.fields["form_fill_seconds"].money'}),
    "submitted tomorrow": (_far(seconds=4_000_000_000), {f"{A}.submitted_at"}),
    "submitted before time": (_far(seconds=-(2**60)), {f"{A}.submitted_at"}),
    "submitted after time": (_far(seconds=2**60), {f"{A}.submitted_at"}),
    "submitted with bad nanos": (_far(seconds=1, nanos=-1), {f"{A}.submitted_at"}),
}


@pytest.mark.parametrize("name", CASES)
def test_one_mistake_is_named_by_its_path(client: Client, name: str) -> None:
    change, paths = CASES[name]
    request = consumer()
    change(request)
    failure = refused(client, request)
    assert set(failure.fields) == paths
    flow_unknown = name in ("unknown product", "product with a moment", "unknown moment")
    assert failure.reason == ("UNKNOWN_FLOW" if flow_unknown else "INVALID_REQUEST")
    assert SECRET not in failure.everything
    assert len(failure.everything) < 4000


def test_all_mistakes_are_named_at_once(client: Client) -> None:
    request = consumer(request_id="no spaces please", language="xx")
    application = request.application
    application.amount.units = -1
    application.term_months = 1
    application.subject.id = "#"
    application.entities[0].entity = "toaster"
    application.entities[1].id = "?"
    application.fields["stated_monthly_income"].number = math.nan
    application.fields["form_fill_seconds"].text = "quick"
    application.fields["mood"].flag = True
    application.submitted_at.seconds = 2**60
    failure = refused(client, request)
    assert set(failure.fields) == {
        "request_id",
        "language",
        "application.amount",
        "application.term_months",
        "application.subject.id",
        "application.entities[0].entity",
        "application.entities[1].id",
        'application.fields["stated_monthly_income"].number',
        'application.fields["form_fill_seconds"].text',
        'application.fields["mood"]',
        "application.submitted_at",
    }
    assert failure.metadata["fields"] == "11"


def test_an_empty_request_names_all_that_is_required(client: Client) -> None:
    failure = refused(client, pb.DecideRequest())
    assert failure.reason == "INVALID_REQUEST"
    assert set(failure.fields) == {
        "request_id",
        "application.product",
        "application.amount",
        "application.term_months",
        "application.subject.id",
    }


def test_a_near_miss_is_hinted_at(client: Client) -> None:
    request = consumer()
    request.application.fields["stated_montly_income"].number = 1
    request.application.product = "consumer_loan"
    assert "stated_monthly_income" in refused(client, request).message
    request.application.product = "consumer_lone"
    assert "consumer_loan" in refused(client, request).message


def test_values_are_not_sent_back(client: Client) -> None:
    """What a caller puts in the wrong place may be personal data; an error's text ends in logs of many kinds."""
    request = consumer(SECRET + " with a space", request_id=SECRET + "!")
    request.application.product = SECRET
    assert SECRET not in refused(client, request).everything
    request.application.product = "consumer_loan"
    request.application.moment = SECRET
    assert SECRET not in refused(client, request).everything
    request.application.moment = ""
    request.application.entities[0].entity = SECRET
    request.application.entities[1].id = SECRET + "/"
    request.application.fields["stated_monthly_income"].text = SECRET
    request.language = SECRET
    failure = refused(client, request)
    assert SECRET not in failure.everything


def test_very_many_mistakes_give_an_error_that_still_arrives(client: Client) -> None:
    """gRPC carries errors in headers of 8 KB; one that is larger would reach the caller as another error."""
    request = consumer()
    for index in range(250):
        request.application.fields[f"{index:03d}_" + "ünknown" * 20].number = 1.0
    failure = refused(client, request)
    assert failure.reason == "INVALID_REQUEST"
    assert int(failure.metadata["fields"]) == 250
    for index in range(20):
        request.application.fields[f"more_{index}"].number = 1.0
    failure = refused(client, request)
    assert set(failure.fields) == {"application.fields"}


def test_a_message_that_is_too_large_is_refused_and_the_connection_lives(client: Client) -> None:
    request = consumer()
    request.application.fields["stated_monthly_income"].text = "x" * 10_000_000
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.Decide(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.stub.Decide(consumer()).decision.decision_id


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "content", [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x05abc", b"GET / HTTP/1.1\r\n", b"\x00"]
)
def test_bytes_that_are_no_message_are_an_invalid_request(client: Client, method: str, content: bytes) -> None:
    call: Any = client.channel.unary_unary(PREFIX + method)
    with pytest.raises(grpc.RpcError) as caught:
        call(content, timeout=60)
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    assert not any(word in failure.everything for word in EXCEPTION_WORDS)


def test_bytes_that_are_no_message_do_not_end_a_stream(client: Client) -> None:
    call: Any = client.channel.stream_stream(PREFIX + "DecideStream")
    good = pb.DecideStreamRequest(request=consumer()).SerializeToString()
    answers = [pb.DecideStreamResponse.FromString(a) for a in call(iter([b"\xff\xff", good]), timeout=60)]
    assert [a.WhichOneof("outcome") for a in answers] == ["error", "decision"]


def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(client, "Approve", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_fields_of_a_later_version_are_let_through(client: Client) -> None:
    request = consumer()
    content = request.SerializeToString() + b"\xa2\x06\x03new" + b"\xf8\x07\x01"
    answer = unary(client, "Decide", content)
    assert pb.DecideResponse.FromString(answer).decision.request_id == request.request_id


def test_a_wrong_utf8_string_is_an_invalid_request(client: Client) -> None:
    content = consumer(request_id="").SerializeToString() + b"\x0a\x02\xff\xfe"
    with pytest.raises(grpc.RpcError) as caught:
        unary(client, "Decide", content)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_of_a_good_request_with_bits_flipped_never_break_the_server(client: Client) -> None:
    """Either a proper refusal or a decision; nothing unforeseen."""
    source = random.Random(7)
    decide: Any = client.channel.unary_unary(PREFIX + "Decide")
    batch: Any = client.channel.unary_unary(PREFIX + "DecideBatch")
    for _ in range(400):
        # A changed id must not be one that a later test takes.
        content = bytearray(consumer(request_id=f"flipped-{uuid.uuid4()}").SerializeToString())
        for _ in range(source.randint(1, 4)):
            content[source.randrange(len(content))] = source.randrange(256)
        call = decide
        if source.random() < 0.3:
            call, content = batch, bytearray(b"\x0a\x80\x04") + content
        try:
            call(bytes(content), timeout=60)
        except grpc.RpcError as error:
            failure = failure_of(error)
            assert failure.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS), failure
            assert failure.reason
    assert client.stub.Decide(consumer()).decision.decision_id


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["consumer_loan", "sme_loan", "application", "USD", "en", "x" * 300, "\x00", "\u202eabc", "' OR 1=1 --"]
    ),
)
ids = st.one_of(texts, st.from_regex(r"[A-Za-z0-9._:@-]{1,128}", fullmatch=True))
int64s = st.integers(-(2**63), 2**63 - 1)
int32s = st.integers(-(2**31), 2**31 - 1)
names = st.one_of(
    texts,
    st.sampled_from(["stated_monthly_income", "form_fill_seconds", "occupation_median_income", "debt_ratio"]),
)
moneys: st.SearchStrategy[dict[str, Any]] = st.builds(dict, currency_code=texts, units=int64s, nanos=int32s)
times: st.SearchStrategy[dict[str, Any]] = st.builds(dict, seconds=int64s, nanos=int32s)
values = st.one_of(
    st.just({}),
    st.builds(lambda x: {"number": x}, st.floats()),
    st.builds(lambda x: {"integer": x}, int64s),
    st.builds(lambda x: {"flag": x}, st.booleans()),
    st.builds(lambda x: {"text": x}, texts),
    st.builds(lambda x: {"time": x}, times),
    st.builds(lambda x: {"money": x}, moneys),
)
applications = st.fixed_dictionaries(
    {},
    optional={
        "product": st.one_of(st.just("consumer_loan"), texts),
        "moment": st.one_of(st.just(""), texts),
        "amount": st.one_of(st.just({"currency_code": "USD", "units": 5000}), moneys),
        "term_months": st.one_of(st.just(24), int32s),
        "subject": st.builds(dict, id=ids, kind=st.integers(0, 5)),
        "entities": st.lists(st.builds(dict, entity=st.one_of(st.just("device"), texts), id=ids), max_size=4),
        "fields": st.dictionaries(names, values, max_size=5),
        "submitted_at": times,
    },
)


@settings(max_examples=250)
@given(application=applications, request_id=ids, language=st.one_of(st.just("en"), texts))
def test_whatever_is_sent_the_answer_is_a_decision_or_a_proper_refusal(
    client: Client, application: dict[str, Any], request_id: str, language: str
) -> None:
    fields = application.pop("fields", {})
    built = decision_pb2.Application(**application)
    for name, value in fields.items():
        built.fields[name].CopyFrom(decision_pb2.Value(**value))
    request = pb.DecideRequest(request_id=request_id, application=built, language=language)
    try:
        decision = client.stub.Decide(request, timeout=60).decision
    except grpc.RpcError as error:
        failure = failure_of(error)
        assert failure.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS), failure
        assert failure.reason
        assert not any(word in failure.everything for word in EXCEPTION_WORDS)
    else:
        assert decision.verdict in (decision_pb2.VERDICT_REFER, decision_pb2.VERDICT_DECLINE)
