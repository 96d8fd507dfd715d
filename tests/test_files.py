"""Files of users: their kind is recognised, and every reader reports it."""

import bz2
import gzip
import json
import lzma
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.project import Project, file_sha256, read_text
from distillgen.record import item_of
from distillgen.rows.jsonl import read_rows
from distillgen.stages.source import Source
from distillgen.text.chunks import pieces as pieces_of
from distillgen.user_files import inner_files

ROWS = [{"q": "Wie groß?", "n": [1, None]}, {"q": "Why?", "n": []}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def chunks(*arguments):
    return [piece.text for piece in pieces_of(*arguments)]


def rows_of(path, project=None, **options):
    source = Source(name="source", path=str(path), **options)
    where = Project(project.path)
    source.bind(CheckContext(frozenset(), {}, where))
    records = list(source.records(where))
    assert source.count(where) == len(records)
    return [dict(record.fields) for record in records]


WAYS = {
    "a.jsonl": LINES.encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "a.jsonl.gz": gzip.compress(LINES.encode()),
    "a.jsonl.bz2": bz2.compress(LINES.encode()),
    "a.jsonl.xz": lzma.compress(LINES.encode()),
    "hidden.jsonl": gzip.compress(LINES.encode()),
    "u16.jsonl": LINES.encode("utf-16"),
    "u16le.jsonl": LINES.encode("utf-16-le"),
    "u16be.jsonl": LINES.encode("utf-16-be"),
    "u32.jsonl": LINES.encode("utf-32"),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.jsonl": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "array16.json": json.dumps(ROWS).encode("utf-16"),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "blank.jsonl": b"\n\n" + LINES.encode(),
}


@pytest.mark.parametrize("name", WAYS)
def test_rows_are_read_however_they_are_packed_or_encoded(project, name):
    (project.path / name).write_bytes(WAYS[name])
    assert rows_of(name, project) == ROWS
    assert [row for _, row in read_rows(project.path / name)] == ROWS


OTHERS = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a Git LFS pointer .* 'git lfs pull'",
    ),
    "page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "xml": (b"<?xml version='1.0'?><a/>", "a web page or XML"),
    "parquet": (b"PAR1\x15\x04", "a Parquet file: give it the ending .parquet"),
    "pdf": (b"%PDF-1.7\n", "a PDF"),
    "sqlite": (b"SQLite format 3\0" + b"\0" * 99, "a SQLite database"),
    "old": (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "packed with Zstandard: pip install|damaged or cut off"),
    "arrow": (b"ARROW1\0\0", "an Arrow file"),
    "tar": (b"a" * 257 + b"ustar\0", "a tar archive"),
    "tgz": (gzip.compress(b"a" * 257 + b"ustar\0"), "a tar archive"),
    "binary": (b"\x01\x02\0\x03" * 9, "binary data"),
    "cut": (gzip.compress(LINES.encode() * 99)[:60], "damaged or cut off"),
    "document": (
        json.dumps({"data": ROWS}, indent=1).encode(),
        "one JSON object over several lines.*'data': jq -c '.data",
    ),
    "twice": (b'[{"q": 1, "q": 2}]', "the row has the field 'q' twice"),
}


@pytest.mark.parametrize(
    ("depth", "reason"), [(150, None), (250, "deeply"), (900, "deeply"), (9000, "deeply")]
)
def test_a_row_that_is_nested_deeply_is_dropped(project, depth, reason):
    project.write("a.jsonl", f'{{"q": 1}}\n{{"q": {"[" * depth}{"]" * depth}}}\n')
    _, record = Source(name="source", path="a.jsonl").records(Project(project.path))
    assert (record.dropped and record.dropped.reason) == (reason and "not JSON: it is nested too deeply")


def test_a_text_that_unpacks_to_very_much_is_dropped(project, monkeypatch):
    monkeypatch.setattr("distillgen.project.UNPACKED_BYTES", 1 << 20)
    (project.path / "bomb.txt.gz").write_bytes(gzip.compress(b"word " * 300_000))
    (project.path / "text.txt.gz").write_bytes(gzip.compress(b"word " * 200_000))
    with pytest.raises(ConfigError, match=r"bomb.txt.gz: unpacked it has more than 1 MB; cut it into files"):
        rows_of("bomb.txt.gz", project)
    assert len(rows_of("text.txt.gz", project)) == 1


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_file_of_rows_says_what_it_is(project, what):
    data, message = OTHERS[what]
    (project.path / "rows.jsonl").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        rows_of("rows.jsonl", project)
    with pytest.raises(ConfigError, match=message):
        list(read_rows(project.path / "rows.jsonl"))
    if what not in ("page", "xml", "twice", "document"):
        with pytest.raises(ConfigError, match=message):
            read_text(project.path / "rows.jsonl")
    if what not in ("twice", "document"):
        (project.path / "rows.csv").write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            rows_of("rows.csv", project)


def test_an_excel_workbook_says_so(project):
    for name in "a.xlsx", "a.jsonl", "a.csv", "a.txt":
        with zipfile.ZipFile(project.path / name, "w") as file:
            file.writestr("xl/workbook.xml", "<x/>")
        with pytest.raises(ConfigError, match="an Excel workbook: save the sheet as CSV"):
            rows_of(name, project)


def test_every_reader_of_rows_says_what_a_file_is(project):
    data = OTHERS["lfs"][0]
    for name in "labels.jsonl", "edits.jsonl", "items.jsonl", "rows.jsonl":
        (project.path / name).write_bytes(data)
    project.rows("seeds.jsonl", [{"q": "a"}])
    models = {"m": {"provider": "scripted", "model": "echo"}}
    for stage in (
        {"critic": {"labels": "labels.jsonl", "fields": ["q"], "features": "words", "target_recall": 0.9}},
        {"audit": {"edits": "edits.jsonl"}},
        {"decontaminate": {"against": ["items.jsonl"]}},
        {
            "evaluate": {
                "models": ["m"],
                "data": "items.jsonl",
                "template": "{{ q }}",
                "metrics": [{"brevity": {"field": "answer"}}],
            }
        },
    ):
        with pytest.raises(ConfigError, match="this is a Git LFS pointer"):
            distillgen.load(
                {"version": 1, "models": models, "stages": [{"source": {"path": "seeds.jsonl"}}, stage]}
            )
    done = project.cli("export", "rows.jsonl", "--out", "out.jsonl", check=2)
    assert "this is a Git LFS pointer" in done.stderr


def test_a_table_where_rows_are_wanted(project):
    project.write("labels.csv", "q,label\na,1\n")
    with pytest.raises(
        ConfigError,
        match="a table, and rows of JSON are needed: .*distillgen export labels.csv --out labels.jsonl",
    ):
        list(read_rows(project.path / "labels.csv"))
    project.cli("export", "labels.csv", "--out", "labels.jsonl", "--no-id")
    assert project.read("labels.jsonl") == [{"q": "a", "label": "1"}]


def test_tables_and_texts_in_other_encodings(project):
    (project.path / "a.csv").write_bytes("q,a\r\né,1\r\n".encode("utf-16"))
    (project.path / "b.tsv.gz").write_bytes(gzip.compress(b"q\ta\nx\t1\n"))
    (project.path / "c.md").write_bytes("# T\r\n\r\nText é".encode("utf-16"))
    (project.path / "d.txt.gz").write_bytes(gzip.compress("é".encode()))
    assert rows_of("a.csv", project) == [{"q": "é", "a": "1"}] and rows_of("b.tsv.gz", project) == [
        {"q": "x", "a": "1"}
    ]
    assert rows_of("c.md", project)[0]["text"] == "# T\n\nText é" and rows_of("d.txt.gz", project)[0] == {
        "text": "é",
        "title": "d",
        "file": "d.txt.gz",
        "piece": 1,
    }
    project.write("e.csv", "q;a\n1;2\n")
    with pytest.raises(
        ConfigError, match="the heading is one column, 'q;a': its parts seem to be separated by ';'"
    ):
        rows_of("e.csv", project)


@pytest.mark.parametrize(
    "row",
    [
        '{"q": 1, "q": 2}',
        '{"a": {"q": 1, "q": 1}}',
        '{"q":1,"q" : 2}',
        '{"a": [{"q": 1, "q": 2}]}',
        '{"q": "\\":", "q": 1}',
    ],
)
def test_two_fields_of_one_name(project, row):
    project.write("a.jsonl", row + "\n")
    with pytest.raises(ConfigError, match="a.jsonl:1: the row has the field 'q' twice"):
        rows_of("a.jsonl", project)
    project.write("a.csv", "q,x,q\n1,2,3,4\n")
    with pytest.raises(ConfigError, match="the heading names 'q' twice"):
        rows_of("a.csv", project)


def test_names_that_only_look_repeated(project):
    row = {"q": '"a": 1, "a": 2', "a": {"q": '\\":'}, "b": [{"q": 1}, {"q": 2}]}
    project.rows("a.jsonl", [row])
    assert rows_of("a.jsonl", project) == [row]


def test_columns_of_a_parquet_file(project):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(columns, name="a.parquet"):
        pq.write_table(
            pa.table([pa.array(values) for _, values in columns], names=[name for name, _ in columns]), name
        )

    write([("q", ["a"]), ("q", ["b"])])
    with pytest.raises(ConfigError, match="there are two columns 'q'"):
        rows_of("a.parquet", project)
    write([("q", ["a"]), ("image", [{"bytes": b"\x89PNG\xff", "path": "a.png"}]), ("t", [b"plain \xc3\xa9"])])
    with pytest.raises(
        ConfigError,
        match="the column 'image' holds bytes that are neither .*; leave it out: fields: {q: q, t: t}",
    ):
        rows_of("a.parquet", project)
    assert rows_of("a.parquet", project, fields={"q": "q", "t": "t"}) == [{"q": "a", "t": "plain é"}]
    write([("q", ["a"]), ("b", [b"\x00\x01"])])
    with pytest.raises(ConfigError, match="the column 'b' holds bytes"):
        rows_of("a.parquet", project)


def test_pictures_of_a_data_set_in_a_folder_are_references(project):
    pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    (project.path / "pictures").mkdir()
    image.new("RGB", (2, 2)).save(project.path / "pictures/a.png")
    (row,) = rows_of("pictures", project)
    (same,) = [r.fields for r in Source(name="source", dataset="pictures").records(Project(project.path))]
    assert same["image"] == row["image"] and row["image"]["path"] == "pictures/a.png"


LEFTOVERS = [
    ".git/HEAD.md",
    ".hidden.md",
    ".a.md.swp",
    "a.md~",
    "#a.md#",
    "~$a.md",
    "node_modules/x/README.md",
    "__pycache__/a.txt",
    ".ipynb_checkpoints/a.md",
    "sub/.DS_Store",
    "__MACOSX/a.txt",
    "a.md.bak",
    "sub/.obsidian/notes.md",
    "site-packages/LICENSE.txt",
]


def test_hidden_files_and_leftovers_are_neither_read_nor_counted(project):
    project.write("notes/a.md", "One.")
    project.write("notes/sub/b.txt", "Two.")
    before = file_sha256(project.path / "notes")
    for name in LEFTOVERS:
        project.write(f"notes/{name}", "SECRET")
    assert [row["text"] for row in rows_of("notes", project)] == ["One.", "Two."]
    assert file_sha256(project.path / "notes") == before and len(inner_files(project.path / "notes")) == 2
    hidden = project.path / ".mine/texts"
    hidden.mkdir(parents=True)
    (hidden / "a.md").write_text("Named on purpose.")
    assert rows_of(".mine/texts", project)[0]["text"] == "Named on purpose."


def test_a_folder_of_rows(project):
    project.rows("rows/b.jsonl", [{"q": "b"}])
    project.write("rows/a.csv", "q\na\n")
    (project.path / "rows/c.jsonl.gz").write_bytes(gzip.compress(b'{"q": "c"}\n'))
    project.write("rows/.git/d.jsonl", '{"q": "secret"}')
    assert rows_of("rows", project) == [{"q": "a"}, {"q": "b"}, {"q": "c"}]
    records = list(Source(name="s", path="rows").records(Project(project.path)))
    assert [record.source for record in records] == ["rows/a.csv:2", "rows/b.jsonl:1", "rows/c.jsonl.gz:1"]
    project.write("rows/README.md", "About.")
    with pytest.raises(
        ConfigError,
        match="texts .README.md. and files of rows .a.csv.; say which to read, with format: text or "
        "format: csv",
    ):
        rows_of("rows", project)
    assert rows_of("rows", project, format="jsonl") == [{"q": "b"}, {"q": "c"}]
    assert rows_of("rows", project, format="text")[0]["text"] == "About."
    with pytest.raises(ConfigError, match="chunk_words cuts texts and documents, and 'rows' has none"):
        rows_of("rows", project, format="jsonl", chunk_words=10)


DOCUMENT = """# Title

Intro one. Intro two is here.

## Code

Look at this:

```python
x = 1.  # not. a. sentence.

y = 2
```

| a | b |
|---|---|
| 1 | 2 |

- item one.
- item two
  goes on

The end. Of it.
"""


def test_what_is_whole_stays_whole():
    notes = []
    pieces = chunks(DOCUMENT, 12, 0, notes)
    assert "".join(pieces) == DOCUMENT and notes == [] and chunks(DOCUMENT, 100) == [DOCUMENT]
    assert [piece for piece in pieces if "```" in piece] == [
        "```python\nx = 1.  # not. a. sentence.\n\ny = 2\n```\n\n"
    ]
    assert [piece for piece in pieces if "|" in piece] == ["| a | b |\n|---|---|\n| 1 | 2 |\n\n"]
    assert any(piece.startswith("## Code") for piece in pieces) and not any(
        piece.rstrip().endswith("Code") for piece in pieces
    )


def test_a_long_fence_is_cut_between_its_lines_with_a_note():
    fence = "~~~~ text\n" + "".join(f"line number {i} of it. And more\n" for i in range(12)) + "```\n~~~~\n"
    notes = []
    pieces = chunks(f"Before.\n\n{fence}\nAfter it.\n", 30, 0, notes)
    assert "".join(pieces) == f"Before.\n\n{fence}\nAfter it.\n" and notes == [
        "a fence of 88 words is cut between its lines"
    ]
    assert all(line in piece for piece in pieces for line in piece.splitlines())
    assert all(piece.endswith("\n") for piece in pieces)
    opening, closing = (
        [piece for piece in pieces if "~~~~" in piece][0],
        [piece for piece in pieces if "~~~~" in piece][-1],
    )
    assert "line number 0" in opening and "line number 11" in closing


def test_headings_and_blocks_are_better_places_than_sentences():
    text = "# A\n\nOne two three. Four five six.\n\n# B\n\nSeven eight nine. Ten eleven twelve.\n"
    assert chunks(text, 12) == [
        "# A\n\nOne two three. Four five six.\n\n",
        "# B\n\nSeven eight nine. Ten eleven twelve.\n",
    ]
    text = "One two three.\n\nFour five. Six seven eight."
    assert chunks(text, 6) == ["One two three.\n\n", "Four five. Six seven eight."], (
        "the block's end is better than a sentence's"
    )


tokens = st.sampled_from(
    [
        "a",
        "b.",
        "# h",
        "```",
        "~~~",
        "| x | y |",
        "|---|---|",
        "- i",
        "1. z",
        "\n",
        "\n\n",
        "word",
        "end!",
        "    code",
        "\t",
        "`c`",
        "\u3000",
        "\x0c",
        "\x85",
        "\u2028",
    ]
)
documents = st.lists(st.tuples(tokens, st.sampled_from([" ", "\n", ""])), max_size=50).map(
    lambda parts: "".join(a + b for a, b in parts)
)


@given(documents | st.text(), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_joined_pieces_are_the_text(text, most):
    pieces = chunks(text, most)
    assert "".join(pieces) == (text if text.strip() else "")
    assert all(0 < len(piece.split()) <= most for piece in pieces)


def test_a_cut_source_gives_its_file_back(project):
    project.write("a.md", DOCUMENT)
    rows = rows_of("a.md", project, chunk_words=12)
    assert "".join(row["text"] for row in rows) == DOCUMENT and len(rows) > 3
    assert [row["text"] for row in rows_of("a.md", project, chunk_words=500)] == [DOCUMENT]


def test_what_an_item_is():
    assert (
        item_of({"id": 1, "q": "x", "answer": "a"})
        == item_of({"id": 2, "q": "x", "answer": "b"})
        == item_of({"q": "x"})
    )
    assert item_of({"q": "x"}) != item_of({"q": "y"}) and item_of({"id": 1}) != item_of({"id": 2})
    assert item_of({"q": "x", "z": 1}, ["q"]) == item_of({"q": "x", "z": 2}, ["q"])


def test_what_numbers_or_answers_a_row_is_not_what_it_is_about():
    def said(*turns):
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    assert item_of(said(("user", "q"), ("assistant", "a"))) == item_of(
        said(("user", "q"), ("assistant", "b"))
    )
    assert item_of(said(("user", "q"), ("assistant", "a"))) != item_of(
        said(("user", "p"), ("assistant", "a"))
    )
    assert item_of(
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    ) == item_of(
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}], "doc_id": 3}
    )
    assert item_of({"instruction": "i", "input": "a", "output": "x"}) != item_of(
        {"instruction": "i", "input": "b", "output": "x"}
    )


def test_indented_code_is_whole():
    text = "Before it. Look:\n\n    x = 1. And. more\n\n    y = 2! And. more\n\nAfter it. The end.\n"
    pieces = chunks(text, 10)
    assert "".join(pieces) == text and any("x = 1" in piece and "y = 2" in piece for piece in pieces)


def test_a_piece_is_at_least_half_full_where_sentences_let_it_be():
    text = "# A\n\nTwo words.\n\n" + "One two three four. " * 4
    assert [len(piece.split()) for piece in chunks(text, 16)] == [16, 4], (
        "a heading's block right at the beginning is no place to cut at"
    )


def test_the_first_and_last_lines_of_a_long_fence_keep_their_marks():
    text = "```python\n" + "\n".join(f"a{i} b{i} c{i} d{i}" for i in range(4)) + "\n```\n"
    pieces = chunks(text, 5)
    assert (
        "".join(pieces) == text
        and pieces[0] == "```python\na0 b0 c0 d0\n"
        and pieces[-1] == "a3 b3 c3 d3\n```\n"
    )
    pieces = chunks(text, 4)
    assert "".join(pieces) == text and all(len(piece.split()) <= 4 for piece in pieces)


def test_a_heading_is_not_cut_from_what_it_heads():
    assert chunks("# One two three\n\nA b c. E f g h.\n", 7) == ["# One two three\n\nA b c. ", "E f g h.\n"]


def test_what_closes_a_long_fence_is_not_left_alone():
    text = "```\n" + "".join(f"a{i} b{i} c{i} d{i}\n" for i in range(5)) + "```\n\n"
    pieces = chunks(text, 8)
    assert "".join(pieces) == text and "d4" in pieces[-1] and pieces[-1].endswith("```\n\n")


def test_packed_evaluation_sets_and_knowledge_bases(project):
    from distillgen.local_models.passages import Passages
    from distillgen.rows.evaluation_sets import items

    (project.path / "items.jsonl.gz").write_bytes(gzip.compress(b'{"q": "x"}\n'))
    assert list(items(project.path / "items.jsonl.gz")) == [(1, {"q": "x"})]
    project.write("known.jsonl", '{"text": "One thing."}\nnot JSON\n')
    with pytest.raises(ConfigError, match="known.jsonl:2: not JSON"):
        Passages.read("known.jsonl", Project(project.path))
