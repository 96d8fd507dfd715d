"""Held-out items: equal items are held out together, wherever and however often they occur."""

from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.source import Source
from distillgen.stages.train import Train


def parts(project, rows, **options):
    project.rows("rows.jsonl", rows)
    stage = Train(name="train", student="tiny", held_out=0.5, **options)
    arm = stage.arm(stage.learning(Project(project.path)))
    records = Source(name="source", path="rows.jsonl").records(Project(project.path))
    children = [r.derive({"completion": str(n)}, {"stage": "generate"}, n) for r in records for n in range(2)]
    found = {}
    for record in children:
        found.setdefault(record.fields["q"], set()).add(arm.part(Record.from_row(record.row())))
    return found


def test_equal_items_are_held_out_together(project):
    rows = [{"id": i, "q": f"question {i % 60}", "answer": f"a{i}"} for i in range(180)]
    first = parts(project, rows)
    assert all(len(own) == 1 for own in first.values()) and {
        part for own in first.values() for part in own
    } == {"train", "held_out"}
    again = parts(project, [{"id": 999, "q": "new", "answer": "n"}, *rows[::-1]])
    assert {q: own for q, own in again.items() if q != "new"} == first
    assert parts(project, rows, seed=1) != first, "the seed draws another split"


def test_pieces_of_a_text_in_a_folder_stay_together(project):
    for i in range(30):
        project.write(f"texts/{i}.md", " ".join(f"Sentence {j} of text {i} says a thing." for j in range(20)))
    stage = Train(name="train", student="tiny", held_out=0.5)
    arm = stage.arm(stage.learning(Project(project.path)))

    def sides():
        records = [*Source(name="source", path="texts", chunk_words=20).records(Project(project.path))]
        texts = {record.fields["file"] for record in records}
        return {text: {arm.part(r) for r in records if r.fields["file"] == text} for text in texts}

    first = sides()
    assert (
        all(len(own) == 1 for own in first.values()) and len({next(iter(own)) for own in first.values()}) == 2
    )
    (project.path / "texts/0.md").rename(project.path / "texts/zzz.md")
    again = sides()
    assert again["zzz.md"] == first["0.md"] and all(
        again[text] == first[text] for text in first if text != "0.md"
    )


def test_the_source_says_what_an_item_is(project):
    rows = [{"topic": f"t{i % 20}", "q": f"question {i}"} for i in range(100)]
    project.rows("rows.jsonl", rows)
    for options, together in (({"item": ["topic"]}, True), ({}, False)):
        records = Source(name="source", path="rows.jsonl", held_out=0.5, **options).records(
            Project(project.path)
        )
        sides = {}
        for record in records:
            sides.setdefault(record.fields["topic"], set()).add(record.fields["split"])
        assert all(len(own) == 1 for own in sides.values()) is together


def test_equal_rows_are_held_out_together_by_the_source(project):
    rows = [{"id": i, "q": f"question {i % 60}", "answer": f"a{i}"} for i in range(180)]

    def sides(rows):
        project.rows("rows.jsonl", rows)
        found = {}
        for record in Source(name="source", path="rows.jsonl", held_out=0.5).records(Project(project.path)):
            found.setdefault(record.fields["q"], set()).add(record.held_out)
        return found

    first = sides(rows)
    assert (
        all(len(own) == 1 for own in first.values()) and len({next(iter(own)) for own in first.values()}) == 2
    )
    assert sides([{"id": 999, "q": "new"}, *rows[::-1]]).items() >= first.items()


def test_an_item_survives_an_earlier_run(project):
    earlier = [
        Record.read({"q": "same", "id": i}, f"x:{i}").derive({"a": f"{i}"}, {"stage": "g"}, 0)
        for i in range(2)
    ]
    project.rows("corpus.jsonl", [record.row() for record in earlier])
    for lineage in (True, False):
        one, two = Source(name="s", path="corpus.jsonl", lineage=lineage).records(Project(project.path))
        assert one.item == two.item == earlier[0].item != ""


def test_a_validation_row_is_neither_trained_on_nor_held_out_for_evaluation(project):
    project.rows(
        "rows.jsonl", [{"q": split, "split": split} for split in ("train", "validation", "test", "dev")]
    )
    records = [*Source(name="s", path="rows.jsonl").records(Project(project.path))]
    stage = Train(name="train", student="tiny")
    arm = stage.arm(stage.learning(Project(project.path)))
    assert [r.part for r in records] == ["train", "validation", "test", "test"]
    assert [arm.part(r) for r in records] == ["train", "validation", "held_out", "held_out"]
    assert [r.held_out for r in records] == [False, True, True, True]


def test_a_null_split_is_no_split():
    assert (
        not Record.read({"q": 1, "split": None}, "x:1").held_out
        and Record.read({"q": 1, "split": "test"}, "x:1").held_out
    )
