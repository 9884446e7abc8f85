"""The words of the engine are those of the protos, with the same numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from assay.feature.v1 import feature_pb2 as pb
from engine.features.writing.outcome import CleaningRule, RejectReason


@pytest.mark.parametrize(
    ("enum", "proto", "prefix"),
    [
        (RejectReason, pb.RejectReason, "REJECT_REASON_"),
        (CleaningRule, pb.CleaningRule, "CLEANING_RULE_"),
    ],
)
def test_names_and_numbers_are_those_of_the_protos(enum: type[IntEnum], proto: Any, prefix: str) -> None:
    sent = {name.removeprefix(prefix): number for name, number in proto.items() if number != 0}
    assert {one.name: int(one) for one in enum} == sent
