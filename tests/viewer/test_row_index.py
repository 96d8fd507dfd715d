"""The index of a file of rows: the same rows as the file, while it grows and after it was written anew."""

import json
import os
import random

import pytest

from distillgen.record import GATHERED, Record, dumps
from distillgen.viewer.row_index import REASON, RowIndex, folder_for
from distillgen.viewer.selection import Selection, count_of, histogram, rows_of


def record(i, **fields):
    one = Record(
        f"{i:04x}", {"question": f"number {i}", "n": i, **fields}, (f"p{i // 4}",), f"seeds:{i // 4}"
    )
    one = one.scored({"words": float(i % 10), "judge": i / 7})
    return one.drop("check", "words", f"{i % 10} words > 7") if i % 10 > 7 else one


def lines(records, **options):
    return b"".join(dumps(one.row(), sort_keys=False, **options) + b"\n" for one in records)


@pytest.fixture
def index(tmp_path):
    (tmp_path / "stages").mkdir()
    path = tmp_path / "stages" / "02-check.jsonl"
    path.write_bytes(lines(record(i) for i in range(120)))
    return RowIndex(path, folder_for(tmp_path))


def shown(index, **selection):
    chosen = Selection(**selection)
    page = rows_of(index, chosen, page=chosen.page)
    return [one.fields["n"] for one in index.records([place[1:] for place in page])]


def test_the_rows_are_those_of_the_file(index):
    assert index.count == 0 and shown(index) == []  # nothing is indexed yet
    assert not index.update() and index.whole and index.count == 120
    assert shown(index) == list(range(51)) and shown(index, page=2) == list(range(100, 120))
    assert shown(index, drop="dropped") == [i for i in range(120) if i % 10 > 7]
    assert count_of(index, Selection(drop="kept")) == 96
    assert shown(index, drop="check/words") == shown(index, drop="dropped")
    assert shown(index, drop="check/other") == shown(index, drop="nonsense") == shown(index, score="no") == []


def test_what_is_gathered_is_not_dropped(index):
    rows = [record(8), record(0), record(1).drop("gather", GATHERED, "into another")]
    index.rows.write_bytes(lines(rows))
    index.update()
    assert shown(index, drop="dropped") == [8] and shown(index, drop="kept") == [0]
    assert shown(index, drop="gather/gathered") == [1]


def test_order_and_range_of_a_score(index):
    index.update()
    assert shown(index, sort="-judge")[:3] == [119, 118, 117] and shown(index, sort="judge")[:2] == [0, 1]
    assert shown(index, score="words", low=2, high=3) == list(range(2, 120, 10))
    assert shown(index, score="words", low=9, sort="-judge")[:2] == [119, 109]
    assert shown(index, score="words", low=2, high=2) == []


def test_a_text_is_looked_for_in_values_only(index):
    tricky = [
        {"answer": 'She said "Grüße", \\ and left\nthen CAME back'},
        {"answer": {"nested": ["deep", {"x": "Needle"}]}},
        {"answer": "meta made scores"},
    ]
    index.rows.write_bytes(lines(record(i, **fields) for i, fields in enumerate(tricky)))
    index.update()
    for text, places in (
        ("grüsse", [0]),
        ("GRÜSSE", [0]),
        ('"grüße"', [0]),
        ("left\nthen", [0]),
        ("needle", [1]),
        ("answer", []),
        ("question", []),
        ("seeds", []),
        ("number", [0, 1, 2]),
        ("made scores", [2]),
        ("\\ and", [0]),
    ):
        assert shown(index, text=text) == places, text
    assert shown(index, text="number", field="answer") == [] and shown(index, text="NUMBER", field="question")
    assert shown(index, text="number", field="there is none") == []


def test_reasons_can_be_searched(index):
    index.update()
    assert shown(index, text="9 WORDS", field=REASON) == list(range(9, 120, 10))


def test_a_growing_file_is_followed_to_its_end(index):
    partial = index.rows.with_name(index.rows.name + ".partial")
    whole = index.rows.read_bytes()
    index.rows.unlink()
    chance = random.Random(0)
    with partial.open("wb", buffering=0) as stream:
        at = 0
        while at < len(whole):
            step = chance.randrange(1, 3000)
            stream.write(whole[at : at + step])
            at += step
            index.update()
            assert index.count == partial.read_bytes().count(b"\n") and not index.whole
    os.replace(partial, index.rows)
    index.update()
    assert index.whole and shown(index, page=2) == list(range(100, 120))
    again = RowIndex(index.rows, index.path.parent)
    assert again.count == 120 and not again.update() and again.whole and again.count == 120


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("rows", [30, 120, 200])
def test_a_file_that_was_written_anew_is_indexed_anew(index, in_place, rows):
    index.update()
    other = index.rows if in_place else index.rows.with_name("other")
    other.write_bytes(lines(record(i + 1000) for i in range(rows)))
    if not in_place:
        os.replace(other, index.rows)
    assert shown(index) == [], "rows of the old index were looked for in the new file"
    index.update()
    assert index.count == rows and shown(index)[:2] == [1000, 1001]


def test_a_damaged_index_is_made_again(index):
    index.update()
    index.path.write_bytes(b"no database" * 1000)
    fresh = RowIndex(index.rows, index.path.parent)
    fresh.update()
    assert fresh.count == 120 and fresh.whole


def test_rows_of_any_form_are_read(index):
    """Sorted keys, a meta that is not the last, a field like a meta, and only a meta."""
    odd = [
        dumps(record(0).row()),
        json.dumps({"meta": record(1).row()["meta"], "n": 1}).encode(),
        dumps(record(2, x={"y": 1, "meta": {"id": "no"}}).row(), sort_keys=False),
        dumps(Record("3", {}).row()),
        dumps(Record("4", {"n": 4, "big": 10**30}, scores={"words": None}).row(), sort_keys=False),
    ]
    index.rows.write_bytes(b"\n".join(odd) + b"\n")
    index.update()
    assert [one.id for one in index.records([p[1:] for p in rows_of(index, Selection(), page=0)])] == [
        "0000",
        "0001",
        "0002",
        "3",
        "4",
    ]
    assert index.read("SELECT count(*) FROM scores") == [(6,)]


def test_a_bar_has_the_rows_that_it_counts(index):
    chance = random.Random(1)
    values = [chance.gauss(5, 2) for _ in range(3000)] + [1e9, -1e9]
    rows = [
        Record(str(i), {"n": i}, scores={"judge": value}).drop("check", "judge", "low")
        if value < 5
        else Record(str(i), {"n": i}, scores={"judge": value})
        for i, value in enumerate(values)
    ]
    index.rows.write_bytes(lines(rows))
    index.update()
    bars = histogram(index, "judge")
    assert bars["total"] == 3002 and bars["most"] == 1e9 and bars["high"] < 20 and len(bars["bars"]) == 32
    for bar in bars["bars"]:
        chosen = Selection(score="judge", low=bar["low"], high=bar["high"])
        assert count_of(index, chosen) == sum(bar["counts"].values())
    assert bars["bars"][0]["counts"]["k"] == 0 and bars["bars"][-1]["counts"]["l"] == 0
    assert histogram(index, "none") is None


def test_a_run_that_cannot_be_written_is_indexed_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "view").write_text("in the way")  # also stops root, whom no permission stops
    assert folder_for(tmp_path / "run").parent == tmp_path / "temporary"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT position FROM scores WHERE name_id = (SELECT name_id FROM names) ORDER BY value DESC",
        "SELECT count(*) FROM rows WHERE drop_id IN (SELECT drop_id FROM drops)",
        "SELECT start FROM rows WHERE id = ?",
        "SELECT start FROM rows WHERE parent = ?",
    ],
)
def test_no_page_reads_all_of_the_index(index, query):
    """A column without a type is compared slowly: SQLite would then scan the table, and sort it."""
    index.update()
    plan = " ".join(row[3] for row in index.read(f"EXPLAIN QUERY PLAN {query}", ["x"] * query.count("?")))
    assert (
        "SEARCH" in plan
        and "TEMP B-TREE" not in plan
        and "SCAN rows" not in plan
        and "SCAN scores" not in plan
    )
