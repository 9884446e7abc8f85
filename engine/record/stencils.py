"""What answers and records of a flow have in common, serialised once when a bundle is put in service.

A Score or a Reason differs from the next of its kind by some numbers. All but these, the length in front of it
included, is kept and put in whole. What depends on more than the bundle (the rank of a reason, the way a value was
stood in for) is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.domain.enums import RecordState
from engine.record.wire import field as wire_field
from engine.record.wire import text, varint

RECORD_SCHEMA = 1
_NANOS_PER_S = 1_000_000_000
# raw, probability and points take 1 + 8, 1 + 8 and 1 + 10 bytes at most.
_NUMBERS_MAX = 29
_KEPT_MAX = 4096
_WAYS = 64


class _Kept(dict[tuple[int, int], bytes]):
    """The head of a ModelRun by the length of its numbers and of its contributions, with the tag of these: -1 for none.

    ModelRun: contributions = 8, status = 11. DecisionRecord: runs = 7.
    """

    def __init__(self, head: bytes) -> None:
        super().__init__()
        self._head = head + b"\x58\x01"

    def __missing__(self, key: tuple[int, int]) -> bytes:
        numbers, contributions = key
        head = self._head + (b"" if contributions < 0 else b"\x42" + varint(contributions))
        made = b"\x3a" + varint(len(head) + numbers + max(contributions, 0)) + head
        if len(self) < _KEPT_MAX:
            self[key] = made
        return made


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """What a model's answers are labelled with, serialised: the constant parts of its Score and of its ModelRun.

    scores: by the length of its numbers, the field of a Score that is there, all but the numbers; runs: see `_Kept`.
    """

    score_head: bytes
    run_head: bytes
    scores: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    runs: Mapping[tuple[int, int], bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Score: status = 8. Decision: scores = 6.
        head = self.score_head + b"\x40\x01"
        scores = tuple(b"\x32" + varint(len(head) + size) + head for size in range(_NUMBERS_MAX + 1))
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "runs", _Kept(self.run_head))


# Which list a reason is in, as its tag in a Decision; its rank, code, features and rule; whether it has a contribution.
ReasonKey = tuple[bytes, int, str, tuple[str, ...], str, bool]


class ReasonStencils(dict[ReasonKey, bytes]):
    """The fields of a Decision that are reasons, in one language: all but the contribution, which comes last.

    Reason: rank = 3, contribution = 5, features = 6, rule = 7.
    """

    def __init__(self, heads: Mapping[str, bytes]) -> None:
        """heads: by code, what `reason_head` gives."""
        super().__init__()
        self._heads = heads

    def __missing__(self, key: ReasonKey) -> bytes:
        tag, rank, code, features, rule, has_contribution = key
        content = self._heads[code] + b"\x18" + varint(rank) + b"".join([text(b"\x32", name) for name in features])
        content += text(b"\x3a", rule)
        if has_contribution:
            content += b"\x29"
        made = tag + varint(len(content) + (8 if has_contribution else 0)) + content
        if len(self) < _KEPT_MAX:
            self[key] = made
        return made


class CodeStencils(dict[tuple[str, str], bytes]):
    """A reason's code and rule as fields of PackedReasons: codes = 1, rules = 4."""

    def __missing__(self, key: tuple[str, str]) -> bytes:
        code, rule = key
        made = wire_field(b"\x0a", code.encode()) + wire_field(b"\x22", rule.encode())
        if len(self) < _KEPT_MAX:
            self[key] = made
        return made


class StandIns:
    """What is said of a feature besides numbers, by how it was stood in for. Substitution: feature = 1, status = 2,
    action = 3."""

    __slots__ = ("_feature", "_made")

    def __init__(self, feature: str) -> None:
        self._feature = feature
        self._made: list[bytes | None] = [None] * _WAYS

    def head(self, status: int, action: int) -> bytes:
        """status, action: numbers below 8."""
        # Not a dict: hashing a member of an enum is a call in Python.
        way = status * 8 + action
        made = self._made[way]
        if made is None:
            made = text(b"\x0a", self._feature) + b"\x10" + varint(status) + b"\x18" + varint(action)
            self._made[way] = made
        return made


@dataclass(frozen=True, slots=True)
class FlowLabels:
    """Everything constant that answers of one flow carry. decision_heads and reason_heads go by language; reasons then
    by code. record_head: the constant part of the record; facts_head: that of its packed facts.

    The rest follows from these. reasons: by language; stand_ins: by slot; money: what an amount begins with; parts: the
    nanoseconds of a Money by its minor units; kept: the beginning of a record's open part.
    """

    currency: str
    minor_per_major: int
    features: tuple[str, ...]
    models: tuple[ModelLabel, ...]
    decision_heads: Mapping[str, bytes]
    reason_heads: Mapping[str, Mapping[str, bytes]]
    record_head: bytes
    facts_head: bytes
    reasons: Mapping[str, ReasonStencils] = field(init=False, repr=False, compare=False)
    stand_ins: tuple[StandIns, ...] = field(init=False, repr=False, compare=False)
    money: bytes = field(init=False, repr=False, compare=False)
    parts: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    kept: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("reasons", {language: ReasonStencils(heads) for language, heads in self.reason_heads.items()})
        put("stand_ins", tuple(StandIns(name) for name in self.features))
        # Money: currency_code = 1, units = 2, nanos = 3.
        put("money", text(b"\x0a", self.currency) + b"\x10")
        nanos = _NANOS_PER_S // self.minor_per_major
        put("parts", (b"", *(b"\x18" + varint(n * nanos) for n in range(1, self.minor_per_major))))
        # DecisionRecord: packed_facts = 4.
        put("kept", self.record_head + wire_field(b"\x22", self.facts_head))


def decision_head(flow: str, bundle: pb.BundleRef, language: str) -> bytes:
    """The constant part of a Decision."""
    decision = pb.Decision(flow=flow, bundle=bundle, language=language)
    decision.record_state = RecordState.RECORDED  # type: ignore[assignment]
    return decision.SerializeToString()


def model_label(
    model: str, version: str, digest: str, component: int, base: float | None, attribution: str
) -> ModelLabel:
    """The labels of a model; base is None for one that does not explain itself."""
    score = pb.Score(model=model, version=version, explained=base is not None)
    score.component = component  # type: ignore[assignment]
    run = record_pb.ModelRun(model=model, version=version, digest=digest, base=base, attribution=attribution)
    return ModelLabel(score.SerializeToString(), run.SerializeToString())


def reason_head(code: str, component: int, applicant_text: str, internal_text: str, regulation_b: str) -> bytes:
    """The constant part of a Reason."""
    reason = pb.Reason(code=code, text=applicant_text, internal_text=internal_text, regulation_b=regulation_b)
    reason.component = component  # type: ignore[assignment]
    return reason.SerializeToString()


def record_heads(
    catalogue_digest: str, environment_digest: str, engine_version: str, store: str, policy_digest: str = ""
) -> tuple[bytes, bytes]:
    """The constant parts of a DecisionRecord and of its PackedFacts."""
    record = record_pb.DecisionRecord(
        schema_version=RECORD_SCHEMA,
        engine_version=engine_version,
        environment_digest=environment_digest,
        store=store,
        policy_digest=policy_digest,
    )
    return record.SerializeToString(), record_pb.PackedFacts(catalogue_digest=catalogue_digest).SerializeToString()
