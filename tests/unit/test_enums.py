"""The engine's own words and the protos' are the same, number by number."""

from __future__ import annotations

from enum import IntEnum

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from assay.decision.v1 import decision_pb2, decision_record_pb2, error_reason_pb2
from engine.domain import enums
from engine.domain.score import ScoreStatus
from engine.rpc.status import code_of


@pytest.mark.parametrize(
    ("ours", "proto", "prefix"),
    [
        (enums.Verdict, decision_pb2.Verdict, "VERDICT_"),
        (enums.FeatureStatus, decision_pb2.FeatureStatus, "FEATURE_STATUS_"),
        (enums.Component, decision_pb2.Component, "COMPONENT_"),
        (enums.SubstitutionAction, decision_pb2.SubstitutionAction, "SUBSTITUTION_ACTION_"),
        (enums.RecordState, decision_pb2.RecordState, "RECORD_STATE_"),
        (enums.ValueOrigin, decision_record_pb2.ValueOrigin, "VALUE_ORIGIN_"),
        (ScoreStatus, decision_pb2.ScoreStatus, "SCORE_STATUS_"),
    ],
)
def test_numbers_and_names_agree(ours: type[IntEnum], proto: EnumTypeWrapper, prefix: str) -> None:
    theirs = {name.removeprefix(prefix): number for name, number in proto.items() if number}
    assert {member.name: member.value for member in ours if member.value} == theirs


def test_every_error_reason_has_a_status_code() -> None:
    for name, number in error_reason_pb2.ErrorReason.items():
        if number:
            assert code_of(name.removeprefix("ERROR_REASON_")).value[0] > 0
