"""add: a mixture to learn from, in which no added row is a test row or repeats one."""

import json
import re

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.record import Record

OURS = [{"prompt": f"own question number {i}", "completion": str(i), "note": "x"} for i in range(30)]
OTHERS = [{"q": f"another question, the {i}th", "a": f"yes {i}", "more": i} for i in range(100)]
FIELDS = {"prompt": "q", "completion": "a"}


@pytest.fixture
def mixed(project):
    """mixed(*stages before 'add', **options of add) -> the rows that leave; `after` are stages behind it."""

    def mixed(*before, after=(), others=OTHERS, source=None, seed=0, **options):
        project.rows("ours.jsonl", OURS)
        project.rows("others.jsonl", others)
        stages = [{"source": {"path": "ours.jsonl", **(source or {})}}, *before]
        stages += [{"add": {"path": "others.jsonl", "fields": FIELDS, **options}}, *after]
        distillgen.run({"version": 1, "seed": seed, "stages": stages}, out="out")
        return project.read("out/corpus.jsonl")

    return mixed


def test_added_rows_come_first_with_the_fields_of_the_records(mixed):
    rows = mixed()
    added, own = rows[:100], rows[100:]
    assert [(row["prompt"], row["completion"]) for row in added] == [(row["q"], row["a"]) for row in OTHERS]
    assert [row["prompt"] for row in own] == [row["prompt"] for row in OURS]
    assert all(row["note"] is None and row["split"] == "train" and "more" not in row for row in added)
    assert {row["origin"] for row in added} == {"others.jsonl"} and {row["origin"] for row in own} == {None}
    assert added[4]["meta"]["source"] == "others.jsonl:5" and len({row["meta"]["id"] for row in rows}) == 130


def test_a_script_yields_rows_as_a_file_has_them(project, mixed):
    project.write(
        "data/others.py",
        "def rows(*, n=9, seed):\n    return [{'q': f'number {seed + i}?', 'a': str(i)} for i in range(n)]",
    )
    script = {"path": None, "script": "data/others.py:rows", "with": {"n": 40}}
    rows = mixed(seed=5, **script)
    assert [row["prompt"] for row in rows[:40]] == [f"number {i}?" for i in range(5, 45)]
    assert {row["origin"] for row in rows[:40]} == {"data/others.py:rows"} and len(rows) == 70
    drawn = mixed(seed=5, n=7, **script)[:7]
    assert {row["prompt"] for row in drawn} < {row["prompt"] for row in rows[:40]}


@pytest.mark.parametrize(
    "options, amount",
    [({"n": 12}, 12), ({"share": 0.5}, 30), ({"share": 0.25}, 10), ({"n": 500}, 100), ({"share": 0.9}, 100)],
)
def test_a_number_or_a_share_is_drawn(mixed, options, amount):
    rows = mixed(**options)
    assert sum(row["origin"] is not None for row in rows) == amount and len(rows) == amount + 30


def test_the_draw_is_that_of_the_seed_and_grows(mixed):
    few, many, other = (
        [r["prompt"] for r in mixed(n=n, seed=seed)][:n] for n, seed in ((10, 0), (40, 0), (40, 1))
    )
    assert set(few) < set(many) and many != other and few != [row["q"] for row in OTHERS[:10]]
    assert many == sorted(many, key=[row["q"] for row in OTHERS].index)


def test_a_share_counts_live_training_records_only(mixed):
    drop = {"filter": [{"word_count": {"field": "prompt", "min_words": 99}}]}
    assert not mixed(drop, share=0.5)
    rows = mixed(source={"held_out": 0.4}, share=0.5)
    held_out = [row for row in rows if row["split"] == "test"]
    added = [row for row in rows if row["origin"]]
    assert 5 < len(held_out) < 20 and len(added) == 30 - len(held_out)
    assert {row["split"] for row in added} == {"train"}


def test_held_out_rows_of_the_file_are_not_added(mixed):
    others = [{**row, "split": "test" if i % 2 else "train"} for i, row in enumerate(OTHERS)]
    assert [r["prompt"] for r in mixed(others=others)][:50] == [row["q"] for row in OTHERS[::2]]


def test_rows_of_an_earlier_run_name_their_parents(mixed):
    others = [Record.read(row, "x").row() for row in OTHERS]
    assert [r["meta"]["parents"] for r in mixed(others=others)][:100] == [
        [row["meta"]["id"]] for row in others
    ]


def test_equal_rows_have_ids_of_their_own(mixed):
    rows = mixed(others=[OTHERS[0], OTHERS[0], {"q": OURS[0]["prompt"], "a": OURS[0]["completion"]}])
    assert len(rows) == 33 == len({row["meta"]["id"] for row in rows})


def test_a_late_bad_row_is_dropped_with_its_reason(project, mixed):
    others = [*[row for _ in range(3) for row in OTHERS], {"q": "no answer"}]
    assert len(mixed(others=others)) == 330
    (dropped,) = project.read("out/dropped.jsonl")
    assert dropped["meta"]["dropped"] == {
        "stage": "add",
        "filter": "unreadable",
        "reason": "there is no field 'a' in the row; known: q",
    }


LEAK = "the river that runs through the old town floods its lower streets every spring after the snow melts"


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("place", ["behind", "before"])
def test_an_added_row_never_repeats_a_test_item(project, mixed, guarded, place):
    project.rows("test.jsonl", [{"question": LEAK}])
    guard = [{"decontaminate": {"against": ["test.jsonl"]}}] if guarded else []
    others = [*OTHERS, {"q": f"Is it true that {LEAK}?", "a": "yes"}]
    rows = mixed(
        *(guard if place == "behind" else ()), after=guard if place == "before" else (), others=others
    )
    dropped = project.read("out/dropped.jsonl")
    assert len(rows) == 131 - guarded and len(dropped) == guarded
    assert not guarded or dropped[0]["meta"]["dropped"]["filter"] == "held_out"


def test_held_out_records_guard_behind_an_earlier_decontamination(project, mixed):
    """Every other row is about a question of ours: those about held-out ones are not learnt from."""
    rows = [
        {**row, "prompt": " ".join(f"word{i}{letter}" for letter in "abcdefghij")}
        for i, row in enumerate(OURS)
    ]
    project.rows("long.jsonl", rows)
    others = [{"q": row["prompt"], "a": "1"} for row in rows]
    guard = {"decontaminate": {"n": 8}}
    kept = mixed(guard, source={"path": "long.jsonl", "held_out": 0.3}, others=others)
    held_out = {row["prompt"] for row in kept if row["split"] == "test"}
    assert held_out and not held_out & {row["prompt"] for row in kept if row["split"] == "train"}
    assert any(row["meta"]["dropped"]["stage"] == "add" for row in project.read("out/dropped.jsonl"))


def test_in_rounds_added_rows_do_not_leave(project):
    project.rows("ours.jsonl", OURS)
    project.rows("others.jsonl", OTHERS)
    inner = [{"add": {"path": "others.jsonl", "fields": FIELDS, "n": 5}}, {"diversity": {"field": "prompt"}}]
    stages = [{"source": {"path": "ours.jsonl"}}, {"rounds": {"n": 2, "repeat": True, "stages": inner}}]
    distillgen.run({"version": 1, "stages": stages}, out="out")
    assert len(project.read("out/corpus.jsonl")) == 60
    rounds = json.loads((project.path / "out/rounds/rounds.json").read_text())["rounds"]
    assert [round["diversity.texts"] for round in rounds] == [35, 35]


def test_plan_is_an_upper_bound(project):
    project.rows("ours.jsonl", OURS)
    project.rows("others.jsonl", OTHERS)
    for options, rows in (
        ({}, 130),
        ({"n": 7}, 37),
        ({"n": 700}, 130),
        ({"share": 0.5}, 60),
        ({"share": 0.99}, 130),
    ):
        add = {"add": {"path": "others.jsonl", "fields": FIELDS, **options}}
        pipeline = distillgen.load({"version": 1, "stages": [{"source": {"path": "ours.jsonl"}}, add]})
        assert pipeline.plan()[-1][1].rows == rows


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"fields": None},
            "no row of 'others.jsonl' has a field of the records; they have ['a', 'more', 'q']",
        ),
        (
            {"fields": {"promt": "q"}},
            "'fields' needs the field 'promt', which no earlier stage gives; did you",
        ),
        ({"fields": {"prompt": "question"}}, "others.jsonl:1: there is no field 'question' in the row"),
        ({"n": 3, "share": 0.5}, "give 'n' or 'share', not both"),
        ({"share": 1.0}, "less than 1"),
        ({"path": "none.jsonl"}, "there is no file 'none.jsonl'"),
        ({"path": "tests.jsonl"}, "'tests.jsonl' has no rows to add"),
        ({"origin": "split"}, "the field 'split' is distillgen's own"),
        ({"path": None}, "give 'path' or 'script'"),
        ({"script": "data/none.py:rows"}, "give 'path' or 'script'"),
        ({"path": None, "script": "data/none.py:rows"}, "data/none.py"),
        ({"path": None, "script": "data/village.py:texts", "with": {"rows": 3}}, "has no option 'rows'"),
        ({"with": {"n": 3}}, "it has no use without 'script'"),
    ],
)
def test_a_mistake_is_an_error_at_check(project, options, message):
    project.rows("ours.jsonl", OURS)
    project.rows("others.jsonl", OTHERS)
    project.rows("tests.jsonl", [{"q": "a", "a": "b", "split": "test"}])
    stages = [
        {"source": {"path": "ours.jsonl"}},
        {"add": {"path": "others.jsonl", "fields": FIELDS, **options}},
    ]
    with pytest.raises(ConfigError, match=re.escape(message)):
        distillgen.load({"version": 1, "stages": stages})
