"""Facts of many applications at once are those of each alone, to the last bit."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle.load import LoadedBundle, load_bundle
from engine.domain.application import ValidApplication
from engine.domain.enums import FeatureStatus as S
from engine.domain.enums import SubstitutionAction as A
from engine.domain.facts import UNNAMED, Facts, Row
from engine.features.encoding import Field, Kind, RowSchema, encode
from engine.features.evolve import RowTranslator
from engine.features.gather import gather
from engine.features.gather_many import gather_many
from engine.features.stores.memory import MemoryStore
from engine.features.velocity import Event, VelocityApplier
from engine.plan import FlowPlan
from engine.validate import validate
from tests.support import applications as apps
from tests.support import tiny
from tests.support.bundles import shipped
from tests.support.replays import random_row
from tests.unit.test_gather_rules import features as ruled_features
from tests.unit.test_gather_rules import written

NOW = 1_800_000_000_000_000
DAY_US = 86_400_000_000
WIDE = 70


class One(NamedTuple):
    """An application as the feature stage sees it."""

    rows: list[Row]
    valid: ValidApplication
    amount: float
    term_months: float


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedBundle]:
    """The shipped one; one with consents, expiries and last good values, whose rows of an older schema are known; one
    with a view of more features than one word of presence holds."""
    ruled = load_bundle(written(tmp_path_factory.mktemp("ruled") / "bundle", ruled_features()), scenarios=False)
    for view in ruled.plan.flows["tiny_loan.application"].features.views:
        older = _older(view.decoder.schema)
        view.translators[older.fingerprint] = RowTranslator(older, view.decoder.schema)
    return {"shipped": shipped(), "ruled": ruled, "wide": _wide(tmp_path_factory.mktemp("wide") / "bundle")}


def _wide(root: Path) -> LoadedBundle:
    catalogue = copy.deepcopy(tiny.FEATURES)
    for number in range(WIDE):
        entry = {"type": "float", "range": [-10, 10], "description": "One of many", "max_age_days": 20 + number}
        catalogue["views"]["account"]["features"][f"wide_{number:02d}"] = entry
    catalogue["views"]["home"]["max_age_days"] = 30
    tiny.write_bundle(root)
    tiny.write(root / "features.yaml", catalogue)
    return load_bundle(root, scenarios=False)


def _older(schema: RowSchema) -> RowSchema:
    """The schema before its last field was added; of one field, before that had a unit."""
    if len(schema.fields) == 1:
        return RowSchema(schema.view, (replace(schema.fields[0], unit="older"),))
    return RowSchema(schema.view, schema.fields[:-1])


def _state(rng: random.Random, flow: FlowPlan, place: int) -> Row:
    """A state of counters of a view that the engine counts itself."""
    view, store = flow.features.views[place], MemoryStore()
    applier = VelocityApplier(store, shipped().plan.counters)
    ids = {entity: f"e{rng.randrange(2)}" for entity in ("applicant", *apps.ENTITIES)}
    age_us = rng.choice([1, DAY_US, 20 * DAY_US, -DAY_US])
    applier.apply_now(
        [
            Event(f"v{n}", NOW - age_us - n, {**ids, view.entity: "x"}, {"amount": 10_000})
            for n in range(rng.choice([1, 3]))
        ]
    )
    (state,) = store.read([view.key("x")])
    return state


def _sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", crc32(body))


def _row(rng: random.Random, loaded: LoadedBundle, flow: FlowPlan, place: int) -> Row:
    """A row of any kind, as a rule a good one."""
    view = flow.features.views[place]
    schema = view.decoder.schema
    known = {f.name: None if rng.random() < 0.05 else _good(rng, f) for f in schema.fields}
    good = encode(schema, known, NOW - rng.choice([0] * 8 + [DAY_US, 40 * DAY_US]))
    start = 24 + 8 * view.decoder.words
    kind = rng.randrange(40)
    if kind < 24:
        return good
    if kind < 30:
        return random_row(rng, loaded, flow, place, NOW)
    if kind == 30:
        return _state(rng, flow, place) if view.counters is not None else good
    if kind == 31:
        cut = rng.randrange(len(good))
        return good[:cut] + bytes([good[cut] ^ 1]) + good[cut + 1 :]
    if kind == 32:
        number = struct.pack("<d", rng.choice([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e300]))
        return _sealed(good[:start] + number + good[start + 8 : -4])
    if kind == 33:
        older = _older(schema)
        return encode(older, {f.name: known[f.name] for f in older.fields}, NOW - DAY_US)
    if kind == 34:
        return encode(RowSchema(view.name, (Field("x", Kind.FLOAT64),)), {"x": 1.0}, NOW)
    if kind == 35:
        return encode(schema, known, rng.choice([-1, -(2**63), 2**63 - 1, NOW + 1, NOW + DAY_US]))
    if kind == 36:
        return _sealed(b"AsV\x01" + good[4:-4])
    if kind == 37:
        return _sealed(good[:12] + struct.pack("<I", rng.randrange(400)) + good[16:-4])
    return UNNAMED if kind == 38 else None


def _good(rng: random.Random, field: Field) -> object:
    if field.kind is Kind.CATEGORY:
        return field.categories[0]
    return {Kind.BOOLEAN: True, Kind.INT64: 1, Kind.FLOAT64: 1.0, Kind.TIMESTAMP: 1.0e9}[field.kind]


def _application(rng: random.Random, loaded: LoadedBundle, which: str) -> tuple[FlowPlan, One]:
    if which == "shipped":
        request = apps.consumer("s")
        for name in list(request.application.fields):
            if rng.random() < 0.1:
                del request.application.fields[name]
    else:
        request = tiny.request()
        fields = request.application.fields
        if which == "ruled" and rng.random() < 0.8:
            fields["may_ask"].flag = rng.random() < 0.7
        if rng.random() < 0.2:
            fields["housing"].text = "own"
    flow, valid = validate(loaded.plan, request, NOW)
    rows = [_row(rng, loaded, flow, place) for place in range(len(flow.features.views))]
    return flow, One(rows, valid, rng.uniform(100, 9000), rng.choice([6.0, 12.0]))


def _many(flow: FlowPlan, ones: Sequence[One]) -> list[Facts]:
    return gather_many(
        flow.features,
        [one.rows for one in ones],
        [one.valid.request for one in ones],
        [one.valid.sent for one in ones],
        [one.amount for one in ones],
        [one.term_months for one in ones],
        NOW,
    )


def _alone(flow: FlowPlan, one: One) -> Facts:
    return gather(flow.features, one.rows, one.valid.request, one.valid.sent, one.amount, one.term_months, NOW)


def _assert_same(got: Facts, want: Facts) -> None:
    for name in ("values", "read", "statuses", "origins"):
        mine, other = getattr(got, name), getattr(want, name)
        assert mine.dtype == other.dtype
        assert mine.flags.c_contiguous
        assert mine.tobytes() == other.tobytes(), name
    assert struct.pack(f"<{len(got.vector)}d", *got.vector) == struct.pack(f"<{len(want.vector)}d", *want.vector)
    assert {type(number) for number in got.vector} == {float}
    assert repr(got.substitutions) == repr(want.substitutions)
    assert (got.degraded, got.blocked, got.faults) == (want.degraded, want.blocked, want.faults)
    assert got.view_statuses == want.view_statuses
    assert {type(status) for status in got.view_statuses} == {S}
    assert got.event_times_us == want.event_times_us


@pytest.mark.parametrize("which", ["shipped", "ruled", "wide"])
def test_many_are_each_as_it_would_be_alone(which: str, bundles: dict[str, LoadedBundle]) -> None:
    met: set[tuple[S, A]] = set()

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**48), st.integers(1, 12))
    def hold(seed: int, count: int) -> None:
        rng = random.Random(seed)
        pairs = [_application(rng, bundles[which], which) for _ in range(count)]
        flow, ones = pairs[0][0], [one for _, one in pairs]
        for got, one in zip(_many(flow, ones), ones, strict=True):
            want = _alone(flow, one)
            _assert_same(got, want)
            met.update((s.status, s.action) for s in want.substitutions)

    hold()
    wanted = {
        "shipped": {(S.STALE, A.VERDICT), (S.NOT_FOUND, A.DEFAULT), (S.UNAVAILABLE, A.VERDICT), (S.NULL, A.MISSING)},
        "ruled": {
            (S.STALE, A.STALE_VALUE),
            (S.UNAVAILABLE, A.LAST_GOOD_VALUE),
            (S.WITHHELD, A.EXPIRED),
            (S.WITHHELD, A.DEFAULT),
        },
        "wide": {(S.NULL, A.DEFAULT), (S.UNAVAILABLE, A.VERDICT), (S.STALE, A.STALE_VALUE)},
    }
    assert wanted[which] <= met


def test_the_facts_of_one_are_not_those_of_another(bundles: dict[str, LoadedBundle]) -> None:
    """What is written to one application's arrays stays there, and leaves the plan as it was."""
    rng = random.Random(3)
    pairs = [_application(rng, bundles["ruled"], "ruled") for _ in range(8)]
    flow, ones = pairs[0][0], [one for _, one in pairs]
    plan = flow.features
    before = plan.values_template.tobytes(), plan.statuses_template.tobytes(), plan.origins_template.tobytes()
    facts = _many(flow, ones)
    facts[0].values[:], facts[0].statuses[:] = -1.0, 9
    for got, one in zip(facts[1:], ones[1:], strict=True):
        _assert_same(got, _alone(flow, one))
    for got, one in zip(_many(flow, ones), ones, strict=True):
        _assert_same(got, _alone(flow, one))
    after = plan.values_template.tobytes(), plan.statuses_template.tobytes(), plan.origins_template.tobytes()
    assert after == before


def test_an_entity_not_named_is_told_from_one_not_known(bundles: dict[str, LoadedBundle]) -> None:
    """The statuses are the same; what stands in is not."""
    flow, one = _application(random.Random(2), bundles["wide"], "wide")
    slot = flow.features.slots["existing_credits"]
    flow.features.patterns.clear()
    for row, action in ((None, A.DEFAULT), (UNNAMED, A.MISSING), (None, A.DEFAULT)):
        gone = one._replace(rows=[row, None])
        for facts in (_alone(flow, gone), *_many(flow, [gone] * 3)):
            assert [found.action for found in facts.substitutions if found.slot == slot] == [action]


def test_patterns_of_absence_are_kept_within_bounds(
    bundles: dict[str, LoadedBundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.features.rules._PATTERNS_MAX", 4)
    bundles["wide"].plan.flows["tiny_loan.application"].features.patterns.clear()
    rng = random.Random(5)
    for _ in range(40):
        flow, one = _application(rng, bundles["wide"], "wide")
        _assert_same(_many(flow, [one] * 3)[2], _alone(flow, one))
        assert len(flow.features.patterns) <= 4


def test_a_missing_row_or_argument_is_refused(bundles: dict[str, LoadedBundle]) -> None:
    flow, one = _application(random.Random(1), bundles["wide"], "wide")
    for count in (1, 4):
        with pytest.raises(ValueError, match="argument"):
            _many(flow, [one._replace(rows=one.rows[:-1])] * count)
    for short in range(4):
        lists: list[list[Any]] = [[one.valid.request] * 4, [()] * 4, [1.0] * 4, [1.0] * 4]
        lists[short] = lists[short][:1]
        requests, sents, amounts, terms = lists
        with pytest.raises(ValueError, match="for each application"):
            gather_many(flow.features, [one.rows] * 4, requests, sents, amounts, terms, NOW)
