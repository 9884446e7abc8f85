"""Replay over a real journal: every decision comes out the same, and whatever was changed is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assay.decision.v1 import decision_pb2
from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.bundle.load import LoadedBundle, load_bundle
from engine.clock import SystemClock
from engine.record.read import parse_record
from engine.replay.again import known_of_record
from engine.replay.items import Item, Selection, chunks
from engine.replay.run import run_local
from engine.replay.shelf import find_bundles
from engine.replay.sources import JournalSource
from engine.replay.tally import Difference, Tally
from engine.replay.work import Job, environment_here
from tests.support import applications as apps
from tests.support import replays, tiny
from tests.support.bundles import BUNDLE, shipped
from tests.unit.test_gather_rules import features as ruled_features
from tests.unit.test_gather_rules import written


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with consents, expiries and last good values."""
    return written(tmp_path_factory.mktemp("ruled") / "bundle", ruled_features())


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All shipped scenarios and generated applications, counted as a server counts them."""
    directory = tmp_path_factory.mktemp("journal")
    with replays.lending(directory, shipped(), counting=True) as lender:
        assert replays.decide_scenarios(lender) > 20
        replays.decide_generated(lender, 500)
        for number in range(12):  # the counters of one device rise
            request = apps.consumer("counted", amount=1000 + 50 * number)
            lender.decide(request)
    return directory


@pytest.fixture(scope="module")
def ruled_journal(tmp_path_factory: pytest.TempPathFactory, ruled: Path) -> Path:
    directory = tmp_path_factory.mktemp("ruled-journal")
    loaded = load_bundle(ruled, scenarios=False)
    with replays.lending(directory, loaded) as lender:
        for batch in replays.batches(replays.tiny_requests(150, loaded, lender.store), 9):
            lender.decide(*batch)
        # What was read is lent once the store is down.
        for request in replays.tiny_requests(60, loaded, lender.store):
            lender.store.down = True
            lender.decide(request)
            lender.store.down = False
    return directory


def items_of(directory: Path) -> list[Item]:
    return list(JournalSource(directory).items())


def replay(items: list[Item], *bundles: Path, workers: int = 1) -> Tally:
    job = Job({digest: str(root) for digest, root in find_bundles(bundles or (BUNDLE,)).items()})
    return run_local(job, chunks(items, {}), workers)


def only_difference(tally: Tally) -> Difference:
    (one,) = tally.examples["different"]
    assert tally.of("different") == 1
    return Difference(*one)


def changed(item: Item, change: Callable[[DecisionRecord], None]) -> Item:
    record = parse_record(item.record)
    change(record)
    return item._replace(record=record.SerializeToString())


# --- nothing changed ----------------------------------------------------------------------------------------------


def test_every_decision_of_the_journal_comes_out_identical(journal: Path) -> None:
    items = items_of(journal)
    tally = replay(items)
    assert tally.records == len(items) > 500
    assert tally.examples.get("different", []) == []
    assert tally.of("identical") == len(items)
    # It is worth something only while the journal holds what there is.
    met = {key[-1] for key in summary(items)}
    assert {"APPROVE", "DECLINE", "REFER", "COUNTER_OFFER"} <= met
    assert {"STALE", "NULL", "NOT_FOUND", "UNAVAILABLE", "WITHHELD"} <= met
    counted = [item for item in items if parse_record(item.record).application.subject.id == "counted"]
    slot = shipped().plan.flows["consumer_loan.application"].features.slots["applicant_applications_count_24h"]
    counts = [float(known_of_record(parse_record(item.record)).values[slot]) for item in counted]
    assert counts[1:] == [float(number) for number in range(1, 12)]


def summary(items: list[Item]) -> set[tuple[str, str]]:
    found = set()
    for item in items:
        decision = parse_record(item.record).decision
        found.add(("verdict", decision_pb2.Verdict.Name(decision.verdict).removeprefix("VERDICT_")))
        for one in decision.substitutions:
            found.add(("status", decision_pb2.FeatureStatus.Name(one.status).removeprefix("FEATURE_STATUS_")))
            found.add(("action", decision_pb2.SubstitutionAction.Name(one.action).removeprefix("SUBSTITUTION_ACTION_")))
    return found


def test_consents_expiries_and_last_good_values_come_out_identical(ruled_journal: Path, ruled: Path) -> None:
    items = items_of(ruled_journal)
    tally = replay(items, ruled)
    assert tally.examples.get("different", []) == []
    assert tally.of("identical") == len(items) == 210
    met = {key[-1] for key in summary(items)}
    assert {"WITHHELD", "EXPIRED", "LAST_GOOD_VALUE", "STALE_VALUE", "DEFAULT", "VERDICT"} <= met


def test_many_processes_find_what_one_finds(journal: Path, ruled_journal: Path, ruled: Path) -> None:
    items = items_of(journal) + items_of(ruled_journal)
    spoiled = [changed(item, _other_points) if place % 50 == 7 else item for place, item in enumerate(items)]
    one, many = (replay(spoiled, BUNDLE, ruled, workers=workers) for workers in (1, 3))
    assert one == many
    assert 0 < one.of("different") < one.of("identical")


def test_only_what_is_selected_is_replayed(journal: Path) -> None:
    items = items_of(journal)
    moments = sorted(item.decided_us for item in items)
    chosen = Selection(since_us=moments[40], until_us=moments[-40], flows=frozenset({"sme_loan.application"}), limit=20)
    found = list(chosen.of(items))
    assert len(found) == 20
    assert all(moments[40] <= i.decided_us < moments[-40] and i.flow == "sme_loan.application" for i in found)
    assert replay(found).of("identical") == 20


# --- something changed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> LoadedBundle:
    return load_bundle(bundle, scenarios=False)


@pytest.fixture
def good(tmp_path: Path, loaded: LoadedBundle) -> Iterator[Item]:
    """One approval by the tiny bundle."""
    with replays.lending(tmp_path / "journal", loaded) as lender:
        now_us = SystemClock.now_us()
        rows = tiny.rows(loaded, now_us)
        flow = loaded.plan.flows["tiny_loan.application"]
        keys = [view.key("p1" if view.entity_index == 0 else "a1") for view in flow.features.views]
        replays.put(lender.store, keys, rows)
        (decision,) = lender.decide(tiny.request())
    assert decision.verdict == decision_pb2.VERDICT_APPROVE
    (item,) = items_of(tmp_path / "journal")
    yield item


def test_one_bit_of_a_model(good: Item, bundle: Path, tmp_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "other")
    flip_leaf(other / "tiny_german" / "model.onnx")
    found = only_difference(replay([good], other))
    assert (found.stage, found.cause) == ("scores", "bundle")
    assert found.path.startswith("tiny_german.")
    assert found.recorded != found.replayed
    assert digest_in(bundle) in found.detail
    assert digest_in(other) in found.detail
    # With the recorded bundle at hand it is the one that is taken.
    assert replay([good], other, bundle).of("identical") == 1


def digest_in(root: Path) -> str:
    (digest,) = find_bundles([root])
    return digest


def flip_leaf(file: Path) -> None:
    """Flips the lowest bit of one weight of a leaf: one that the good applicant falls into."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(file))
    node = next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble"))
    weights = next(a for a in node.attribute if a.name == "target_weights")
    import numpy as np

    values = np.array(weights.floats, dtype=np.float32)
    bits = values.view(np.uint32)
    bits[values != 0] ^= 1
    del weights.floats[:]
    weights.floats.extend(values.tolist())
    onnx.save(model, str(file))


def test_one_cell_of_a_table(good: Item, tmp_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "other")
    tiny.change(other / "policy" / "price.json", ["nodes", 1, "content", "rules", 0, "o0"], "6.5")
    found = only_difference(replay([good], other))
    assert (found.stage, found.cause) == ("policy", "bundle")
    assert found.path == "rules.price/price-0.outputs_json"
    assert '"annual_rate_percent":6.0' in found.recorded.replace(" ", "")
    assert '"annual_rate_percent":6.5' in found.replayed.replace(" ", "")


def test_another_bundle_that_decides_the_same_is_no_replay(good: Item, tmp_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "other")
    (other / "notes.txt").write_text("changes nothing but the digest", "utf-8")
    found = only_difference(replay([good], other))
    assert (found.stage, found.path, found.cause) == ("bundle", "digest", "bundle")
    assert (found.recorded, found.replayed) == (parse_record(good.record).decision.bundle.digest, digest_in(other))


def test_a_bundle_that_is_nowhere(good: Item, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = only_difference(replay([good], tmp_path / "empty"))
    assert (found.stage, found.replayed, found.cause) == ("bundle", "none", "bundle")


def test_a_bundle_that_no_longer_loads_is_told(good: Item, bundle: Path, tmp_path: Path) -> None:
    found = only_difference(run_local(Job({digest_in(bundle): str(tmp_path / "gone")}), chunks([good], {}), 1))
    assert found.cause == "bundle"
    assert "does not load" in found.detail


def test_one_fact(good: Item, bundle: Path, loaded: LoadedBundle) -> None:
    slot = loaded.plan.flows["tiny_loan.application"].features.slots["checking_band"]

    def change(record: DecisionRecord) -> None:
        values = known_of_record(record).values.copy()
        values[slot] = 0.0
        record.packed_facts.values = values.tobytes()

    found = only_difference(replay([changed(good, change)], bundle))
    assert (found.stage, found.cause) == ("scores", "feature")
    assert found.path.startswith("tiny_german.")


def test_a_derived_feature(good: Item, bundle: Path, loaded: LoadedBundle) -> None:
    slot = loaded.plan.flows["tiny_loan.application"].features.slots["duration_months"]

    def change(record: DecisionRecord) -> None:
        values = known_of_record(record).values.copy()
        values[slot] = 13.0
        record.packed_facts.values = values.tobytes()

    found = only_difference(replay([changed(good, change)], bundle))
    assert (found.stage, found.path, found.cause) == ("features", "duration_months", "feature")
    assert (found.recorded, found.replayed) == ("13.0 (PRESENT, DERIVED)", "12.0 (PRESENT, DERIVED)")


def test_what_the_caller_sent(good: Item, bundle: Path) -> None:
    def change(record: DecisionRecord) -> None:
        record.application.fields["income"].number = 2999.0

    found = only_difference(replay([changed(good, change)], bundle))
    assert (found.stage, found.cause) == ("features", "feature")
    assert "income is 2999.0 in the application and 3000.0 in the facts" in found.replayed


def _other_points(record: DecisionRecord) -> None:
    record.decision.offer.annual_rate_percent += 1.0


@pytest.mark.parametrize(
    ("change", "stage", "path"),
    [
        (lambda r: setattr(r.runs[0], "raw", math.nextafter(r.runs[0].raw, 9.0)), "scores", "tiny_german.raw"),
        (lambda r: r.runs[0].contributions.__setitem__(3, 1.0), "scores", "tiny_german.contributions."),
        (lambda r: setattr(r.decision.scores[0], "points", 1), "scores", "tiny_german.points"),
        (lambda r: r.rules.pop(), "policy", "rules"),
        (lambda r: setattr(r.decision, "verdict", 2), "policy", "verdict"),
        (lambda r: r.decision.deciding_components.append(1), "policy", "deciding_components"),
        (lambda r: r.decision.ClearField("offer"), "offer", "offer"),
        (_other_points, "offer", "annual_rate_percent"),
        (lambda r: setattr(r.decision.offer.amount, "units", 1), "offer", "amount.units"),
        (lambda r: r.decision.credit_reasons.add(code="CR_X"), "reasons", "credit_reasons"),
        (lambda r: r.packed_reasons.codes.append("CR_X"), "reasons", "every.codes"),
    ],
)
def test_the_first_difference_is_named(
    good: Item, bundle: Path, change: Callable[[DecisionRecord], None], stage: str, path: str
) -> None:
    found = only_difference(replay([changed(good, change)], bundle))
    assert (found.stage, found.cause) == (stage, "feature")
    assert found.path.startswith(path)
    assert found.recorded != found.replayed


def test_an_earlier_stage_is_named_before_a_later_one(good: Item, bundle: Path) -> None:
    def change(record: DecisionRecord) -> None:
        record.packed_reasons.codes.append("CR_X")
        record.decision.offer.term_months = 6
        record.runs[0].points = 1

    assert only_difference(replay([changed(good, change)], bundle)).path == "tiny_german.points"


def test_one_library_version(good: Item, bundle: Path) -> None:
    here = json.loads(environment_here()[0])
    here["libraries"]["onnxruntime"] = "1.0.0"
    environment = json.dumps(here, sort_keys=True).encode()

    def change(record: DecisionRecord) -> None:
        record.environment_digest = "sha256:another"

    item = changed(good, change)._replace(environment=environment)
    # Another library alone changes nothing; it is told all the same.
    tally = replay([item], bundle)
    assert tally.of("identical") == 1
    ((_, digest, what),) = [key for key in tally.counts if key[0] == "environment"]
    assert digest == "sha256:another"
    assert what.startswith("onnxruntime 1.0.0 -> ")
    found = only_difference(replay([changed(item, _other_points)], bundle))
    assert (found.stage, found.cause) == ("offer", "library")
    assert found.detail.startswith("onnxruntime 1.0.0 -> ")


def test_another_engine(good: Item, bundle: Path) -> None:
    def change(record: DecisionRecord) -> None:
        record.engine_version = "0.0.1"
        record.environment_digest = "sha256:another"
        record.decision.offer.annual_rate_percent += 1.0

    found = only_difference(replay([changed(good, change)], bundle))
    assert found.cause == "engine"
    assert found.detail.startswith("engine 0.0.1 -> ")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: setattr(r.packed_facts, "values", r.packed_facts.values[8:]),
        lambda r: setattr(r.packed_facts, "view_statuses", b"\x01"),
        lambda r: setattr(r.packed_facts, "statuses", b"\x63" * len(r.packed_facts.statuses)),
        lambda r: setattr(r.application, "term_months", 7),
        lambda r: setattr(r.application, "product", "unknown"),
    ],
)
def test_facts_that_cannot_be_rebuilt(good: Item, bundle: Path, change: Callable[[DecisionRecord], None]) -> None:
    found = only_difference(replay([changed(good, change)], bundle))
    assert (found.stage, found.path, found.cause) == ("features", "facts", "feature")


def test_erased_sealed_and_unreadable_records_are_counted_apart(good: Item, bundle: Path) -> None:
    def close(record: DecisionRecord) -> None:
        record.ClearField("application")

    items = [good, good._replace(erased=True), changed(good, close), good._replace(record=b"\xff\xff")]
    tally = replay(items, bundle)
    assert [tally.of(kind) for kind in ("identical", "erased", "locked", "unreadable", "different")] == [1, 1, 1, 1, 0]
