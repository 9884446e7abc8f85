"""Back-tests over a real journal: swap sets, prices, segments and losses add up, and the page says so."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.bundle.load import LoadedBundle
from engine.domain.enums import FeatureStatus
from engine.record.read import parse_record
from engine.replay.compare import verdict_name
from engine.replay.export import export, without_ids
from engine.replay.items import Item, chunks
from engine.replay.outcomes import Outcome, OutcomeFileError, read_outcomes
from engine.replay.page import make_page
from engine.replay.report import About, make_report
from engine.replay.run import run_local
from engine.replay.segments import amount_band, probability_band
from engine.replay.sources import JournalSource, ParquetSource
from engine.replay.tally import Tally
from engine.replay.work import Job
from tests.support import replays, tiny

ABOUT = About("a journal", ("tiny", "0.2.0", "sha256:0"), "1 processes", "NOT_FOUND")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return tiny.load_tiny(tmp_path_factory)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedBundle) -> list[Item]:
    directory = tmp_path_factory.mktemp("journal")
    with replays.lending(directory, loaded) as lender:
        for batch in replays.batches(replays.tiny_requests(300, loaded, lender.store, seed=5), 20):
            lender.decide(*batch)
    return list(JournalSource(directory).items())


def other(root: Path, *changes: tuple[str, list[str | int], object]) -> Path:
    tiny.write_bundle(root)
    for file, path, value in changes:
        tiny.change(root / file, path, value)
    return root


def back_test(items: list[Item], bundle: Path, outcomes: dict[str, Outcome] | None = None, **more: object) -> Tally:
    job = Job({}, other=str(bundle), **more)  # type: ignore[arg-type]
    return run_local(job, chunks(items, outcomes or {}), 1)


def records(items: list[Item]) -> list[DecisionRecord]:
    return [parse_record(item.record) for item in items]


CUT_OFFS: list[str | int] = ["nodes", 1, "content", "rules"]


def stricter(root: Path) -> Path:
    """Approves from 560 points where 500 were enough."""
    return other(
        root,
        ("policy/cut_offs.json", [*CUT_OFFS, 2, "i0"], "[560..600)"),
        ("policy/cut_offs.json", [*CUT_OFFS, 3, "i0"], "< 560"),
    )


def test_the_same_bundle_changes_nothing(items: list[Item], tmp_path: Path) -> None:
    tally = back_test(items, other(tmp_path / "same"))
    assert tally.of("same verdict") == tally.of("compared") == len(items)
    report = make_report(tally, ABOUT)
    assert report["swap_set"]["swap in"]["records"] == report["swap_set"]["swap out"]["records"] == 0
    assert report["not_as_recorded"] == []
    assert [one for one in report["points_shift"] if one["middle"]] == []
    recorded = Counter(verdict_name(record.decision.verdict) for record in records(items))
    assert {(v["recorded"], v["other"]): v["records"] for v in report["verdicts"]} == {
        (name, name): count for name, count in recorded.items()
    }


def test_a_stricter_cut_off_swaps_out_and_never_in(items: list[Item], tmp_path: Path) -> None:
    tally = back_test(items, stricter(tmp_path / "stricter"))
    lent = {1, 4}
    points = [(r.decision.scores[0].points, r.decision.verdict in lent) for r in records(items)]
    report = make_report(tally, ABOUT)
    swapped = report["examples"]["swap out"]
    by_id = {r.decision.decision_id: r.decision for r in records(items)}
    # A counter-offer must stand as an application for its terms would, and those have a score of their own.
    more = [one for one in swapped if by_id[one["decision_id"]].scores[0].points >= 560]
    assert all(one["before"] == "COUNTER_OFFER" for one in more)
    expected = sum(was_lent and 500 <= p < 560 for p, was_lent in points) + len(more)
    assert 0 < len(more) < expected < 25
    assert report["swap_set"]["swap out"]["records"] == expected
    assert report["swap_set"]["swap in"]["records"] == 0
    (whole,) = [s for s in report["segments"] if s["dimension"] == "all"]
    assert whole["swap_out"] == expected
    assert whole["lent_rate_recorded"] == pytest.approx(sum(w for _, w in points) / len(items), abs=1e-6)
    assert whole["lent_rate_other"] == pytest.approx((sum(w for _, w in points) - expected) / len(items), abs=1e-6)
    assert {one["middle"] for one in report["rate_shift"] if one["records"]} == {0.0}
    assert sum(s["records"] for s in report["segments"] if s["dimension"] == "score band") == len(items)
    assert [one["decision_id"] for one in swapped] == sorted(one["decision_id"] for one in swapped)
    assert all(one["before"] in ("APPROVE", "COUNTER_OFFER") and one["after"] == "DECLINE" for one in swapped)
    assert "CR_TEST" in swapped[0]["why"] or "PL_" in swapped[0]["why"]


def test_a_higher_price_shifts_the_rates(items: list[Item], tmp_path: Path) -> None:
    dearer = other(tmp_path / "dearer", ("policy/price.json", ["nodes", 1, "content", "rules", 0, "o0"], "7.5"))
    report = make_report(back_test(items, dearer), ABOUT)
    best = sum(r.decision.offer.annual_rate_percent == 6.0 for r in records(items))
    shift = {one["middle"]: one["records"] for one in report["rate_shift"] if one["records"]}
    assert set(shift) == {0.0, 1.5}
    # Some can no longer bear the payments.
    assert 0 < shift[1.5] == best - report["swap_set"]["swap out"]["records"]
    (whole,) = [s for s in report["segments"] if s["dimension"] == "all"]
    rise = whole["mean_rate_other"] - whole["mean_rate_recorded"]
    assert rise == pytest.approx(1.5 * shift[1.5] / sum(shift.values()), abs=1e-3)


def test_money_and_expected_loss_add_up(items: list[Item], tmp_path: Path) -> None:
    report = make_report(back_test(items, stricter(tmp_path / "stricter")), ABOUT)
    asked = sum(r.application.amount.units for r in records(items))
    offers = [r for r in records(items) if r.decision.HasField("offer")]
    lent = sum(r.decision.offer.amount.units for r in offers)
    loss = sum(r.decision.offer.amount.units * r.decision.scores[0].probability for r in offers)
    (whole,) = [s for s in report["segments"] if s["dimension"] == "all"]
    assert whole["asked"] == {"EUR": asked}
    assert whole["lent_recorded"] == {"EUR": lent}
    assert whole["expected_loss_recorded"]["EUR"] == pytest.approx(loss, rel=1e-5)
    assert whole["expected_loss_other"]["EUR"] < whole["expected_loss_recorded"]["EUR"]
    for dimension in ("product", "score band", "amount band", "month"):
        found = [s for s in report["segments"] if s["dimension"] == dimension]
        assert sum(s["asked"]["EUR"] for s in found) == pytest.approx(asked)


def test_outcomes_give_bad_rates_losses_and_calibration(items: list[Item], tmp_path: Path) -> None:
    known = {
        item.decision_id: Outcome(place % 4 == 0, 100.0 if place % 4 == 0 else 0.0) for place, item in enumerate(items)
    }
    report = make_report(back_test(items, stricter(tmp_path / "stricter"), known), ABOUT)
    bad = sum(one.bad for one in known.values())
    assert report["outcomes_known"] == len(items)
    assert sum(cell.get("bad", 0) for cell in report["swap_set"].values()) == bad
    assert sum(cell.get("lost", {}).get("EUR", 0.0) for cell in report["swap_set"].values()) == 100.0 * bad
    scored = sum(r.decision.scores[0].HasField("probability") for r in records(items))
    for side in ("recorded", "other"):
        bands = report["calibration"][side]
        assert sum(band["records"] for band in bands) == scored
        assert [band["predicted"] for band in bands] == sorted(band["predicted"] for band in bands)
        assert all(0.0 <= band["observed"] <= 1.0 for band in bands)
    assert make_report(back_test(items, stricter(tmp_path / "again")), ABOUT)["outcomes_known"] == 0


def test_what_the_records_lack_is_counted_and_shown(items: list[Item], tmp_path: Path) -> None:
    entry = {
        "type": "integer",
        "description": "New",
        "on_missing": {"verdict": "REFER", "reason": "PL_ACCOUNT_UNKNOWN"},
    }
    bundle = other(tmp_path / "new", ("features.yaml", ["views", "account", "features", "new_band"], entry))
    report = make_report(back_test(items, bundle), ABOUT)
    assert {
        "flow": "tiny_loan.application",
        "feature": "new_band",
        "why": "not recorded",
        "records": len(items),
    } in report["not_as_recorded"]
    assert {v["other"] for v in report["verdicts"]} <= {"REFER", "DECLINE"}
    # Had the store failed instead, the model would go without it.
    assert {
        v["other"] for v in make_report(back_test(items, bundle, absent=FeatureStatus.UNAVAILABLE), ABOUT)["verdicts"]
    } != {"REFER", "DECLINE"}


def test_a_field_that_is_required_anew_refuses_nobody(items: list[Item], tmp_path: Path) -> None:
    entry = {"type": "boolean", "description": "New", "required": True}
    bundle = other(
        tmp_path / "new",
        ("features.yaml", ["request", "new_flag"], entry),
        ("flows/tiny_loan.yaml", ["request"], [*tiny.FLOW["request"], "new_flag"]),
    )
    tally = back_test(items, bundle)
    assert tally.of("compared") == len(items)
    assert tally.under("refused") == {}


def test_terms_that_are_no_longer_offered_are_refused(items: list[Item], tmp_path: Path) -> None:
    bundle = other(
        tmp_path / "short",
        ("flows/tiny_loan.yaml", ["terms_months"], [12, 24, 48]),
    )
    report = make_report(back_test(items, bundle), ABOUT)
    refused = sum(r.application.term_months == 6 for r in records(items))
    assert [r["records"] for r in report["refused"]] == [refused]
    assert report["refused"][0]["field"] == "application.term_months"
    (whole,) = [s for s in report["segments"] if s["dimension"] == "all"]
    assert whole["refused"] == refused


def test_segments_by_a_category_and_a_flag(items: list[Item], tmp_path: Path) -> None:
    tally = back_test(items, other(tmp_path / "same"), segments=("housing", "insolvent"))
    report = make_report(tally, ABOUT)
    by = {
        name: {s["segment"]: s["records"] for s in report["segments"] if s["dimension"] == name}
        for name in ("housing", "insolvent")
    }
    assert by["insolvent"] == {"no": len(items)}
    assert {"rent", "own", "for free"} <= set(by["housing"])
    assert sum(by["housing"].values()) == len(items)


@pytest.mark.parametrize(
    ("units", "band"),
    [(1, "1-1 EUR"), (2, "2-4 EUR"), (999, "500-999 EUR"), (1000, "1,000-1,999 EUR"), (50_000, "50,000-99,999 EUR")],
)
def test_amount_bands(units: int, band: str) -> None:
    assert amount_band(units, "EUR") == band


def test_probability_bands_sort_as_texts() -> None:
    bands = [probability_band(p / 1000) for p in range(1001)]
    assert list(dict.fromkeys(bands)) == sorted(set(bands))
    assert bands[0] == "00.0-01.0 %"
    assert bands[-1] == "50.0-100.0 %"


# --- outcomes from files ------------------------------------------------------------------------------------------


def test_outcomes_from_files(tmp_path: Path) -> None:
    want = {"a": Outcome(True, 5.0), "b": Outcome(False)}
    forms = {
        "one.json": json.dumps({"a": {"bad": True, "loss": 5}, "b": False, "c": None}),
        "two.json": json.dumps([{"decision_id": "a", "bad": True, "loss": 5.0}, {"decision_id": "b", "bad": False}]),
        "three.jsonl": '{"decision_id": "a", "bad": true, "loss": 5}\n\n{"decision_id": "b", "bad": false}\n',
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text, "utf-8")
        assert read_outcomes(tmp_path / name) == want
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"decision_id": ["a", "b", "c"], "bad": [True, False, None], "loss": [5.0, None, 1.0]})
    pq.write_table(table, tmp_path / "four.parquet")
    assert read_outcomes(tmp_path / "four.parquet") == want


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("x.json", "{", "is not JSON"),
        ("x.json", "3", "neither an object nor a list"),
        ("x.json", "[{}]", "outcome 1 names no decision_id"),
        ("x.json", '{"a": "yes"}', "must be true or false"),
        ("x.json", '{"a": {"bad": true, "loss": "much"}}', "must be a number"),
        ("x.jsonl", "[]", "outcome 1 names no decision_id"),
    ],
)
def test_outcomes_that_are_none(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(OutcomeFileError, match=re.escape(told)):
        read_outcomes(tmp_path / name)
    with pytest.raises(OutcomeFileError, match="cannot be read"):
        read_outcomes(tmp_path / "none.json")


# --- export -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("personal", [True, False])
def test_exported_records_give_the_same_answers(items: list[Item], tmp_path: Path, personal: bool) -> None:
    pytest.importorskip("pyarrow")
    bundle = stricter(tmp_path / "stricter")
    path = tmp_path / "records.parquet"
    count, size = export([*items, items[0]._replace(erased=True)], path, personal=personal)
    assert (count, size) == (len(items) + 1, path.stat().st_size)
    source = ParquetSource(path)
    assert source.total == count
    found = list(source.items())
    assert [i._replace(record=b"") for i in found[:-1]] == [i._replace(record=b"") for i in items]
    assert found[-1].erased
    again = back_test(found, bundle)
    want = back_test(items, bundle)
    assert again.of("erased") == 1
    assert {k: n for k, n in again.counts.items() if k[0] == "cell"} == {
        k: n for k, n in want.counts.items() if k[0] == "cell"
    }
    ids = {record.application.subject.id for record in records(items)}
    raw = b"".join(item.record for item in found)
    assert all(one.encode() in raw for one in ids) == personal
    assert any(re.search(rf"\x0a.{re.escape(one)}".encode(), raw, re.DOTALL) for one in ids) == personal


def test_without_ids_nothing_leads_to_a_person(items: list[Item]) -> None:
    record = parse_record(items[0].record)
    subject, request_id = record.application.subject.id, record.decision.request_id
    stripped = DecisionRecord.FromString(without_ids(record))
    assert stripped.application.subject.id == stripped.decision.request_id == "withheld"
    assert {e.id for e in stripped.application.entities} <= {"withheld"}
    assert (stripped.payload_digest, stripped.decision.trace_id) == (b"", "")
    assert subject != request_id
    assert stripped.decision.decision_id == items[0].decision_id


# --- the page -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Notes what a page holds, and that its elements are closed in order."""

    VOID = ("meta", "br", "i")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_of_a_back_test_is_whole_and_fetches_nothing(items: list[Item], tmp_path: Path) -> None:
    known = {item.decision_id: Outcome(place % 5 == 0) for place, item in enumerate(items)}
    report = make_report(back_test(items, stricter(tmp_path / "stricter"), known), ABOUT)
    page = Page(make_page(report))
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [a for a in page.attributes if a[1] in ("src", "href") or "url(" in str(a[2])]
    assert page.tags["svg"] >= 5
    # Every plot says what it shows, and every table what it holds.
    assert page.tags["svg"] == page.tags["desc"] == sum(a[:2] == ("svg", "role") for a in page.attributes)
    assert page.tags["table"] == page.tags["caption"]
    assert ("html", "lang", "en") in page.attributes
    text = "".join(page.text)
    assert f"{report['compared']:,}" in text
    assert report["other"]["digest"] in text
    assert "prefers-color-scheme:dark" in text


def test_what_records_hold_cannot_break_the_page(items: list[Item], tmp_path: Path) -> None:
    tally = back_test(items, other(tmp_path / "same"))
    tally.count("note", "<script>alert(1)</script>", "a&b", '"quoted"')
    page = make_page(make_report(tally, ABOUT))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_pages_of_nothing() -> None:
    for about in (ABOUT, About("a journal", None)):
        page = Page(make_page(make_report(Tally(), about)))
        assert page.open == []
