"""Arrays and pictures as rows: short ones as lists, large ones by reference, and what a reference gives."""

import json

import pytest

from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.rows.arrays import array_of, numbers_in, reference
from distillgen.stages.source import Source
from tests.media_files import png

np = pytest.importorskip("numpy")


def read(project, **options):
    records = [*Source(name="source", **options).records(Project(project.path))]
    return records


def test_small_entries_are_lists_and_large_ones_references(project):
    small = np.arange(3 * 1000, dtype="float32").reshape(3, 10, 100) / 8
    np.save(project.path / "small.npy", small)
    assert [r.fields["array"] for r in read(project, path="small.npy")] == small.tolist()
    large = np.arange(3 * 1001).reshape(3, 1001)
    np.save(project.path / "large.npy", large)
    rows = [r.fields["array"] for r in read(project, path="large.npy")]
    assert [row["index"] for row in rows] == [0, 1, 2] and {row["path"] for row in rows} == {"large.npy"}
    assert len(json.dumps(rows[0])) < 130
    assert all((array_of(row, project.path) == values).all() for row, values in zip(rows, large, strict=True))
    assert array_of([1, [2, 3]], project.path) == [1, [2, 3]]


def test_columns_of_an_npz_are_fields_by_name(project):
    images, labels = np.arange(4 * 2000.0).reshape(4, 2000), np.array(["a", "b", "a", "b"])
    np.savez(project.path / "set.npz", image=images, label=labels)
    records = read(project, path="set.npz", fields={"picture": "image", "class": "label"})
    assert [r.fields["class"] for r in records] == ["a", "b", "a", "b"] and records[2].source == "set.npz:3"
    assert (array_of(records[2].fields["picture"], project.path) == images[2]).all()
    assert [dict(r.fields) for r in read(project, path="set.npz", fields={"y": "label"})][0] == {"y": "a"}
    np.savez(project.path / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(ConfigError, match="'a' has 3, 'b' has 4"):
        read(project, path="uneven.npz")


def test_rows_that_json_cannot_hold_and_files_that_are_none(project):
    np.save(project.path / "nan.npy", np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]]))
    assert [r.dropped and r.dropped.reason for r in read(project, path="nan.npy")] == [
        None,
        *["'array' holds NaN or infinity"] * 2,
    ]
    np.save(project.path / "objects.npy", np.array([{}, "x"], dtype=object))
    (project.path / "torn.npy").write_bytes((project.path / "nan.npy").read_bytes()[:150])
    project.write("text.npy", "no array")
    for name in ("objects", "torn", "text"):
        with pytest.raises(ConfigError, match=f"{name}.npy' cannot be read"):
            read(project, path=f"{name}.npy")
    np.save(project.path / "one.npy", np.array(5))
    with pytest.raises(ConfigError, match="'array' has 0"):
        read(project, path="one.npy")


def test_a_changed_missing_torn_or_foreign_file_is_refused(project):
    file = project.path / "large.npy"
    np.save(file, np.zeros((2, 2000)))
    value = read(project, path="large.npy")[0].fields["array"]
    np.save(file, np.ones((2, 2000)))
    with pytest.raises(ValueError, match="has changed"):
        array_of(value, project.path)
    file.unlink()
    with pytest.raises(ValueError, match="there is no file"):
        array_of(value, project.path)
    with pytest.raises(ValueError, match="outside the project"):
        array_of({**value, "path": "../large.npy"}, project.path / "inner")
    (project.path / "outside").mkdir()
    np.save(project.path / "outside/large.npy", np.zeros((2, 2000)))
    trusted = Project(project.path / "data", frozenset({str(project.path / "outside/large.npy")}))
    source = Source(name="source", path=str(project.path / "outside/large.npy"))
    with pytest.raises(ConfigError, match="rows refer to files of their project"):
        [*source.records(trusted)]


def pictures(project, *names):
    for name in names:
        file = project.path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(name.rpartition("/")[2]))


def test_folders_of_pictures_are_labels_and_parts(project):
    pictures(project, "cat/1.png", "dog/2.png", "dog/copy-of-1/1.png")
    (project.path / "images/dog/3.jpg").write_text("no picture")
    records = read(project, path="images")
    assert [(r.fields.get("file"), r.fields.get("label")) for r in records if not r.dropped] == [
        ("cat/1.png", "cat"),
        ("dog/2.png", "dog"),
        ("dog/copy-of-1/1.png", "dog/copy-of-1"),
    ]
    assert (
        records[0].fields["image"]["path"] == "images/cat/1.png" and records[0].source == "images/cat/1.png"
    )
    assert records[0].item == records[-1].item != records[1].item, "one picture is one item"
    (bad,) = [r.dropped.reason for r in records if r.dropped]
    assert bad == "'3.jpg' is none of PNG, JPEG, GIF, WebP, WAV, MP3, FLAC"
    (project.path / "images").rename(project.path / "train")
    (project.path / "images").mkdir()
    (project.path / "train").rename(project.path / "images/train")
    pictures(project, "test/cat/9.png")
    records = read(project, path="images")
    assert [r.fields["split"] for r in records if not r.dropped] == ["test", "train", "train", "train"]
    assert records[0].fields["label"] == "cat" and records[0].part == "test"


def test_a_link_out_of_the_folder_is_not_followed(project):
    pictures(project, "1.png")
    (project.path / "secret.png").write_bytes(png("secret"))
    (project.path / "images/2.png").symlink_to(project.path / "secret.png")
    first, linked = read(project, path="images")
    assert not first.dropped and linked.dropped.reason.startswith("the link leads out of the folder")


def test_metadata_describes_the_pictures(project):
    pictures(project, "1.png", "2.png")
    rows = [{"file_name": "1.png", "text": "a"}, {"file_name": "9.png", "text": "b"}, {"text": "c"}]
    project.rows("images/metadata.jsonl", rows)
    first, missing, nameless = read(project, path="images")
    assert first.fields["text"] == "a" and first.fields["image"]["path"] == "images/1.png"
    assert missing.dropped.reason == "there is no picture or sound '9.png' in the folder"
    assert nameless.dropped.reason == "there is no 'file_name' in the row"
    project.write("images/about.md", "# About\nPictures.")
    assert [r.fields["title"] for r in read(project, path="images", format="text")] == ["About"]


def test_a_picture_is_numbers_from_0_to_1(project):
    image = pytest.importorskip("PIL.Image")
    colours = np.array([[[0, 128, 255], [255, 0, 0]]], dtype="uint8")
    (project.path / "images").mkdir()
    image.fromarray(colours).save(project.path / "images/colours.png")
    image.fromarray(np.array([[0, 51]], dtype="uint8")).save(project.path / "images/grey.png")
    image.fromarray(np.full((9, 9), 255, "uint8")).save(project.path / "images/white.jpg")
    image.fromarray(np.array([[0, 65535]], dtype="uint16")).save(project.path / "images/deep.png")
    colour, deep, grey, white = (r.fields["image"] for r in read(project, path="images"))
    assert array_of(colour, project.path) == pytest.approx(colours / 255)
    assert array_of(grey, project.path).tolist() == [[0, 0.2]]
    assert array_of(deep, project.path).tolist() == [[0, 1]]
    assert array_of(white, project.path).shape == (9, 9) and array_of(white, project.path).min() > 0.99
    torn = project.path / "images/torn.png"
    torn.write_bytes((project.path / "images/colours.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"'images/torn.png' cannot be read: \w+Error"):
        array_of(reference(torn, project.path), project.path)


def test_a_picture_without_the_package_names_the_extra(project, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    pictures(project, "1.png")
    (record,) = read(project, path="images")
    with pytest.raises(ConfigError, match=r"pip install 'distillgen\[pictures\]'"):
        array_of(record.fields["image"], project.path)


def test_equal_numbers_have_equal_hashes():
    def hashes(value):
        return [*numbers_in(value)]

    assert hashes([1, 2]) == hashes([[1.0], [2.0]]) != hashes([1, 2.5]) and hashes([1, 2])[0][0] == 2
    assert hashes({"a": [[1, 2], ["x", [3]]]}) == [*hashes([1, 2]), *hashes([3])]
    assert hashes("text") == hashes(["a", True]) == []
    assert hashes({"path": "a.py", "sha256": "0", "content": [4, 5]}) == hashes([4, 5])
    first, second = ({"path": "a", "sha256": "0", "index": i} for i in range(2))
    assert hashes(first) == hashes({**first, "path": "b"}) != hashes(second)
