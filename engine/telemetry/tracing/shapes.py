"""The spans of the engine: what each is called, of what kind it is, and which attributes it carries in which order.

A span on the request path is a tuple, and its attributes are a tuple of bare values in the order of its shape; a value
that is None gives no attribute. The names are put to them by the encoder, outside of the request path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine.telemetry.tracing import names as n

Type = Literal["str", "int", "float", "bool", "bytes", "strs"]

# Kinds by OTLP's numbers.
INTERNAL, SERVER, CLIENT = 1, 2, 3

_PLAIN: dict[Type, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "bytes": (bytes,),
    "strs": (tuple,),
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a shape. varied: takes ever new values (an id, a time), so its encoded form is not kept."""

    key: str
    type: Type
    varied: bool = False


@dataclass(frozen=True, slots=True)
class SpanShape:
    """What all spans of one place in the engine have in common. constants: attributes whose value never changes; they
    cost nothing."""

    name: str
    kind: int
    attributes: tuple[Attribute, ...]
    constants: tuple[tuple[str, str], ...] = ()


_CALL = (
    Attribute(n.RPC_STATUS, "str"),
    # The reason of `assay.decision.v1.ErrorReason`, or the name of the status; None when the call went well.
    Attribute(n.ERROR_TYPE, "str"),
    Attribute(n.SERVER_ADDRESS, "str"),
    Attribute(n.SERVER_PORT, "int"),
    Attribute(n.QUEUE_WAIT, "int", varied=True),
    Attribute(n.DEADLINE_LEFT, "float", varied=True),
)
_DECISION = (
    Attribute(n.FLOW, "str"),
    Attribute(n.BUNDLE_DIGEST, "str"),
    # One `id@version` for each model of the flow.
    Attribute(n.MODEL_VERSIONS, "strs"),
    Attribute(n.DECISION_ID, "str", varied=True),
    Attribute(n.VERDICT, "str"),
    Attribute(n.REASON_CODES, "strs"),
    # How many features something stood in for, and the first of their names.
    Attribute(n.SUBSTITUTIONS, "int"),
    Attribute(n.SUBSTITUTED_FEATURES, "strs"),
    Attribute(n.DEGRADED, "bool"),
    Attribute(n.REPLAYED, "bool"),
    Attribute(n.RECORD_STATE, "str"),
    Attribute(n.RETRIES, "int"),
    Attribute(n.BREAKER_STATE, "str"),
    Attribute(n.REQUEST_ID_HASH, "str", varied=True),
    Attribute(n.SUBJECT_ID_HASH, "str", varied=True),
)
_STORE = (
    Attribute(n.DB_SYSTEM, "str"),  # redis, cassandra or assay.embedded
    Attribute(n.DB_OPERATION, "str"),
    Attribute(n.DB_NAMESPACE, "str"),
    Attribute(n.ERROR_TYPE, "str"),
    Attribute(n.STORE_TIER, "str"),
    Attribute(n.STORE_KEYS, "int"),
    Attribute(n.STORE_HITS, "int"),
    Attribute(n.STORE_RETRIES, "int"),
    Attribute(n.STORE_HEDGED, "bool"),
    Attribute(n.STORE_SHARED, "int"),
    Attribute(n.STORE_BREAKER, "str"),
)
_BATCH = Attribute(n.BATCH_SIZE, "int")

_shapes: list[SpanShape] = []


def _shape(name: str, kind: int, *attributes: Attribute, constants: tuple[tuple[str, str], ...] = ()) -> int:
    _shapes.append(SpanShape(name, kind, attributes, constants))
    return len(_shapes) - 1


def _rpc(service: str, method: str, *attributes: Attribute) -> int:
    name = f"{service}/{method}"
    constants = ((n.RPC_SYSTEM, "grpc"), (n.RPC_METHOD, name))
    return _shape(name, SERVER, *_CALL, *attributes, constants=constants)


# Shape numbers. A record holds them in place of names.
DECIDE = _rpc(n.DECISION_SERVICE, "Decide", *_DECISION)
DECIDE_BATCH = _rpc(n.DECISION_SERVICE, "DecideBatch", _BATCH)
# One message of a stream: a stream is open for hours, and nobody wants its trace.
DECIDE_STREAM = _rpc(n.DECISION_SERVICE, "DecideStream", *_DECISION)
GET_DECISION = _rpc(n.DECISION_SERVICE, "GetDecision", Attribute(n.DECISION_ID, "str", varied=True))
LIST_FLOWS = _rpc(n.DECISION_SERVICE, "ListFlows")
FEATURE_RPC = {method: _rpc(n.FEATURE_SERVICE, method, _BATCH) for method in n.FEATURE_METHODS}
OUTCOME_RPC = {method: _rpc(n.OUTCOME_SERVICE, method, _BATCH) for method in n.OUTCOME_METHODS}
DECIDE_ITEM = _shape(
    n.DECIDE_ITEM, INTERNAL, Attribute(n.BATCH_INDEX, "int"), Attribute(n.ERROR_TYPE, "str"), *_DECISION
)
VALIDATE = _shape(n.VALIDATE, INTERNAL, Attribute(n.VIOLATIONS, "int"))
STORE_READ = _shape(n.STORE_READ, CLIENT, *_STORE)
# The embedded store is called and not asked: no other process has a span to join.
STORE_READ_EMBEDDED = _shape(n.STORE_READ, INTERNAL, *_STORE)
FEATURES = _shape(
    n.FEATURES,
    INTERNAL,
    Attribute(n.FEATURES_DERIVED, "int"),
    Attribute(n.FEATURES_SUBSTITUTED, "int"),
    Attribute(n.FEATURES_STALE, "int"),
    Attribute(n.FEATURES_UNAVAILABLE, "int"),
)
MODEL = _shape(
    n.MODEL,
    INTERNAL,
    Attribute(n.MODEL_ID, "str"),
    Attribute(n.MODEL_VERSION, "str"),
    Attribute(n.MODEL_STATUS, "str"),
    Attribute(n.MODEL_BATCH_SIZE, "int"),
)
POLICY = _shape(
    n.POLICY,
    INTERNAL,
    Attribute(n.VERDICT, "str"),
    Attribute(n.RULES_FIRED, "strs"),
    Attribute(n.COUNTER_OFFER_JUDGED, "bool"),
)
REASONS = _shape(n.REASONS, INTERNAL, Attribute(n.REASONS_COUNT, "int"))
RECORD = _shape(
    n.RECORD, INTERNAL, Attribute(n.RECORD_BYTES, "int", varied=True), Attribute(n.RECORD_DURABILITY, "str")
)

SHAPES: tuple[SpanShape, ...] = tuple(_shapes)


def misfits(shape: SpanShape, values: tuple[Any, ...]) -> list[str]:
    """What is wrong with the values of a span; none when they fit. For tests: the request path checks nothing."""
    if len(values) != len(shape.attributes):
        return [f"{shape.name} takes {len(shape.attributes)} values, not {len(values)}"]
    wrong = []
    for attribute, value in zip(shape.attributes, values, strict=True):
        fits = value is None or (
            type(value) in _PLAIN[attribute.type]
            and (attribute.type != "strs" or all(type(one) is str for one in value))
        )
        if not fits:
            wrong.append(f"{shape.name}: {attribute.key} takes a {attribute.type}, not {value!r}")
    return wrong
