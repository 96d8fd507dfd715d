"""Rows from Python: each kind of container gives the rows that a file with them would give."""

import datetime
import hashlib
import io
import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.rows.from_python import write_rows
from tests.pictures import colour_of, png

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


@pytest.mark.parametrize(
    "origin",
    [
        {"path": "data/seeds.jsonl", "format": "jsonl"},
        {"dataset": "owner/name", "config": "small", "split": "test"},
        {"script": "rows.py:some", "with": {"n": 2}},
        {"draw": {"n": 2, "fields": {"question": {"from": 1, "to": 9}}}},
    ],
)
def test_rows_take_the_place_of_the_origin_and_keep_the_other_options(project, origin):
    source = {**origin, "fields": {"q": "question"}, "held_out": 0.5}
    pipeline = {"version": 1, "stages": [{"source": source}]}
    run = distillgen.run(pipeline, rows=rows_of(4))
    assert {row.fields["q"] for row in run.kept} == {row["question"] for row in rows_of(4)}
    assert "split" in run.kept[0].fields and run.lock["stages"][0]["source"]["path"] == "rows.jsonl"
    assert str(project.path) not in (run.directory / "pipeline.lock.yaml").read_text()
    with pytest.raises(distillgen.ConfigError, match="did you mean 'question'"):
        distillgen.run(
            {"version": 1, "stages": [{"source": {"path": "x", "item": ["questio"]}}]}, rows=rows_of(1)
        )


RED, BLUE = png((255, 0, 0), size=20), png((0, 0, 255), size=20)


def written(project, rows):
    """The references to the pictures in the rows, and the contents of their files."""
    write_rows(rows, project.path / "rows.jsonl", root=project.path)
    pictures = [row["image"] for row in project.read("rows.jsonl")]
    contents = [(project.path / picture["path"]).read_bytes() for picture in pictures]
    assert [picture["sha256"] for picture in pictures] == [
        hashlib.sha256(data).hexdigest() for data in contents
    ]
    return contents


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image")


def test_the_bytes_of_a_picture_become_a_file_of_the_project_once(project):
    assert written(project, [{"image": data} for data in (RED, BLUE, RED)]) == [RED, BLUE, RED]
    files = {file.name for file in (project.path / "runs/media").iterdir()}
    assert files == {f"{hashlib.sha256(data).hexdigest()}.png" for data in (RED, BLUE)}
    for data, reason in ((RED[:50], "the picture is cut off"), (b"\0\1", "neither text nor a picture")):
        with pytest.raises(ConfigError, match=rf"rows\[1\]: .*{reason}"):
            write_rows([{"image": RED}, {"image": data}], project.path / "no.jsonl", root=project.path)
    assert not (project.path / "no.jsonl").exists()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK", "F"])
def test_a_picture_of_pillow_becomes_a_file(project, pillow, mode):
    picture = pillow.open(io.BytesIO(RED)).convert("L" if mode == "F" else "RGB").convert(mode)
    (content,) = written(project, [{"image": picture, "n": 1}])
    same = pillow.open(io.BytesIO(content))
    assert same.convert("RGB").tobytes() == picture.convert("RGB").tobytes()
    assert written(project, [{"image": picture.copy(), "n": 1}]) == [content]


def test_a_picture_of_pillow_that_is_torn_names_its_row(project, pillow):
    noise = io.BytesIO()
    pillow.effect_noise((90, 90), 60).save(noise, "PNG")
    torn = pillow.open(io.BytesIO(noise.getvalue()[:2000]))
    with pytest.raises(ConfigError, match=r"rows\[0\]: 'image': the picture cannot be read: OSError"):
        write_rows([{"image": torn}], project.path / "rows.jsonl", root=project.path)


def test_an_array_of_bytes_with_the_shape_of_a_picture_becomes_a_file_and_another_stays_numbers(
    project, pillow
):
    numpy = pytest.importorskip("numpy")
    array = numpy.asarray(pillow.open(io.BytesIO(RED)))
    (content,) = written(project, [{"image": array}])
    assert numpy.array_equal(pillow.open(io.BytesIO(content)), array)
    for numbers in (array / 255, array[:4, :4], array[:, :, :2], array[0]):
        write_rows([{"image": numbers}], project.path / "rows.jsonl", root=project.path)
        (row,) = project.read("rows.jsonl")
        assert row["image"] == numbers.tolist()


@pytest.mark.parametrize("form", ["plain", "numpy", "pictures", "decoded by a function"])
def test_a_column_of_pictures_keeps_the_bytes_of_its_files(project, pillow, form):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int64")})
    values = [{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}]
    if form == "pictures":
        values = [pillow.open(io.BytesIO(data)) for data in (RED, BLUE)]
    rows = datasets.Dataset.from_dict({"image": values, "n": [0, 1]}, features=features)
    if form == "numpy":
        rows = rows.with_format("numpy")
    elif form == "decoded by a function":  # which decodes, and turns: its result is what counts
        rows.set_transform(lambda batch: {"image": [image.rotate(90) for image in batch["image"]]})
        contents = written(project, rows)
        colours = [pillow.open(io.BytesIO(data)).getpixel((0, 0)) for data in contents]
        assert colours == [(255, 0, 0), (0, 0, 255)] and contents != [RED, BLUE]
        return
    contents = written(project, rows)
    assert contents == [RED, BLUE] or form == "pictures"
    assert [pillow.open(io.BytesIO(data)).getpixel((0, 0)) for data in contents] == [(255, 0, 0), (0, 0, 255)]


def test_a_run_shows_the_pictures_of_its_rows_and_asks_nothing_again(project):
    seen = []

    def look(request, sample):
        (picture, _) = request.messages[0]["content"]
        seen.append(colour_of(picture["data"]))
        return "a colour"

    ask = {"generate": {"model": "m", "template": "Which?", "images": ["image"], "output": "said"}}
    pipeline = {"version": 1, "models": {"m": {"provider": "scripted", "model": "echo"}}, "stages": [ask]}
    for _ in range(2):
        distillgen.run(
            pipeline, rows=({"image": data} for data in (RED, BLUE)), teachers={"m": look}, out="runs/r"
        )
    assert sorted(seen) == [(0, 0, 255), (255, 0, 0)]
    with pytest.raises(ConfigError, match=r"rows\[0\]: 'image': the picture is cut off"):
        distillgen.run(pipeline, rows=[{"image": RED[:60]}], teachers={"m": look}, out="runs/r")
    assert len(seen) == 2
