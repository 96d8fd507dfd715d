"""Rows that a stage after the source reads name pictures by their paths: each becomes a reference to its
file, and a script that looks at the pixels gives the picture that its row names.
"""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from tests.pictures import colour_of, folder_of, png

SEE = {"provider": "scripted", "model": "echo"}
COLOURS = [(10 * i, 0, 200) for i in range(6)]


def look(request, sample):
    """The first pixel of each picture, in order."""
    parts = [
        part for turn in request.messages if isinstance(turn["content"], list) for part in turn["content"]
    ]
    return json.dumps([colour_of(part["data"]) for part in parts if part["type"] == "image"])


def run(project, *stages, rows=({"n": 0}, {"n": 1}), **options):
    project.rows("rows.jsonl", rows)
    pipeline = {"version": 1, "models": {"m": SEE}, "stages": [{"source": {"path": "rows.jsonl"}}, *stages]}
    return distillgen.run(pipeline, out="out", teachers={"m": look}, **options)


def asking(**options):
    return {
        "generate": {"model": "m", "template": "Which?", "output": "seen", "images": ["image"], **options}
    }


@pytest.fixture
def memory(project):
    """A folder with pictures, and a file beside it whose rows name them."""
    folder_of(project.path / "memory/pictures", COLOURS)
    rows = [{"id": f"p{i}", "image": f"pictures/{i:04}.png"} for i in range(len(COLOURS))]
    return project.rows("memory/rows.jsonl", rows)


def pixel(id):
    return [list(COLOURS[int(id[1:])])]


def test_cross_pairs_each_record_with_the_picture_that_a_row_names(project, memory):
    cross = {"cross": {"rows": "memory/rows.jsonl", "images": ["image"]}}
    run(project, cross, asking())
    seen = [(row["n"], row["id"], json.loads(row["seen"])) for row in project.read("out/corpus.jsonl")]
    assert seen == [(n, f"p{i}", pixel(f"p{i}")) for n in (0, 1) for i in range(6)]
    in_place = [{"image": "memory/pictures/0002.png"}]  # as seen from the project
    run(project, {"cross": {"rows": in_place, "images": ["image"]}}, asking())
    assert [json.loads(row["seen"]) for row in project.read("out/corpus.jsonl")] == [pixel("p2")] * 2
    run(project, {"cross": {"rows": "memory/rows.jsonl"}}, asking())  # control: a path is no picture
    assert not project.read("out/corpus.jsonl")


def test_added_rows_have_their_pictures_and_one_without_its_own_is_dropped(project, memory):
    (project.path / "memory/pictures/0003.png").write_bytes(png(COLOURS[3])[:40])
    project.rows("data/own.jsonl", [{"id": "p0", "photo": "memory/pictures/0000.png"}])
    source = {"source": {"path": "data/own.jsonl", "images": ["photo"]}}
    add = {"path": "memory/rows.jsonl", "images": ["photo"], "fields": {"photo": "image", "id": "id"}}
    pipeline = {"version": 1, "models": {"m": SEE}}
    pipeline["stages"] = [source, {"add": add}, asking(images=["photo"])]
    result = distillgen.run(pipeline, out="out", teachers={"m": look})
    seen = [(row["id"], json.loads(row["seen"])) for row in project.read("out/corpus.jsonl")]
    assert seen == [(f"p{i}", pixel(f"p{i}")) for i in (0, 1, 2, 4, 5, 0)]
    (dropped,) = result.dropped
    assert (dropped.dropped.filter, dropped.dropped.reason) == ("unusable_file", "'0003.png' is cut off")
    script = "def rows():\n    yield {'id': 'p4', 'image': 'memory/pictures/0004.png'}"
    project.write("data/more.py", script)
    del add["path"]
    distillgen.run(pipeline, out="out", teachers={"m": look}, sets=["add.script=data/more.py:rows"])
    assert [row["id"] for row in project.read("out/corpus.jsonl")] == ["p4", "p0"]


def test_retrieve_brings_the_pictures_of_its_entries_and_a_prompt_shows_them(project, memory):
    retrieve = {"from": "memory/rows.jsonl", "images": ["image"], "by": "random", "k": 3}
    run(project, {"retrieve": retrieve | {"keep": "image"}}, asking(images=["retrieved"]))
    rows = project.read("out/corpus.jsonl")
    for row in rows:
        names = [entry["path"].removeprefix("memory/pictures/000")[0] for entry in row["retrieved"]]
        assert len({*names}) == 3 and json.loads(row["seen"]) == [pixel(f"p{name}")[0] for name in names]
    run(project, {"retrieve": retrieve})  # whole entries
    assert [[entry["image"] for entry in row["retrieved"]] for row in project.read("out/corpus.jsonl")] == [
        row["retrieved"] for row in rows
    ]


def judge(request, sample):
    seen = json.loads(look(request, sample))
    right = json.dumps(seen) in request.messages[-1]["content"][-1]["text"]
    return json.dumps({"reason": "r", "score": 9 if right else 2})


def test_evaluate_shows_the_pictures_of_its_items_and_so_do_its_judges(project, memory):
    items = [
        {"id": f"p{i}", "image": f"pictures/{i:04}.png", "gold": json.dumps(pixel(f"p{i}"))} for i in range(5)
    ]
    items.append({"id": "gone", "image": "pictures/gone.png", "gold": ""})
    project.rows("memory/items.jsonl", items)
    project.rows("rows.jsonl", [{"n": 0}])
    grade = {"judge": {"model": "judge", "rubric": "true", "fields": ["answer"], "images": ["image"]}}
    stage = {"models": ["m"], "data": "memory/items.jsonl", "template": "Which?", "images": ["image"]}
    stage |= {"gold": "gold", "metrics": ["exact", grade]}

    def evaluation(**options):
        stages = [{"source": {"path": "rows.jsonl"}}, {"evaluate": {**stage, **options}}]
        pipeline = {"version": 1, "models": {"m": SEE, "judge": SEE}, "stages": stages}
        run = distillgen.run(pipeline, out="out", teachers={"m": look, "judge": judge})
        return json.loads((run.directory / "evaluation.json").read_text())

    both = evaluation()
    assert both["items"] == 5 and both["left_out"] == {"there is no file 'pictures/gone.png'": 1}
    assert {name: one["mean"] for name, one in both["models"]["m"]["metrics"].items()} == {
        "exact": 1,
        "judge": 1,
    }
    blind = evaluation(
        template="Which of {{ id }}?", images=[]
    )  # the judge alone sees: nothing was seen right
    assert blind["items"] == 5 and blind["models"]["m"]["metrics"]["judge"]["mean"] == 0


def test_a_training_row_with_the_picture_of_an_item_is_found_wherever_the_file_lies(project, memory):
    (project.path / "data").mkdir()
    for i, colour in enumerate([*COLOURS, (1, 1, 1), (2, 2, 2)]):
        (project.path / f"data/{7 - i}.png").write_bytes(png(colour))
    training = [{"image": f"{i}.png", "question": "What is it?"} for i in range(8)]
    project.rows("data/rows.jsonl", training)
    items = [{"image": f"pictures/{i:04}.png", "question": "What is it?", "gold": "x"} for i in range(6)]
    project.rows("memory/items.jsonl", items * 4)  # so many that the picture alone would not count
    evaluate = {
        "models": ["m"],
        "data": "memory/items.jsonl",
        "template": "{{ question }}",
        "images": ["image"],
    }
    evaluate |= {"gold": "gold", "metrics": ["exact"]}
    source = {"source": {"path": "data/rows.jsonl", "images": ["image"]}}
    pipeline = {"version": 1, "models": {"m": SEE}, "stages": [source, {"evaluate": evaluate}]}
    result = distillgen.run(pipeline, out="out", teachers={"m": look})
    assert [row["image"]["path"] for row in project.read("out/corpus.jsonl")] == ["data/0.png", "data/1.png"]
    assert all("asks what memory/items.jsonl:" in record.dropped.reason for record in result.dropped)


def test_round_trip_answers_from_the_picture(project, memory):
    rows = [{"id": f"p{i}", "image": f"memory/pictures/{i:04}.png"} for i in range(4)]
    project.rows("data.jsonl", [row | {"answer": json.dumps(pixel("p1")), "question": "?"} for row in rows])
    check = {"round_trip": {"model": "m", "shown": ["question"], "images": ["image"], "min_f1": 1}}
    stages = [{"source": {"path": "data.jsonl", "images": ["image"]}}, {"filter": [check]}]
    distillgen.run({"version": 1, "models": {"m": SEE}, "stages": stages}, out="out", teachers={"m": look})
    assert [row["id"] for row in project.read("out/corpus.jsonl")] == ["p1"]


ROWS = {"rows": "memory/rows.jsonl"}
FILE = {"from": "memory/rows.jsonl", "by": "random"}


@pytest.mark.parametrize(
    "stage, message",
    [
        ({"cross": ROWS | {"images": ["imag"]}}, "'images' names the field 'imag', which no row has.*image"),
        ({"cross": ROWS | {"audio": ["image"]}}, "memory/rows.jsonl:1: '0000.png' is no sound"),
        ({"cross": ROWS | {"images": ["id"]}}, "there is no file 'p0'"),
        ({"cross": {"rows": [{"image": "x.png"}], "images": ["image"]}}, "row 1: there is no file 'x.png'"),
        ({"cross": ROWS | {"images": ["image"], "audio": ["image"]}}, "is in 'images' and in 'audio'"),
        (
            {"add": {"path": "memory/rows.jsonl", "images": ["imag"], "fields": {"n": "id"}}},
            "'imag', which no",
        ),
        ({"add": {"path": "memory/rows.jsonl", "images": ["n"], "fields": {"n": "id"}}}, "no file 'p0'"),
        ({"retrieve": FILE | {"images": ["imag"]}}, "'images' names the field 'imag'"),
        ({"retrieve": FILE | {"from": "here", "images": ["image"]}}, "records have references already"),
        (
            {"retrieve": {"from": "memory/rows.jsonl", "key": "image", "query": "n", "images": ["image"]}},
            "'image' names pictures or sounds, and entries are found by their texts",
        ),
    ],
)
def test_a_mistake_is_found_by_check(project, memory, stage, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        run(project, stage)


def test_evaluate_refuses_items_without_a_single_picture(project, memory):
    project.rows("memory/items.jsonl", [{"image": "gone.png", "gold": "x"}])
    evaluate = {"models": ["m"], "data": "memory/items.jsonl", "template": "?", "images": ["image"]}
    with pytest.raises(ConfigError, match=r"memory/items.jsonl:1: there is no file 'gone.png'"):
        run(project, {"evaluate": evaluate | {"gold": "gold", "metrics": ["exact"]}})
