"""Pictures and sounds that rows name or hold: references, reasons for files that cannot be used, and ids."""

import os
import struct
import wave

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.project import Project
from distillgen.record import Record, digest, item_of
from distillgen.rows import media
from distillgen.rows.media import fault, media_type
from distillgen.stages.source import Source
from tests.media_files import FLAC, GIF, JPEG, LOSSLESS, MP3, TITLED_MP3, WEBP, png, png_of, wav

FILES = {
    "image/png": png(),
    "image/jpeg": JPEG,
    "image/gif": GIF,
    "image/webp": WEBP,
    "audio/wav": wav(),
    "audio/mpeg": MP3,
    "audio/flac": FLAC,
}


def read(project, **options):
    return [*Source(name="source", **options).records(Project(project.path))]


def put(project, name, content):
    file = project.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def reasons(project, values, **options):
    """The reason why each value of a field gives no picture; None where it gives one."""
    project.rows("data/rows.jsonl", [{"picture": value} for value in values])
    options = {"images": ["picture"]} | options
    return [r.dropped and r.dropped.reason for r in read(project, path="data/rows.jsonl", **options)]


@pytest.mark.parametrize("kind", FILES)
def test_the_first_bytes_say_what_a_file_is(project, kind):
    content = FILES[kind]
    assert media_type(content) == kind and fault(kind, content) == ""
    put(project, "data/file", content)
    field = kind.partition("/")[0]
    project.rows("data/rows.jsonl", [{"it": "file"}])
    option = {"image": "images", "audio": "audio"}[field]
    (record,) = read(project, path="data/rows.jsonl", **{option: ["it"]})
    assert not record.dropped and record.fields["it"]["path"] == "data/file"
    other = {"images": "audio", "audio": "images"}[option]
    (record,) = read(project, path="data/rows.jsonl", **{other: ["it"]})
    assert record.dropped.reason == f"'file' is no {'sound' if other == 'audio' else 'picture'}"


def test_other_files_are_of_no_kind():
    for head in (b"", b"RIFF1234AVI ", b"%PDF-1.7", b"\xff\xfe{\0", b"BM", b"\xff\xf1\x50\x80", b"GIF88a"):
        assert media_type(head) == ""
    assert media_type(TITLED_MP3) == "audio/mpeg" and fault("image/webp", LOSSLESS) == ""


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/gif", "image/webp", "audio/wav"])
def test_a_torn_file_is_seen(kind):
    content = FILES[kind]
    for end in {len(content) // 2, len(content) * 3 // 4, len(content) - 2}:
        assert fault(kind, content[:end]), end
    zeros = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    if kind in ("image/png", "image/jpeg", "image/gif"):
        assert fault(kind, zeros), "half of it was never written"


def test_sizes_are_read_from_the_head():
    assert media._png(png("a", 7, 5)) == (7, 5)
    assert media._jpeg(JPEG) == media._gif(GIF) == media._webp(WEBP) == media._webp(LOSSLESS) == (3, 2)
    extended = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    assert media._webp(extended + b"\x06\0\0\x04\0\0") == (7, 5)
    damaged = bytearray(png())
    damaged[45] ^= 1
    assert fault("image/png", bytes(damaged)) == "is damaged: a check sum is wrong"


def test_a_bomb_is_refused_before_it_is_unpacked(project):
    bomb = png_of(40_000, 40_000, bytes(1000))
    put(project, "data/bomb.png", bomb)
    assert len(bomb) < 200
    assert reasons(project, ["bomb.png"]) == [
        "'bomb.png' has 40,000 by 40,000 pixels, and at most 100,000,000 are taken"
    ]
    put(project, "data/most.png", png_of(10_000, 10_000, b""))
    put(project, "data/none.png", png_of(0, 10, b""))
    assert reasons(project, ["most.png", "none.png"]) == [None, "'none.png' is a picture without pixels"]


def test_each_hostile_file_is_a_dropped_row_with_its_reason(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(png("secret"))
    good = put(project, "data/good.png", png())
    (project.path / "data/link.png").symlink_to(outside)
    (project.path / "data/inner.png").symlink_to(good)
    (project.path / "data/circle.png").symlink_to(project.path / "data/circle.png")
    (project.path / "data/folder.png").mkdir()
    os.mkfifo(project.path / "data/pipe.png")
    put(project, "data/torn.png", png()[:-5])
    put(project, "data/jpeg.png", JPEG)
    put(project, "data/text.png", b"no picture")
    with put(project, "data/huge.png", png()).open("r+b") as huge:
        huge.truncate(media.MOST_BYTES + (1 << 20))
    expected = {
        "good.png": None,
        "inner.png": None,
        "data/good.png": None,
        "gone.png": "there is no file 'gone.png'",
        "link.png": "'link.png' lies outside the project; copy it there",
        "circle.png": "there is no file 'circle.png'",
        "folder.png": "'folder.png' is a folder",
        "pipe.png": "'pipe.png' is a device",
        "torn.png": "'torn.png' is cut off",
        "jpeg.png": "'jpeg.png' is JPEG, in spite of its ending",
        "text.png": "'text.png' is none of PNG, JPEG, GIF, WebP, WAV, MP3, FLAC",
        "huge.png": "'huge.png' has 101 MB, and at most 100 are read",
        "": "a name of a file is empty",
        "a\0b": "a name of a file has a zero byte",
        "x" * 5000: f"there is no file '{'x' * 100}…'",
    }
    assert dict(zip(expected, reasons(project, list(expected)), strict=True)) == expected
    seen = "name the file as seen from the rows or the project"
    for path in (str(outside), "/dev/zero", "C:\\a.png", "\\\\host\\a.png"):
        assert reasons(project, [path]) == [f"'{path}' is an absolute path: {seen}"]
    for path in ("../data/good.png", "x/../../good.png", "..\\good.png"):
        assert reasons(project, [path]) == [f"'{path}' leads upwards: {seen}"]
    for path in (
        "https://a.org/b.png",
        "file:///etc/passwd",
        "data:image/png;base64,iVBO",
        "hf://datasets/x",
    ):
        assert reasons(project, [path]) == [
            f"'{path}' is an address: download the file first, and name it by its path"
        ]
    assert reasons(project, [5]) == ["a picture is named by its path, and this is int: 5"]


def test_an_unreadable_file_is_a_dropped_row(project, monkeypatch):
    put(project, "data/a.png", png())
    monkeypatch.setattr(
        "pathlib.Path.read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "No"))
    )
    media._examined.cache_clear()
    assert reasons(project, ["a.png"]) == ["'a.png' cannot be read: no"]
    media._examined.cache_clear()


def test_lists_nulls_and_references_of_an_earlier_run(project):
    put(project, "data/a.png", png("a"))
    put(project, "data/b.png", png("b"))
    project.rows("data/rows.jsonl", [{"picture": ["a.png", "data/b.png"]}, {"picture": None}, {"other": 1}])
    first, second, third = read(project, path="data/rows.jsonl", images=["picture"])
    pair = first.fields["picture"]
    assert [one["path"] for one in pair] == ["data/a.png", "data/b.png"] and second.fields["picture"] is None
    assert dict(third.fields) == {"other": 1}
    assert reasons(project, [pair, pair[0], {**pair[0], "path": "data/b.png"}, ["a.png", "c.png"]]) == [
        None,
        None,
        "'data/b.png' has changed since the row was made",
        "there is no file 'c.png'",
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_kind_of_rows_can_name_files(project, ending):
    put(project, "data/in/a.png", png())
    put(project, "data/in/a.wav", wav())
    put(project, "sounds/b.wav", wav("b"))
    rows = [
        {"q": "x", "file": "in/a.png", "clip": "in/a.wav"},
        {"q": "y", "file": "in/a.png", "clip": "sounds/b.wav"},
    ]
    if ending == "parquet":
        pa = pytest.importorskip("pyarrow")
        __import__("pyarrow.parquet").parquet.write_table(pa.Table.from_pylist(rows), "data/rows.parquet")
    elif ending == "csv":
        project.write("data/rows.csv", "q,file,clip\n" + "".join(f"{','.join(r.values())}\n" for r in rows))
    else:
        project.rows("data/rows.jsonl", rows)
    names = {"q": "q", "picture": "file", "sound": "clip"}
    source = Source(
        name="source", path=f"data/rows.{ending}", fields=names, images=["picture"], audio=["sound"]
    )
    first, second = source.records(Project(project.path))
    assert (
        first.fields["picture"]["path"] == "data/in/a.png"
        and second.fields["sound"]["path"] == "sounds/b.wav"
    )
    assert source.count(Project(project.path)) == 2
    # rows in files of a folder name files as seen from their own file
    (project.path / "data/other").mkdir()
    (project.path / f"data/rows.{ending}").rename(project.path / f"data/in/rows.{ending}")
    assert [r.dropped.reason for r in read(project, path="data", format=ending, images=["file"])] == [
        "there is no file 'in/a.png'"
    ] * 2


def test_rows_are_counted_without_reading_their_files(project, monkeypatch):
    put(project, "data/a.png", png())
    project.write("data/rows.csv", "picture\na.png\n")
    monkeypatch.setattr(media, "examined", None)
    assert Source(name="source", path="data/rows.csv", images=["picture"]).count(Project(project.path)) == 1


def test_names_that_no_row_has_and_options_that_do_not_fit(project):
    put(project, "data/a.png", png())
    project.rows("data/rows.jsonl", [{"picture": "a.png"}])

    def check(**options):
        Source(name="source", **options).bind(CheckContext(frozenset(), {}, Project(project.path)))

    check(path="data/rows.jsonl", images=["picture"])
    with pytest.raises(ConfigError, match="'images' names the field 'pictur', which no row has.*'picture'"):
        check(path="data/rows.jsonl", images=["pictur"])
    with pytest.raises(ConfigError, match="'audio' names the field 'clip'"):
        check(path="data/rows.jsonl", images=["picture"], audio=["clip"])
    with pytest.raises(ValueError, match="'a' is in 'images' and in 'audio'"):
        Source(name="source", path="data/rows.jsonl", images=["a"], audio=["a"])
    with pytest.raises(ValueError, match="'images' is for rows that are read"):
        Source(name="source", draw={"n": 1, "fields": {"a": {"from": 1, "to": 2}}}, images=["a"])


def test_bytes_become_files_that_are_written_once(project):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    rows = [
        {
            "image": {"bytes": png("a"), "path": "a.png"},
            "clip": wav("a"),
            "pages": [{"bytes": JPEG, "path": None}],
        },
        {"image": {"bytes": png("a"), "path": None}, "clip": None, "pages": []},
        {"image": {"bytes": png()[:-9], "path": None}, "clip": None, "pages": []},
        {"image": {"bytes": None, "path": "/etc/passwd"}, "clip": None, "pages": []},
        {"image": {"bytes": None, "path": "https://a.org/b.png"}, "clip": None, "pages": []},
        {"image": {"bytes": None, "path": "own.png"}, "clip": None, "pages": []},
        {"image": None, "clip": None, "pages": None},
    ]
    put(project, "own.png", png("own"))
    write_table(pa.Table.from_pylist(rows), "rows.parquet")
    first, again, torn, foreign, address, own, none = read(project, path="rows.parquet")
    place = first.fields["image"]
    assert place == again.fields["image"] and place["path"] == f"runs/media/{place['sha256']}.png"
    assert (project.path / place["path"]).read_bytes() == png("a")
    assert first.fields["clip"]["path"].endswith(".wav") and first.fields["pages"][0]["path"].endswith(".jpg")
    assert torn.dropped.reason == "'image': the picture is cut off"
    assert foreign.dropped.reason == "'image': 'passwd' lies outside the project; copy it there"
    assert address.dropped.reason.startswith("'image': 'https://a.org/b.png' is an address: download")
    assert own.fields["image"]["path"] == "own.png"
    assert dict(none.fields) == {"image": None, "clip": None, "pages": None}
    files = {file: file.stat().st_mtime_ns for file in (project.path / "runs/media").iterdir()}
    assert len(files) == 3, "no picture twice, and no file of a torn one"
    read(project, path="rows.parquet")
    assert {file: file.stat().st_mtime_ns for file in (project.path / "runs/media").iterdir()} == files
    broken = project.path / place["path"]
    broken.write_bytes(bytes(broken.stat().st_size))
    read(project, path="rows.parquet")
    assert broken.read_bytes() == png("a"), "a file that a power loss left full of zeros is written again"


def test_a_script_yields_pictures_as_bytes(project):
    project.write(
        "pictures.py",
        "from tests.media_files import png\n\n\ndef rows(n=2):\n    for i in range(n):\n"
        "        yield {'picture': png(str(i)), 'n': i}\n",
    )
    first, second = read(project, script="pictures.py:rows", images=["picture"])
    assert (project.path / second.fields["picture"]["path"]).read_bytes() == png("1")
    (first, second) = read(project, script="pictures.py:rows")
    assert first.fields["picture"]["path"].startswith("runs/media/")


def test_columns_of_a_data_set_stay_undecoded(project):
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "clip": datasets.Audio()}
    features = datasets.Features({"q": datasets.Value("string"), **kinds})
    columns = {
        "q": ["a", "b"],
        "image": [{"bytes": png("a"), "path": None}, None],
        "clip": [{"bytes": wav(), "path": None}] * 2,
    }
    table = __import__("pyarrow").table(columns, schema=features.arrow_schema)
    rows = datasets.Dataset(table)
    assert isinstance(rows.features["clip"], datasets.Audio)
    (project.path / "set").mkdir()
    rows.to_parquet(project.path / "set/train.parquet")
    first, second = read(project, dataset="set")
    assert (project.path / first.fields["image"]["path"]).read_bytes() == png("a")
    assert first.fields["clip"]["path"].endswith(".wav") and second.fields["image"] is None
    assert [dict(r.fields) for r in read(project, path="set/train.parquet")] == [first.fields, second.fields]


def test_folders_of_sounds_and_described_columns(project):
    put(project, "clips/yes/1.wav", wav("1"))
    put(project, "clips/no/2.mp3", MP3)
    put(project, "clips/no/3.flac", b"fLaC")
    records = read(project, path="clips")
    assert [(r.fields.get("file"), r.fields.get("label")) for r in records] == [
        ("no/2.mp3", "no"),
        (None, None),
        ("yes/1.wav", "yes"),
    ]
    assert (
        records[2].fields["audio"]["path"] == "clips/yes/1.wav"
        and records[1].dropped.reason == "'3.flac' is cut off"
    )
    for part in ("train", "test"):
        put(project, f"set/{part}/images/a.png", png("a"))
        put(project, f"set/{part}/images/b.png", png("b"))
        rows = [
            {"chart_file_name": "images/a.png", "file_names": ["images/a.png", "images/b.png"], "q": part},
            {"chart_file_name": None, "file_names": ["images/../../x.png"], "q": part},
        ]
        project.rows(f"set/{part}/metadata.jsonl", rows)
    train, bad, test, _ = read(project, path="set")
    assert train.fields["chart"]["path"] == "set/train/images/a.png" and len(train.fields["images"]) == 2
    assert (train.fields["split"], test.fields["split"]) == ("train", "test")
    assert bad.dropped.reason.startswith("'file_names': 'images/../../x.png' leads upwards")


def test_ids_and_items_hang_on_the_content_and_not_on_the_place(project):
    put(project, "data/a.png", png("a"))
    project.rows("data/rows.jsonl", [{"picture": ["a.png"], "q": "what"}])
    (before,) = read(project, path="data/rows.jsonl", images=["picture"])
    (project.path / "data").rename(project.path / "moved")
    (after,) = read(project, path="moved/rows.jsonl", images=["picture"])
    assert before.fields != after.fields and (before.id, before.item) == (after.id, after.item)
    made = {"stage": "s"}
    assert before.derive({"b": 1}, made, 0).id == after.derive({"b": 1}, made, 0).id
    put(project, "moved/a.png", png("b"))
    (changed,) = read(project, path="moved/rows.jsonl", images=["picture"])
    assert changed.id != after.id and changed.item != after.item
    row = {"path": "x.npz", "sha256": "0", "index": 1, "column": "a"}
    assert digest(row) != digest({**row, "index": 2}) != digest({**row, "index": 2, "column": "b"})
    assert digest(row) == digest({**row, "path": "y.npz"})


def test_ids_of_rows_without_references_are_those_of_earlier_versions():
    fields = {"question": "What?", "answer": "That.", "n": [1, 2.5, None], "more": {"path": "a", "x": "é"}}
    assert Record.read(fields, "rows.jsonl:1").id == "9d7853c92996816f7fb6"
    assert item_of(fields) == "aea0c1df46475e9d3b2b"
    assert digest({"path": "a.py", "sha256": "0", "content": 1}) == "e7f450bdee80770d7ea4"
    assert digest([{"text": '"path": "sha256":', "path": 1}, ("sha256", "path")]) == "268f14177dcce13aa1dd"


def test_a_changed_picture_is_seen_by_the_next_run_in_the_folder(project):
    for name in "abc":
        put(project, f"data/{name}.png", png(name))
    project.rows("data/rows.jsonl", [{"picture": f"{name}.png", "name": name} for name in "abc"])
    pipeline = {"version": 1, "stages": [{"source": {"path": "data/rows.jsonl", "images": ["picture"]}}]}
    first = [record.id for record in distillgen.run(pipeline, out="r").kept]
    put(project, "data/b.png", png("other"))
    second = [record.id for record in distillgen.run(pipeline, out="r").kept]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]


def test_the_option_is_no_part_of_the_fingerprint_where_it_is_not_set():
    assert not {"images", "audio"} & Source(name="source", path="a.jsonl").model_dump().keys()
    assert Source(name="source", path="a", images=["x"]).model_dump()["images"] == ["x"]


def test_a_sound_of_unknown_length_is_whole():
    with wave.open(__import__("io").BytesIO(wav())) as sound:
        assert sound.getnframes() == 80
    streamed = bytearray(wav())
    streamed[4:8] = b"\xff" * 4
    assert fault("audio/wav", bytes(streamed)) == ""


def test_a_moved_folder_asks_nothing_and_a_changed_picture_asks_its_row(project):
    for name in "abc":
        put(project, f"data/{name}.png", png(name))
    project.rows("data/rows.jsonl", [{"picture": f"{name}.png", "q": name} for name in "abc"])
    asked = []

    def teacher(request, sample):
        asked.append(request.messages[-1]["content"][-1]["text"])
        return "a shape"

    def run(path):
        asked.clear()
        generate = {"model": "teacher", "template": "{{ q }}", "output": "answer", "images": ["picture"]}
        pipeline = {
            "version": 1,
            "models": {"teacher": {"provider": "scripted", "model": "echo"}},
            "stages": [{"source": {"path": path, "images": ["picture"]}}, {"generate": generate}],
        }
        kept = distillgen.run(pipeline, out="runs/r", teachers={"teacher": teacher}).kept
        return [record.id for record in kept], sorted(asked)

    first, texts = run("data/rows.jsonl")
    assert len(first) == 3 and texts == ["a", "b", "c"]
    (project.path / "data").rename(project.path / "moved")
    assert run("moved/rows.jsonl") == (first, [])
    put(project, "moved/b.png", png("another"))
    changed, texts = run("moved/rows.jsonl")
    assert texts == ["b"] and [a == b for a, b in zip(first, changed, strict=True)] == [True, False, True]
