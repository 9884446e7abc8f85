"""What two applications differ in, said without a value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.decision.v1.decision_pb2 import Application
from engine.claims.differ import MAX_PATHS, MORE, differences


def application() -> Application:
    made = Application(product="loan", term_months=12)
    made.amount.currency_code, made.amount.units = "EUR", 1000
    made.subject.id = "secret-subject"
    made.entities.add(entity="device", id="d1")
    made.fields["income"].number = 3210.5
    made.fields["purpose"].text = "car"
    return made


def _submitted(a: Application) -> None:
    a.submitted_at.seconds = 5


def _term(a: Application) -> None:
    a.term_months = 24


def _amount(a: Application) -> None:
    a.amount.units = 1234567


def _no_amount(a: Application) -> None:
    a.ClearField("amount")


def _income(a: Application) -> None:
    a.fields["income"].number = 9876543.0


def _other_kind(a: Application) -> None:
    a.fields["income"].integer = 3210


def _no_purpose(a: Application) -> None:
    del a.fields["purpose"]


def _odd_name(a: Application) -> None:
    a.fields["Jane Doe, Elm Street"].flag = True


def _entity(a: Application) -> None:
    a.entities[0].id = "d2"


def _one_more(a: Application) -> None:
    a.entities.add(entity="phone", id="p")


def _several(a: Application) -> None:
    _term(a)
    a.product = "card"
    a.subject.kind = 2  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        (lambda _: None, []),
        (_term, ["application.term_months"]),
        (_amount, ["application.amount.units"]),
        (_no_amount, ["application.amount"]),
        (_income, ['application.fields["income"]']),
        (_other_kind, ['application.fields["income"]']),
        (_no_purpose, ['application.fields["purpose"]']),
        (_odd_name, ['application.fields["?"]']),
        (_entity, ["application.entities[0]"]),
        (_one_more, ["application.entities[1]"]),
        (_submitted, ["application.submitted_at"]),
        (_several, ["application.product", "application.term_months", "application.subject.kind"]),
    ],
)
def test_the_fields_that_differ_are_named(change: Callable[[Application], None], paths: list[str]) -> None:
    first, second = application(), application()
    change(second)
    assert differences(first.SerializeToString(), second.SerializeToString()) == paths
    assert differences(second.SerializeToString(), first.SerializeToString()) == paths


def test_there_are_never_more_than_a_caller_can_read() -> None:
    second = application()
    for i in range(200):
        second.fields[f"field_{i:03}"].flag = True
    found = differences(application().SerializeToString(), second.SerializeToString())
    assert len(found) == MAX_PATHS
    assert found[-1] == MORE


def test_bytes_that_are_no_application_say_nothing() -> None:
    assert differences(b"\xff\xff\xff", application().SerializeToString()) == []


texts = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=6, max_size=20)


@given(texts, texts)
def test_no_value_is_ever_named(one: str, other: str) -> None:
    first, second = Application(product=f"v{one}v"), Application(product=f"v{other}v")
    first.subject.id, second.subject.id = f"w{one}w", f"w{other}w"
    first.fields[f"K{one}"].text = f"x{one}x"
    second.fields[f"K{other}"].text = f"x{other}x"
    found = " ".join(differences(first.SerializeToString(), second.SerializeToString()))
    for text in (one, other):
        assert f"v{text}v" not in found
        assert f"w{text}w" not in found
        assert f"x{text}x" not in found
        assert f"K{text}" not in found
