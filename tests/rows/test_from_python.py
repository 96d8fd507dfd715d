"""Rows from Python: each kind of container gives the rows that a file with them would give."""

import datetime
import json

import pytest

import distillgen
from distillgen.rows.from_python import write_rows

ROWS = [
    {"question": "one", "n": 1, "share": 0.5, "day": datetime.date(2024, 5, 1), "tags": ["a", "b"]},
    {"question": "<b>two</b>", "n": 2, "share": None, "day": datetime.date(2024, 5, 2), "tags": []},
    {"question": None, "n": 3, "share": 0.25, "day": datetime.date(2024, 5, 3), "tags": ["ä"]},
]
PLAIN = [{**row, "day": row["day"].isoformat()} for row in ROWS]


def pandas(rows):
    return pytest.importorskip("pandas").DataFrame(rows, index=[7, 7, 9])


def polars(rows):
    return pytest.importorskip("polars").DataFrame(rows)


def arrow(rows):
    return pytest.importorskip("pyarrow").Table.from_pylist(rows)


def data_set(rows):
    return pytest.importorskip("datasets").Dataset.from_list(rows)


@pytest.mark.parametrize("container", [list, iter, tuple, pandas, polars, arrow, data_set])
def test_every_container_gives_the_same_rows(container, tmp_path):
    write_rows(container(ROWS), tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    days = [row["day"][:10] for row in rows]  # pandas has times only
    assert [{**row, "day": day} for row, day in zip(rows, days, strict=True)] == PLAIN


def test_an_endless_generator_is_read_up_to_the_limit(tmp_path):
    def numbers():
        n = 0
        while True:
            yield {"n": (n := n + 1)}

    write_rows(numbers(), tmp_path / "rows.jsonl", limit=3)
    assert (tmp_path / "rows.jsonl").read_text() == '{"n":1}\n{"n":2}\n{"n":3}\n'


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"a": 1}, "b"], r"rows\[1\] is str and no mapping"),
        ([{"a": object()}], "the column 'a' holds a value of type object, which a row cannot hold"),
        ({"train": [{"a": 1}]}, "rows is dict, with the keys train: give a list of mappings"),
        ("data.jsonl", "not str; a file goes into the pipeline's source"),
        (3, "not int"),
        (iter([]), "there are none; a generator gives its rows once"),
    ],
)
def test_what_is_no_row_is_named_and_leaves_the_earlier_file(rows, message, tmp_path):
    write_rows([{"a": 0}], tmp_path / "rows.jsonl")
    with pytest.raises(distillgen.ConfigError, match=message):
        write_rows(rows, tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_text() == '{"a":0}\n'


def test_what_a_frame_lacks_is_null(tmp_path):
    pd = pytest.importorskip("pandas")
    columns = {"n": pd.array([1, None], dtype="Int64"), "day": pd.to_datetime(["2024-05-01", None])}
    write_rows(pd.DataFrame(columns), tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows == [{"n": 1, "day": "2024-05-01 00:00:00"}, {"n": None, "day": None}]


def test_two_columns_of_one_name_are_refused(tmp_path):
    frame = pytest.importorskip("pandas").DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(distillgen.ConfigError, match="two columns"):
        write_rows(frame, tmp_path / "rows.jsonl")


PIPELINE = {
    "version": 1,
    "models": {"teacher": {"provider": "openai", "model": "m", "api_key": "none"}},
    "stages": [{"generate": {"model": "teacher", "template": "{{ question }}", "output": "answer"}}],
}


def rows_of(count):
    return ({"question": f"What is {i}?"} for i in range(count))


def test_a_run_over_rows_asks_nothing_again(project, endpoint):
    pipeline = {**PIPELINE, "models": {"teacher": PIPELINE["models"]["teacher"] | {"base_url": endpoint.url}}}
    first = distillgen.run(pipeline, out="runs/p", rows=rows_of(4))
    corpus = (first.directory / "corpus.jsonl").read_bytes()
    assert first.kept[3].source == "rows.jsonl:4" and len(endpoint.bodies) == 4
    distillgen.run(pipeline, out="runs/p", rows=list(rows_of(4)))
    assert (first.directory / "corpus.jsonl").read_bytes() == corpus
    distillgen.run(pipeline, out="runs/elsewhere", rows=rows_of(6), limit=5)
    assert len(endpoint.bodies) == 5  # one more row
    distillgen.run(pipeline, out="runs/again", rows=first.kept)
    sources = project.read("runs/again/stages/01-source.jsonl")
    assert len(endpoint.bodies) == 5 and sources[0]["meta"]["parents"] == [first.kept[0].id]


def test_rows_take_the_place_of_the_files_and_keep_the_other_options(project):
    project.rows("data/seeds.jsonl", [{"question": "of the file"}])
    source = {"path": "data/seeds.jsonl", "format": "jsonl", "fields": {"q": "question"}, "held_out": 0.5}
    pipeline = {"version": 1, "stages": [{"source": source}]}
    run = distillgen.run(pipeline, rows=rows_of(4))
    assert {row.fields["q"] for row in run.kept} == {row["question"] for row in rows_of(4)}
    assert "split" in run.kept[0].fields and run.lock["stages"][0]["source"]["path"] == "rows.jsonl"
    assert str(project.path) not in (run.directory / "pipeline.lock.yaml").read_text()
    with pytest.raises(distillgen.ConfigError, match="did you mean 'question'"):
        distillgen.run(
            {"version": 1, "stages": [{"source": {"path": "x", "item": ["questio"]}}]}, rows=rows_of(1)
        )
