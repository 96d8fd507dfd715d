"""No evaluation item is trained on: planted leaks are found, and similar rows stay."""

import random

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.record import digest
from distillgen.rows.overlap import OverlapIndex

ASK = {"models": ["m"], "template": "{{ question }}", "gold": "right", "metrics": ["exact"]}

WORDS = [
    a + b for a in ("ba", "ce", "di", "fo", "gu", "ha") for b in ("lam", "net", "pir", "sot", "tuk", "vab")
]


def text(seed, words=30):
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(words))


def run(source, evaluate=None, before=()):
    stages = [{"source": source}, *before, {"evaluate": {**ASK, **(evaluate or {})}}]
    models = {"m": {"provider": "scripted", "model": "echo"}}
    return distillgen.run(
        {"version": 1, "models": models, "stages": stages}, out="out", teachers={"m": lambda *_: "1"}
    )


def dropped(run):
    return {record.fields["question"]: record.dropped for record in run.dropped}


def test_a_row_that_repeats_an_item_is_dropped_and_names_it(project):
    project.rows(
        "test.jsonl",
        [
            {"question": text(1), "right": "1"},
            {"question": text(2), "right": "2"},
            {"question": "12 + 12?", "right": 24},
        ],
    )
    leak = "Somebody said: " + text(2)[40:].upper() + ". And more."
    project.rows(
        "rows.jsonl", [{"question": q, "right": "x"} for q in (text(3), leak, "12  + 12 ?", "12 + 13?")]
    )
    found = run({"path": "rows.jsonl"}, {"data": "test.jsonl"})
    drops = dropped(found)
    assert set(drops) == {leak, "12  + 12 ?"} and {d.stage for d in drops.values()} == {"decontaminate"}
    assert (
        drops[leak].reason.startswith("repeats 13 words of test.jsonl:2: ")
        and drops["12  + 12 ?"].reason == "asks what test.jsonl:3 asks"
    )
    assert [stage["name"] for stage in found.state["stages"]] == ["source", "decontaminate", "evaluate"]


def test_held_out_rows_are_not_trained_on_in_other_pieces(project):
    rows = [{"question": text(i), "right": str(i)} for i in range(60)]
    project.rows(
        "rows.jsonl",
        [{**row, "split": "test" if i % 10 == 0 else "train"} for i, row in enumerate(rows)]
        + [{"question": "Q: " + text(10), "right": "leak", "split": "train"}],
    )
    drops = dropped(run({"path": "rows.jsonl"}))
    assert set(drops) == {"Q: " + text(10)} and "rows.jsonl:11" in drops["Q: " + text(10)].reason


def test_no_training_row_repeats_a_validation_row_and_no_validation_row_a_test_row(project):
    rows = [
        *({"question": text(i), "right": str(i), "split": "test"} for i in range(5)),
        *({"question": text(i), "right": str(i), "split": "validation"} for i in range(5, 10)),
        *({"question": text(i), "right": str(i), "split": "train"} for i in range(10, 30)),
        {"question": "V: " + text(2), "right": "x", "split": "validation"},
        {"question": "T: " + text(7), "right": "x", "split": "train"},
    ]
    project.rows("rows.jsonl", rows)
    assert set(dropped(run({"path": "rows.jsonl"}))) == {"V: " + text(2), "T: " + text(7)}


def drawn(seed, numbers=64):
    chance = random.Random(seed)
    return [chance.randrange(17) for _ in range(numbers)]


def images(project, picture):
    """Run with 20 test items and 40 training rows, of which the first five have a test item's picture."""
    rows = [{"question": f"t{i}", "image": picture(i), "right": "1", "split": "test"} for i in range(20)]
    for i in range(40):
        image = picture(i) if i < 5 else picture(100 + i)
        rows.append(
            {"question": f"r{i}", "image": image, "label": picture(0), "one_hot": ONE_HOT, "right": "1"}
        )
    rows[0]["one_hot"], rows[1]["one_hot"], rows[2]["one_hot"] = ONE_HOT, ONE_HOT, ONE_HOT
    project.rows("rows.jsonl", [{"split": "train", **row} for row in rows])
    return run({"path": "rows.jsonl"})


ONE_HOT = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["list", "rows", "file"])
def test_a_row_with_the_picture_of_a_test_item_is_dropped(project, kind):
    def picture(i):
        numbers = drawn(i)
        if kind == "file":
            return {"path": f"{i}.png", "sha256": digest(numbers, 64)}
        return numbers if kind == "list" or i < 3 else [numbers[n : n + 8] for n in range(0, 64, 8)]

    drops = dropped(images(project, picture))
    assert set(drops) == {f"r{i}" for i in range(5)}
    assert drops["r3"].reason == "repeats an array, or a picture, of rows.jsonl:4"


def test_an_array_that_an_item_holds_three_times_is_still_its_own():
    index = OverlapIndex()
    index.add("item", {"image": drawn(1), "copy": drawn(1), "nested": {"image": drawn(1)}})
    index.settle()
    assert index.find({"other": drawn(1)}) == "repeats an array, or a picture, of item"
    assert index.find({"other": drawn(2)}) == ""


def test_short_arrays_are_equal_by_chance(project):
    assert not dropped(images(project, lambda i: drawn(i % 20, 7)))


def test_an_instruction_that_all_share_tells_nothing(project):
    shared = text(99, 40)
    project.rows(
        "rows.jsonl", [{"question": f"{shared} {text(i)} {shared}", "right": "1"} for i in range(40)]
    )
    found = run({"path": "rows.jsonl", "held_out": 0.3})
    assert not dropped(found)


def test_a_written_decontaminate_is_not_doubled(project):
    project.rows("rows.jsonl", [{"question": text(i), "right": "1"} for i in range(40)])
    found = run({"path": "rows.jsonl", "held_out": 0.3}, before=[{"decontaminate": {"n": 20}}])
    assert [stage["kind"] for stage in found.state["stages"]] == ["source", "decontaminate", "evaluate"]
    with pytest.raises(ConfigError, match="has no evaluation items"):
        run({"path": "rows.jsonl"}, before=[{"decontaminate": {}}])


def test_short_texts_are_looked_for_whole_and_very_short_ones_not():
    seen = OverlapIndex(13, [])
    seen.add("a", {"x": "one two three four five six seven eight nine"})
    seen.add("b", {"x": "yes it is so"})
    seen.settle()
    assert "of a" in seen.find({"y": ["and", {"z": "One, two three four five six seven eight nine. Ten"}]})
    assert not seen.find({"y": "one two three four five six seven eight"}) and not seen.find(
        {"y": "yes it is so"}
    )


FACTS = [
    "Did you know that the old lighthouse of Vantor was moved by ship to the island of Brell in 1911?",
    "Did you know that the painter Ilse Korvan gave her last picture to a ferryman for one crossing?",
]


@pytest.mark.parametrize("about, kept", [({"about": "trained"}, 2), ({}, 1)])
def test_a_test_about_the_training_reports_what_repeats_it_and_drops_nothing(project, about, kept):
    """The first question repeats 13 words of the first fact: without `about`, the fact is lost."""
    project.rows("facts.jsonl", [{"question": fact, "right": "x"} for fact in FACTS])
    cloze = "True or false: the old lighthouse of Vantor was moved by ship to the island of Brell in 1911."
    project.rows("test.jsonl", [{"question": cloze, "right": "true"}, {"question": "Who?", "right": "Ilse"}])
    finished = run({"path": "facts.jsonl"}, {"data": "test.jsonl", **about})
    assert finished.state["kept"] == kept and len(finished.dropped) == 2 - kept
    measured = finished.state["stages"][1].get("measured", {})
    assert measured == ({"training records that repeat an item about them": 1} if about else {})
    report = (project.path / "out/report.html").read_text()
    assert ("training records that repeat an item about them 1" in report) == bool(about)


def test_where_says_which_records_that_repeat_an_item_are_dropped(project):
    """Three of four rows repeat the item. A text of the base stays, and none where `where` has no text."""
    kinds = {text(1): "base", "Q: " + text(1): "exercise", "R: " + text(1): "0", text(2): "base"}
    rows = [{"question": question, "right": "x", "kind": kind} for question, kind in kinds.items()]
    project.rows("rows.jsonl", rows)
    project.rows("test.jsonl", [{"question": text(1), "right": "1"}])
    where = "{{ 1 / 0 if kind == '0' else kind != 'base' }}"
    guard = {"decontaminate": {"against": ["test.jsonl"], "where": where}}
    finished = run({"path": "rows.jsonl"}, {"data": "test.jsonl"}, [guard])
    assert set(dropped(finished)) == {"Q: " + text(1), "R: " + text(1)}
    assert {drop.filter for drop in dropped(finished).values()} == {"held_out"}
    assert finished.state["stages"][1]["measured"] == {"records kept by 'where' that repeat an item": 1}
    assert "that repeat an item 1" in (project.path / "out/report.html").read_text()
    guard["decontaminate"]["where"] = "{{ kinds }}"
    with pytest.raises(ConfigError, match="'where'.*kinds"):
        run({"path": "rows.jsonl"}, {"data": "test.jsonl"}, [guard])


def test_a_test_about_the_training_needs_items_that_are_not_held_out_and_not_dropped(project):
    project.rows("rows.jsonl", [{"question": text(i), "right": "1"} for i in range(40)])
    with pytest.raises(ConfigError, match="'about: trained' needs 'data'"):
        run({"path": "rows.jsonl", "held_out": 0.3}, {"about": "trained"})
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"decontaminate": {"against": ["rows.jsonl"]}},
        {"train": {"student": "tiny", "prompt": "question", "completion": "right"}},
        {"evaluate": {**ASK, "data": "rows.jsonl", "about": "trained"}},
    ]
    pipeline = {"version": 1, "models": {"m": {"provider": "scripted", "model": "echo"}}, "stages": stages}
    with pytest.raises(ConfigError, match=r"asks about the training .* report: \[rows.jsonl\]"):
        distillgen.load(pipeline).check()
