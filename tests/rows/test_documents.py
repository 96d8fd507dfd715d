"""Documents: tables, headings and pages of each kind; hostile files; no document is converted twice."""

import gzip
import logging
import sys
import time
from base64 import b64encode
from hashlib import sha256

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.project import Project
from distillgen.rows import documents
from distillgen.rows.pictures import pictures_in, placed
from distillgen.stages.source import Source
from tests.rows.files_of_documents import PAGE, RST, docx, epub, pdf, png, wells, with_pictures

pytest.importorskip("xberg", reason="the extra 'documents' is not installed")
pytestmark = pytest.mark.skipif(documents.WINDOWS, reason="documents are converted on Linux and macOS")

GOOD = {"a.docx": docx(), "b.epub": epub(), "c.html": PAGE.encode(), "d.rst": RST.encode(), "e.pdf": wells()}
DEEP = "".join(f'<w:tbl id="{i * 7919 * 104729:X}"><w:tr><w:tc>' for i in range(1200))
HOSTILE = {
    "bomb.docx": (docx(f"<w:p><w:r><w:t>{'a' * (5 << 20)}</w:t></w:r></w:p>"), "ZIP bomb"),
    "deep.docx": (docx(DEEP), "Nesting too deep"),
    "torn.docx": (docx()[:700], "cannot be converted: .*[Zz]ip"),
    "noise.pdf": (bytes(range(256)) * 20, "cannot be converted"),
    "many.pdf": (
        pdf([[(11, 700, f"Page {i}")] for i in range(30)]),
        r"more than 20 pages \(convert: {max_pages: …}\)",
    ),
    "blank.pdf": (pdf([[]]), r"it has no text: .*\(OCR\)"),
    "cut.html.gz": (gzip.compress(PAGE.encode())[:80], "damaged or cut off"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A project whose documents are converted once for all tests of this file."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "good").mkdir()
    for name, content in GOOD.items():
        (folder / "good" / name).write_bytes(content)
    return Project(folder)


def records(project, **options):
    source = Source(name="source", **options)
    source.bind(CheckContext(frozenset(), {}, project))
    return list(source.records(project))


def test_each_kind_keeps_headings_and_tables(shared):
    rows = {r.fields["file"]: r.fields for r in records(shared, path="good")}
    assert rows.keys() == GOOD.keys()
    for name, fields in rows.items():
        cells = {tuple(c.strip() for c in line.strip("|").split("|")) for line in fields["text"].splitlines()}
        assert {("Well", "Depth"), ("North", "12.5"), ("South", "30.1")} <= cells, name
        assert "# Wells" in fields["text"] and "# Levels" in fields["text"], name
        assert fields["title"] == "Wells" and "evil" not in fields["text"]
        assert (fields["page"], fields["last_page"]) == ((1, 2) if name == "e.pdf" else (None, None))
        assert not fields["text"].startswith("---"), "no front matter"
        assert fields["start"] == 0 and fields["end"] == len(fields["text"])


def test_pictures_are_files_named_by_their_content(shared, tmp_path):
    """Each kind has two pictures; a piece names those whose places it has."""
    pictures = [png((255, 0, 0)), png((0, 0, 255))]
    (tmp_path / "in").mkdir()
    for name, content in with_pictures(pictures).items():
        (tmp_path / "in" / name).write_bytes(content)
    project = Project(tmp_path)
    pieces = [r.fields for r in records(project, path="in", chunk={"words": 10}, convert={"pictures": True})]
    names = [f"runs/documents/pictures/{sha256(content).hexdigest()}.png" for content in pictures]
    for kind in ("p.docx", "p.epub", "p.html"):
        in_order = [piece["pictures"] for piece in pieces if piece["file"] == kind]
        assert len(in_order) > 1 and sum(in_order, []) == names, kind
    assert [(tmp_path / name).read_bytes() for name in names] == pictures
    plain = [r.fields for r in records(project, path="in")]
    assert all("pictures" not in fields and "base64" not in fields["text"] for fields in plain)
    (tmp_path / names[0]).unlink()
    records(project, path="in", convert={"pictures": True})
    assert (tmp_path / names[0]).read_bytes() == pictures[0], "what was lost is made again"


def test_pictures_without_a_place_are_left_out(tmp_path):
    page = ["One ![a](x.png) and ![b](https://example.org/y.png).", "Two ![c](z.png)."]
    picture = {"format": "png", "data": b64encode(png((1, 2, 3))).decode()}
    assert placed(page, [picture], tmp_path) == [
        "One ![a]() and ![b](https://example.org/y.png).",
        "Two ![c]().",
    ]
    assert not list(tmp_path.rglob("*.png"))
    first, second = placed(page, [picture, {**picture, "format": "../x"}], tmp_path)
    assert pictures_in(first)[0].endswith(".png") and pictures_in(second)[0].endswith(".bin")


def test_pieces_have_headings_pages_and_places(shared):
    whole = {r.fields["file"]: r.fields["text"] for r in records(shared, path="good")}
    pieces = [r.fields for r in records(shared, path="good", chunk={"words": 12})]
    for name, text in whole.items():
        parts = [fields for fields in pieces if fields["file"] == name]
        assert "".join(fields["text"] for fields in parts) == text
        assert all(text[fields["start"] : fields["end"]] == fields["text"] for fields in parts)
        assert parts[-1]["headings"][-1] == "Levels"
    paged = {fields["page"]: fields for fields in pieces if fields["file"] == "e.pdf"}
    assert (
        paged.keys() == {1, 2} and "Levels" in paged[2]["headings"] and "Levels" not in paged[1]["headings"]
    )
    old = [r.fields["text"] for r in records(shared, path="good", chunk_words=12)]
    assert old == [fields["text"] for fields in pieces]


def test_no_document_is_converted_twice(shared, monkeypatch):
    before = records(shared, path="good")

    def refuse(*arguments, **options):
        raise AssertionError("it is converted again")

    monkeypatch.setattr(documents, "run", refuse)
    assert records(shared, path="good") == before
    with pytest.raises(AssertionError, match="again"):
        records(shared, path="good/d.rst", convert={"timeout_s": 61})


def test_a_damaged_result_is_made_again(tmp_path):
    (tmp_path / "d.rst").write_text(RST)
    project = Project(tmp_path)
    before = records(project, path="d.rst")
    (kept,) = (tmp_path / "runs" / "documents").iterdir()
    kept.write_text(kept.read_text()[:20])
    assert records(project, path="d.rst") == before and len(kept.read_text()) > 20


def test_hostile_files_are_dropped_with_reasons(tmp_path):
    (tmp_path / "d").mkdir()
    for name, (content, _) in HOSTILE.items():
        (tmp_path / "d" / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"d/blank.pdf: it has no text"):
        records(Project(tmp_path), path="d/blank.pdf")
    (tmp_path / "d" / "z.rst").write_text(RST)
    rows = {
        r.source.split("/")[1]: r for r in records(Project(tmp_path), path="d", convert={"max_pages": 20})
    }
    assert not rows.pop("z.rst#1").dropped
    assert rows.keys() == HOSTILE.keys()
    import re

    for name, (_, reason) in HOSTILE.items():
        assert rows[name].dropped.filter == "unconverted"
        assert re.search(reason, rows[name].dropped.reason), (name, rows[name].dropped.reason)
        assert str(tmp_path) not in rows[name].dropped.reason


def test_limits_end_the_process(tmp_path):
    file = tmp_path / "many.pdf"
    file.write_bytes(
        pdf([[(11, 40 + 12 * j, f"Line {j} of page {i}") for j in range(60)] for i in range(300)])
    )
    late = documents.convert(file, ".pdf", documents.Convert(timeout_s=0.6), tmp_path / "kept")
    assert late == "converting takes more than 0.6 s (convert: {timeout_s: …})"
    assert isinstance(late, documents.Unconverted)


def test_a_process_that_dies_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "d.rst").write_text(RST)
    monkeypatch.setattr(documents, "run", lambda *a, **b: ("left before the end of the tests", "", b""))
    reason = documents.convert(tmp_path / "d.rst", ".rst", documents.Convert(), tmp_path)
    assert (
        reason == "cannot be converted: it is damaged, or needs more than 2048 MB (convert: {memory_mb: …})"
    )


def test_documents_are_converted_where_nothing_can_be_confined(tmp_path, monkeypatch):
    (tmp_path / "d.rst").write_text(RST)
    monkeypatch.setattr(documents, "lacking", lambda: ["Linux"])
    assert "# Levels" in documents.convert(tmp_path / "d.rst", ".rst", documents.Convert(), tmp_path).text


def test_a_document_is_converted_in_confinement_and_not_at_any_size(tmp_path, monkeypatch):
    (tmp_path / "d.rst").write_text(RST)
    confined = []

    def record(*arguments, **options):
        confined.append(options["confined"])
        return "finished", "", b'{"pages": ["text"]}'

    monkeypatch.setattr(documents, "run", record)
    assert documents.convert(tmp_path / "d.rst", ".rst", documents.Convert(), tmp_path / "a").text == "text"
    assert confined == [not documents.lacking()]
    monkeypatch.setattr(documents, "MOST_BYTES", 10)
    reason = documents.convert(tmp_path / "d.rst", ".rst", documents.Convert(), tmp_path / "b")
    assert isinstance(reason, documents.Unconverted) and reason == "it has more than 0 MB"


def test_a_missing_converter_is_named(tmp_path, monkeypatch):
    (tmp_path / "d.rst").write_text(RST)
    monkeypatch.setitem(sys.modules, "xberg", None)
    with pytest.raises(ConfigError, match=r"'d.rst' needs the extra 'documents' .*distillgen\[documents\]"):
        records(Project(tmp_path), path="d.rst")


def test_documents_of_a_folder_are_converted_side_by_side_in_order(shared, monkeypatch):
    running, most = set(), 0
    before = records(shared, path="good")

    def slow(path, *arguments):
        nonlocal most
        running.add(path)
        time.sleep(0.05 if path.suffix == ".docx" else 0.01)
        most = max(most, len(running))
        running.discard(path)
        return documents.convert(path, *arguments)

    monkeypatch.setattr("distillgen.rows.texts.convert", slow)
    monkeypatch.setattr("distillgen.rows.readers.cores", lambda: 3)
    assert records(shared, path="good") == before and 2 <= most <= 3


def test_patterns(shared, tmp_path):
    assert [r.source for r in records(shared, path="good/*.rst")] == ["good/d.rst#1"]
    assert len(records(shared, path="**/[ab].*")) == 2
    source = Source(name="source", path="good/[ab].*")
    assert source.files(shared).keys() == {"good/a.docx", "good/b.epub"}, "part of the fingerprint"
    with pytest.raises(ConfigError, match=r"no file in 'good' matches '\*.txt'"):
        records(shared, path="good/*.txt")
    with pytest.raises(ConfigError, match="leads out of 'good'"):
        records(shared, path="good/*/../../x")
    (tmp_path / "a[1].jsonl").write_text('{"q": 1}\n')
    assert records(Project(tmp_path), path="a[1].jsonl")[0].fields == {"q": 1}, "a file of this name"
    outside = f"{shared.root}/good/*.rst"
    with pytest.raises(ConfigError, match="lies outside"):
        records(Project(tmp_path), path=outside)
    trusted = Project(tmp_path, frozenset({outside}))
    assert [r.fields["file"] for r in records(trusted, path=outside)] == ["d.rst"]


def test_what_a_folder_holds_besides(shared, tmp_path, caplog):
    project = Project(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "page.html").write_text(PAGE)
    (tmp_path / "d" / "x.bin").write_bytes(b"x")
    (tmp_path / "d" / "rows.csv").write_text("q\n1\n")
    with caplog.at_level(logging.INFO, "distillgen"):
        assert [r.fields for r in records(project, path="d")] == [{"q": "1"}], "pages beside rows are none"
    assert "d: 2 of 3 files are not read: page.html, x.bin" in caplog.text
    (tmp_path / "d" / "rows.csv").rename(tmp_path / "d" / "a.md")
    assert [r.fields["file"] for r in records(project, path="d")] == ["a.md", "page.html"]
    assert [r.fields["file"] for r in records(project, path="d", format="text")] == ["a.md"]
    assert [r.fields["file"] for r in records(project, path="d", format="document")] == ["page.html"]
    with pytest.raises(ConfigError, match=r"'x.bin' has not the ending of a document: .pdf, .docx"):
        records(project, path="d/x.bin", format="document")


def test_zstandard(tmp_path):
    zstd = pytest.importorskip("backports.zstd")
    (tmp_path / "a.jsonl.zst").write_bytes(zstd.compress(b'{"q": 1}\n'))
    (tmp_path / "cut.jsonl.zst").write_bytes(zstd.compress(b'{"q": 1}\n' * 9999)[:-8])
    with pytest.raises(ConfigError, match="damaged or cut off"):
        records(Project(tmp_path), path="cut.jsonl.zst")
    (tmp_path / "d.rst.zst").write_bytes(zstd.compress(RST.encode()))
    project = Project(tmp_path)
    assert records(project, path="a.jsonl.zst")[0].fields == {"q": 1}
    assert records(project, path="d.rst.zst")[0].fields["title"] == "Wells"


def test_a_run_of_documents_is_repeated_to_the_byte(shared, tmp_path):
    pipeline = shared.root / "p.yaml"
    pipeline.write_text("# p\nversion: 1\nstages:\n  - source: {path: good, chunk: {words: 20}}\n")
    corpora = []
    for out in ("one", "two"):
        distillgen.run(str(pipeline), out=str(tmp_path / out))
        corpora.append((tmp_path / out / "corpus.jsonl").read_bytes())
    assert corpora[0] == corpora[1] and corpora[0].count(b"\n") > 10
