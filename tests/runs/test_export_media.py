"""Exports with pictures and sounds: loaded back by `datasets`, once a picture, in every form."""

import hashlib
import json
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.runs.export import export
from distillgen.runs.export_rows import ExportOptions
from distillgen.runs.hub import data_files
from tests.media_files import png, wav


def carry_out(project, rows, **options):
    """A run whose rows name pictures and sounds in the folder `files`."""
    project.rows("data/rows.jsonl", rows)
    for name in "abcd":
        for ending, content in (("png", png(name)), ("wav", wav(name))):
            file = project.path / f"data/files/{name}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    source = {"path": "data/rows.jsonl", **options}
    return distillgen.run({"version": 1, "stages": [{"source": source}]}, out="runs/r")


ROWS = [
    {"q": "one", "picture": "files/a.png", "split": "train"},
    {"q": "two", "picture": "files/a.png", "split": "train"},
    {"q": "three", "picture": "files/b.png", "split": "test"},
    {"q": "none", "picture": None, "split": "train"},
]


def load(project, builder, folder, monkeypatch, **options):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    options |= {"data_dir": folder} if builder.endswith("folder") else {}
    name = builder if builder.endswith("folder") else folder
    return datasets.load_dataset(name, cache_dir=str(project.path / "cache"), **options)


def undecoded(rows, name):
    datasets = pytest.importorskip("datasets")
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            rows = rows.cast_column(column, type(feature)(decode=False))
    return [row[name] and (row[name]["bytes"] or Path(row[name]["path"]).read_bytes()) for row in rows]


def test_a_folder_of_pictures_is_loaded_back(project, monkeypatch):
    run = carry_out(project, ROWS, images=["picture"])
    made = export(run, project.path / "out", ExportOptions())
    assert made.rows == {"train": 3, "test": 1}
    files = sorted(
        path.relative_to(project.path / "out").as_posix() for path in (project.path / "out").rglob("*.*")
    )
    a, b = (hashlib.sha256(png(name)).hexdigest() for name in "ab")
    assert files == [
        "README.md",
        f"test/images/{b}.png",
        "test/metadata.jsonl",
        f"train/images/{a}.png",
        "train/metadata.jsonl",
    ]
    first = json.loads((project.path / "out/train/metadata.jsonl").read_text().splitlines()[0])
    assert first["picture_file_name"] == f"images/{a}.png" and "picture" not in first
    card = (project.path / "out/README.md").read_text()
    assert (
        'load_dataset("imagefolder", data_dir="out")' in card and "Pictures and sounds: 2 image/png" in card
    )
    assert str(project.path) not in "".join(path.read_text() for path in (project.path / "out").rglob("*.*l"))
    loaded = load(project, "imagefolder", "out", monkeypatch)
    assert loaded["train"]["q"][:] == ["one", "two", "none"] and loaded["test"]["q"][:] == ["three"]
    assert undecoded(loaded["train"], "picture") == [png("a"), png("a"), None]
    assert undecoded(loaded["test"], "picture") == [png("b")]
    # what was exported is a source, with the pictures and splits of before
    source = {"version": 1, "stages": [{"source": {"path": "out"}}]}
    again = [record.fields for record in distillgen.run(source, out="runs/again").kept]
    assert {(f["q"], f["split"], f["picture"] and f["picture"]["sha256"]) for f in again} == {
        ("one", "train", a),
        ("two", "train", a),
        ("three", "test", b),
        ("none", "train", None),
    }


def test_a_folder_of_sounds_is_read_by_audiofolder(project):
    rows = [{"audio": f"files/{name}.wav", "n": i} for i, name in enumerate("abca")]
    run = carry_out(project, rows, audio=["audio"])
    export(run, project.path / "out", ExportOptions())
    written = project.read("out/metadata.jsonl")
    assert (
        written[0]["file_name"] == written[3]["file_name"]
        and len([*(project.path / "out/audio").iterdir()]) == 3
    )
    datasets = pytest.importorskip("datasets")
    builder = datasets.load_dataset_builder(
        "audiofolder", data_dir="out", cache_dir=str(project.path / "cache")
    )
    (split,) = builder._split_generators(
        datasets.DownloadManager()
    )  # loading rows of sounds needs torchcodec
    loaded = [row for _, row in builder._generate_examples(**split.gen_kwargs)]
    assert isinstance(builder.info.features["audio"], datasets.Audio)
    assert [Path(row["audio"]).read_bytes() for row in loaded] == [wav(name) for name in "abca"]


def test_lists_of_pictures(project, monkeypatch):
    run = carry_out(
        project, [{"images": ["files/a.png", "files/b.png"]}, {"images": ["files/b.png"]}], images=["images"]
    )
    export(run, project.path / "out", ExportOptions())
    assert [len(row["file_names"]) for row in project.read("out/metadata.jsonl")] == [2, 1]
    loaded = load(project, "imagefolder", "out", monkeypatch, split="train")
    assert [len(row) for row in loaded.cast_column("images", loaded.features["images"])["images"][:]] == [
        2,
        1,
    ]


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_typed_columns_hold_the_bytes(project, monkeypatch, format):
    datasets = pytest.importorskip("datasets")
    rows = [
        {"q": r["q"], "picture": r["picture"], "clip": "files/a.wav", "pair": ["files/a.png"]} for r in ROWS
    ]
    run = carry_out(project, rows, images=["picture", "pair"], audio=["clip"])
    monkeypatch.setattr("distillgen.runs.export.FEW", 2)
    export(
        run, project.path / "out", ExportOptions(format=format, shard_rows=3 if format == "parquet" else None)
    )
    if format == "arrow":
        loaded = datasets.load_from_disk("out")
    else:
        loaded = load(project, "parquet", "out", monkeypatch, split="train")
    kinds = [loaded.features[name] for name in ("picture", "clip")]
    assert isinstance(kinds[0], datasets.Image) and isinstance(kinds[1], datasets.Audio)
    assert isinstance(loaded.features["pair"].feature, datasets.Image)
    assert undecoded(loaded, "picture") == [png("a"), png("a"), png("b"), None]
    assert undecoded(loaded, "clip") == [wav("a")] * 4


def test_row_groups_of_parquet_end_where_they_hold_many_bytes(project, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    run = carry_out(project, [{"picture": f"files/{name}.png"} for name in "abcd"], images=["picture"])
    monkeypatch.setattr("distillgen.runs.export.FEW", 1)
    monkeypatch.setattr("distillgen.rows.formats.MOST_PENDING", 2 * len(png("a")) - 9)
    export(run, project.path / "out.parquet", ExportOptions(format="parquet"))
    assert parquet.ParquetFile("out.parquet").num_row_groups == 2


def test_a_row_whose_picture_is_gone_or_changed_is_left_out(project):
    run = carry_out(project, ROWS, images=["picture"])
    (project.path / "data/files/a.png").write_bytes(png("other"))
    made = export(run, project.path / "out", ExportOptions())
    assert made.rows == {"train": 1, "test": 1}
    assert made.left_out == {"'picture': 'data/files/a.png' has changed since the row was made": 2}
    made = (
        export(run, project.path / "one.csv", ExportOptions(format="csv", keep=["picture"]))
        if False
        else None
    )
    (project.path / "data/files/b.png").unlink()
    with pytest.raises(
        ConfigError, match="no rows for the split 'test'; 2 rows: 'picture': 'data/files/a.png' has changed"
    ):
        export(run, project.path / "again", ExportOptions())


def test_forms_that_hold_no_files(project):
    rows = [{"picture": "files/a.png", "clip": "files/a.wav", "q": "x", "a": "y"}]
    run = carry_out(project, rows, images=["picture"], audio=["clip"])
    with pytest.raises(ConfigError, match="pictures and sounds, and a folder .* --format parquet"):
        export(run, project.path / "out", ExportOptions())
    with pytest.raises(ConfigError, match="--shard-rows has no form for a folder of pictures"):
        export(run, project.path / "out", ExportOptions(keep=["picture"], shard_rows=1))
    with pytest.raises(ConfigError, match="--for has no form"):
        options = ExportOptions(shape="alpaca", parts={"instruction": "q", "output": "a"}, keep=["picture"])
        export(run, project.path / "out", ExportOptions(**{**vars(options), "trainers": ["axolotl"]}))
    assert not (project.path / "out").exists()
    export(run, project.path / "one.jsonl", ExportOptions())
    assert project.read("one.jsonl")[0]["picture"]["path"] == "data/files/a.png"
    with pytest.raises(ConfigError, match="--keep.*: distillgen export .*r -o FOLDER .* distillgen push"):
        data_files(run)


def test_a_run_with_pictures_is_exported_before_it_is_pushed(project):
    rows = [{"q": "none", "picture": None}, {"q": "one", "picture": "files/a.png"}]
    run = carry_out(project, rows, images=["picture"])
    (a, b) = (f"images/{hashlib.sha256(png(name)).hexdigest()}.png" for name in "ab")

    def names():
        return sorted(file.name for file in data_files(run))

    others = ["metadata.jsonl", "pipeline.lock.yaml", "usage.json"]
    assert names() == ["README.md", a, *others]
    files = {file.name: file.content for file in data_files(run)}
    assert files[a].read_bytes() == png("a") and b'data_dir="r"' in files["README.md"].read_bytes()
    lines = files["metadata.jsonl"].read_text().splitlines()
    assert [json.loads(line)["q"] for line in lines] == ["none", "one"]
    written = files["metadata.jsonl"].stat().st_mtime_ns
    names()
    assert files["metadata.jsonl"].stat().st_mtime_ns == written  # once, while the corpus stays as it is
    carry_out(project, [*rows, {"q": "two", "picture": "files/b.png"}], images=["picture"])
    assert names() == sorted(["README.md", a, b, *others])
    carry_out(project, [{"q": "one"}])
    assert names() == ["README.md", "corpus.jsonl", *others[1:]]


def test_a_folder_with_pictures_is_pushed_in_parts(project, monkeypatch):
    from distillgen.runs import hub

    run = carry_out(project, ROWS, images=["picture"])
    export(run, project.path / "out", ExportOptions())
    commits = []

    class Repository:
        address, private = "x", True

        def commit(self, files):
            commits.append([file.name.rpartition("/")[2][-5:] for file in files])

        def entries(self):
            return []

    monkeypatch.setattr(hub, "open_repository", lambda *_, **__: Repository())
    monkeypatch.setattr(hub, "COMMITTED", 1)
    hub.push(data_files("out"), "me/set", "dataset", public=False)
    assert [len(names) for names in commits] == [1, 1, 3] and "jsonl" in commits[-1]


def test_messages_show_pictures_as_trl_reads_them(project, monkeypatch):
    rows = [
        {"question": f"q{i}", "answer": "a", "picture": ["files/a.png", "files/b.png"][: i + 1]}
        for i in range(2)
    ]
    run = carry_out(project, rows, images=["picture"])
    shape = {"shape": "messages", "parts": {"images": "picture"}}
    export(run, project.path / "out", ExportOptions(**shape))
    image, text = {"type": "image", "text": None}, {"type": "text", "text": "q1"}
    assert project.read("out/metadata.jsonl")[1]["messages"] == [
        {"role": "user", "content": [image, image, text]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ]
    with pytest.raises(ConfigError, match="'images' needs the field 'pictur'.*'picture'"):
        export(run, project.path / "no", ExportOptions(shape="messages", parts={"images": "pictur"}))
    with pytest.raises(ConfigError, match="no rows .* 2 rows: 'answer' holds no picture"):
        export(run, project.path / "no", ExportOptions(shape="messages", parts={"images": "answer"}))
    pytest.importorskip("PIL")
    loaded = load(project, "imagefolder", "out", monkeypatch, split="train")
    prepare = pytest.importorskip("trl.data_utils").prepare_multimodal_messages
    for row, count in zip(loaded, (1, 2), strict=True):
        turns = prepare(row["messages"], images=row["images"])
        shown = [part["image"] for part in turns[0]["content"] if part["type"] == "image"]
        assert [picture.size for picture in shown] == [(3, 2)] * count
