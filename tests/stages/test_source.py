"""Sources: every kind of file, bad rows, and constant memory."""

import asyncio
import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import CHUNK, CheckContext, Estimate, Job, RunContext, WorkerServices
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.source import CHECKED_ROWS, Source
from distillgen.text.chunks import pieces as pieces_of


def chunks(*arguments):
    return [piece.text for piece in pieces_of(*arguments)]


@pytest.fixture
def read(project):
    """All records of a source, after its check: read(path=…)."""

    def read(limit=None, check=True, seed=0, **options):
        given = CheckContext(frozenset(), {}, Project(project.path), seed=seed)
        source = Source(name="source", **options)
        bound = source.bind(given) if check else None

        async def main():
            return [
                r
                async for chunk in source.run(
                    None, Job(RunContext(given.project, limit=limit, seed=seed), WorkerServices({}, None))
                )
                for r in chunk
            ]

        records = asyncio.run(main())
        if check:
            assert bound.fields >= {name for r in records[:CHECKED_ROWS] for name in r.fields}
            rows = bound.estimate(Estimate(None), []).rows
            assert limit or rows in (len(records), None)
        return records

    return read


def fields(records):
    assert all(record.dropped is None for record in records)
    return [dict(record.fields) for record in records]


def test_jsonl(project, read):
    project.write("a.jsonl", '{"q": "é", "n": [1, null]}\n\n  \n{"q": 2}\n')
    records = read(path="a.jsonl")
    assert fields(records) == [{"q": "é", "n": [1, None]}, {"q": 2}]
    assert [r.source for r in records] == ["a.jsonl:1", "a.jsonl:4"]
    assert fields(read(path="a.jsonl", limit=1)) == [{"q": "é", "n": [1, None]}]
    (project.path / "a.jsonl").rename(project.path / "a.log")
    assert len(read(path="a.log", format="jsonl")) == 2


def test_jsonl_as_any_program_writes_it(project, read):
    big = 10**40
    lines = [
        "\ufeff" + json.dumps({"q": "é"}),
        "",
        json.dumps({"n": big}),
        r'{"s": "\ud800x\ud83d\ude00"}',
        "\x1e" + json.dumps({"last": 1.5}),  # RFC 7464
    ]
    (project.path / "a.jsonl").write_bytes("\r\n".join(lines).encode())
    assert fields(read(path="a.jsonl")) == [{"q": "é"}, {"n": big}, {"s": "?x😀"}, {"last": 1.5}]
    project.write("b.ndjson", '{"u": "a\u2028b\x85c"}\n')
    assert fields(read(path="b.ndjson")) == [{"u": "a\u2028b\x85c"}]


BAD_LINES = [
    (b"{", "not JSON: "),
    (b'{"a": NaN}', "not JSON: NaN is not JSON"),
    (b'{"a": "\xff"}', "not UTF-8 text"),
    (b"[" * 99_999, "not JSON: it is nested too deeply"),
    (b"null", "a row must be an object of fields, not 'None'"),
    (b"[1, 2]", "a row must be an object of fields, not '[1, 2]'"),
    (b'{"meta": {"id": 1}}', "the field 'meta' is distillgen's own; rename it with fields: {other: meta}"),
    (b'{"meta": "x"}', "the field 'meta' is distillgen's own"),
]


@pytest.mark.parametrize("line, reason", BAD_LINES)
def test_an_early_bad_row_is_an_error_and_a_late_one_is_dropped(project, read, line, reason):
    (project.path / "a.jsonl").write_bytes(b'{"n": 1}\n' + line + b"\n")
    with pytest.raises(ConfigError, match=re.escape(f"a.jsonl:2: {reason}")):
        read(path="a.jsonl")
    good = [b'{"n": %d}' % i for i in range(CHECKED_ROWS)]
    (project.path / "a.jsonl").write_bytes(b"\n".join([*good, line, line, b'{"n": -1}']))
    *before, first, second, last = read(path="a.jsonl")
    assert len(fields(before)) == CHECKED_ROWS and fields([last]) == [{"n": -1}]
    assert (first.dropped.stage, first.dropped.filter) == (
        "source",
        "unreadable",
    ) and first.dropped.reason.startswith(reason)
    assert (first.source, second.source) == ("a.jsonl:1001", "a.jsonl:1002") and first.id != second.id
    json.dumps(first.row())


def test_a_missing_field_deep_in_the_file_is_a_dropped_record(project, read):
    project.rows("a.jsonl", [*({"q": i} for i in range(CHECKED_ROWS)), {"p": 1}, {"q": 2}])
    records = read(path="a.jsonl", fields={"question": "q"})
    assert records[-1].fields == {"question": 2} and records[0].fields == {"question": 0}
    assert (
        records[-2].dropped.reason == "there is no field 'q' in the row; known: p"
        and records[-2].source == "a.jsonl:1001"
    )


def test_fields_are_chosen_and_renamed(project, read):
    project.rows("a.jsonl", [{"q": 1, "a": 2, "meta": "mine"}])
    assert fields(read(path="a.jsonl", fields={"question": "q", "about": "meta"})) == [
        {"question": 1, "about": "mine"}
    ]
    with pytest.raises(
        ConfigError, match=re.escape("a.jsonl:1: there is no field 'qq' in the row; did you mean 'q'?")
    ):
        read(path="a.jsonl", fields={"question": "qq"})
    with pytest.raises(ConfigError, match="the field 'meta' is distillgen's own"):
        read(path="a.jsonl", fields={"meta": "q"})


@pytest.mark.parametrize("chosen", [None, {"text": "b"}])
def test_an_earlier_corpus_keeps_its_lineage(project, read, chosen):
    earlier = [Record.read({"a": i}, f"x:{i}").derive({"b": i}, {"stage": "generate"}, 0) for i in range(3)]
    project.rows("corpus.jsonl", [record.row() for record in earlier])
    records = read(path="corpus.jsonl", fields=chosen)
    assert fields(records) == [{"text": i} if chosen else {"a": i, "b": i} for i in range(3)]
    assert [r.parents for r in records] == [(r.id,) for r in earlier]
    assert not {r.id for r in records} & {r.id for r in earlier}


def test_csv(project, read):
    (project.path / "a.csv").write_bytes('\ufeffq,a\r\n"x, ""y""\r\nz",é\r\n\r\n1,\r\n'.encode())
    assert fields(read(path="a.csv")) == [{"q": 'x, "y"\r\nz', "a": "é"}, {"q": "1", "a": ""}]
    for first in ("sep=;\r\n", '\ufeff"sep=;"\n'):  # as Excel is told the separator
        (project.path / "a.csv").write_text(f"{first}q;a\n1,5;2\n3\n", encoding="utf-8")
        good, bad = read(path="a.csv", check=False)
        assert good.fields == {"q": "1,5", "a": "2"} and (good.source, bad.source) == ("a.csv:3", "a.csv:4")
    project.write("a.tsv", "q\ta\nx, y\tz\n")
    assert fields(read(path="a.tsv")) == [{"q": "x, y", "a": "z"}]


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"1", "the row has another number of cells than the heading's 2"),
        (b"1,2,3", "the row has another number of cells than the heading's 2"),
        (b'"1"x,2', "not CSV: "),
        (b"caf\xe9,2", "not UTF-8 text"),
    ],
)
def test_a_bad_csv_row(project, read, line, reason):
    (project.path / "a.csv").write_bytes(b"q,a\n1,2\n" + line + b"\n3,4\n")
    with pytest.raises(ConfigError, match=f"a.csv:3: {reason}"):
        read(path="a.csv")
    bad, good = read(path="a.csv", check=False)[1:]
    assert (
        bad.dropped.reason.startswith(reason)
        and bad.source == "a.csv:3"
        and good.fields == {"q": "3", "a": "4"}
    )


def test_a_csv_heading_names_each_column_once(project, read):
    project.write("a.csv", "q,q\n1,2\n")
    with pytest.raises(ConfigError, match="a.csv:1: the heading names 'q' twice"):
        read(path="a.csv")


def test_parquet(project, read):
    pytest.importorskip("pyarrow")
    import datetime

    import pyarrow
    import pyarrow.parquet

    rows = [
        {"q": f"q{i}", "n": i, "day": datetime.date(2026, 1, 1), "tags": ["a"], "x": float("nan")}
        for i in range(600)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    records = read(path="a.parquet")
    assert len(records) == 600
    assert fields(records)[599] == {"q": "q599", "n": 599, "day": "2026-01-01", "tags": ["a"], "x": None}
    assert records[599].source == "a.parquet:600"
    project.write("b.parquet", "not parquet, but longer than the footer")
    with pytest.raises(ConfigError, match="'b.parquet' cannot be read: ArrowInvalid: "):
        read(path="b.parquet")


def test_texts(project, read):
    project.write("notes/b.txt", "\ufeff Plain text. \n")
    project.write("notes/a/first.md", "Intro.\n\n# The title \n\nMore.\n")
    project.write("notes/c.json", "{}")
    project.write("notes/empty.txt", "\n")
    records = read(path="notes")
    assert fields(records) == [
        {"text": "Intro.\n\n# The title \n\nMore.", "title": "The title", "file": "a/first.md", "piece": 1},
        {"text": "Plain text.", "title": "b", "file": "b.txt", "piece": 1},
    ]
    assert [r.source for r in records] == ["notes/a/first.md#1", "notes/b.txt#1"]
    assert read(path="notes/b.txt")[0].fields["file"] == "b.txt"
    (project.path / "notes/z.txt").write_bytes(b"a\xff")
    with pytest.raises(ConfigError, match=r"notes/z.txt: not UTF-8 text \(invalid start byte\)"):
        read(path="notes")
    assert read(path="notes", check=False)[-1].dropped.filter == "unreadable"


def test_texts_are_cut(project, read):
    project.write("a.md", "# T\n\n" + " ".join(f"Sentence number {i} is here." for i in range(20)))
    records = read(path="a.md", chunk_words=12, overlap_words=5)
    assert [r.fields["piece"] for r in records] == list(range(1, len(records) + 1)) and len(records) > 9
    assert records[1].fields["text"] == "Sentence number 1 is here. Sentence number 2 is here. "
    assert {r.fields["title"] for r in records} == {"T"} and records[1].source == "a.md#2"


def test_pieces_know_their_places(project, read):
    content = "# T\n\nBefore.\n\n## Part\n\n" + " ".join(f"Sentence number {i} is here." for i in range(20))
    project.write("a.md", content)
    records = read(path="a.md", chunk={"words": 12, "overlap": 5})
    old = read(path="a.md", chunk_words=12, overlap_words=5)
    assert [r.fields["text"] for r in records] == [r.fields["text"] for r in old]
    assert "start" not in old[0].fields and records[0].fields["headings"] == ["T"]
    assert {tuple(r.fields["headings"]) for r in records[1:]} == {("T", "Part")}
    assert all(content[r.fields["start"] : r.fields["end"]] == r.fields["text"] for r in records)


def test_pieces_in_tokens(project, read):
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.save(str(project.path / "letters.json"))
    project.write("a.md", "One two three. " * 30)
    records = read(path="a.md", chunk={"tokens": 45, "tokenizer_file": "letters.json"})
    assert {len(r.fields["text"]) for r in records} == {45}
    stage = Source(name="source", path="a.md", chunk={"tokens": 45, "tokenizer_file": "letters.json"})
    assert stage.files(Project(project.path)).keys() == {"a.md", "letters.json"}, "part of the fingerprint"
    project.write("no.json", "{}")
    with pytest.raises(ConfigError, match=r"chunk: the tokenizer '.*no.json' cannot be read"):
        read(path="a.md", chunk={"tokens": 45, "tokenizer_file": "no.json"})


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        ({}, "give either 'words' or 'tokens'"),
        ({"words": 20, "tokens": 20, "tokenizer": "a/b"}, "give either 'words' or 'tokens'"),
        ({"words": 20, "overlap": 20}, "'overlap' must be smaller"),
        ({"tokens": 20}, "'tokens' needs either 'tokenizer' or 'tokenizer_file'"),
        ({"words": 20, "tokenizer": "a/b"}, "'words' takes neither"),
    ],
)
def test_wrong_chunks(chunk, problem):
    with pytest.raises(ValueError, match=problem):
        Source(name="source", path="a.md", chunk=chunk)
    with pytest.raises(ValueError, match="'chunk' stands in the place of 'chunk_words'"):
        Source(name="source", path="a.md", chunk={"words": 20}, chunk_words=20)


def test_pieces_keep_quotation_marks_and_paragraph_ends():
    text = 'He said "Go now." Then (he left.) It was 3.5 km! A heading\n\nNext: ok'
    assert chunks(text, 4) == [
        'He said "Go now." ',
        "Then (he left.) ",
        "It was 3.5 km! ",
        "A heading\n\nNext: ok",
    ]
    assert chunks(text, 3) == [
        'He said "Go ',
        'now." ',
        "Then (he left.) ",
        "It was 3.5 ",
        "km! A heading\n\n",
        "Next: ok",
    ]
    assert chunks("one two three four five", 2) == ["one two ", "three four ", "five"]
    assert chunks(" \n ", 5) == []


words = st.text(alphabet="ab.!?\"')é", min_size=1, max_size=5)
parts = st.lists(st.tuples(words, st.sampled_from([" ", "  ", "\n", "\n\n", "\n\n\n"])), max_size=60)
texts = parts.map(
    lambda pairs: "".join(f"{i}{a}{b}" for i, (a, b) in enumerate(pairs))
)  # no word twice, so that overlaps are plain


@given(texts, st.integers(1, 9), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_no_word_is_lost_and_no_piece_is_too_long(text, most, overlap):
    overlap = min(overlap, most - 1)
    plain = [piece.split() for piece in chunks(text, most)]
    assert [word for piece in plain for word in piece] == text.split()
    assert all(0 < len(piece) <= most for piece in plain)
    pieces = [piece.split() for piece in chunks(text, most, overlap)]
    assert all(0 < len(piece) <= most for piece in pieces)
    rest = text.split()
    before: list = []
    for piece in pieces:
        common = max(
            n
            for n in range(min(overlap, len(piece) - 1, len(before)) + 1)
            if before[len(before) - n :] == piece[:n] and piece[n:] == rest[: len(piece) - n]
        )
        assert common <= overlap
        before, rest = piece, rest[len(piece) - common :]
    assert rest == []


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(6, 15), st.integers(0, 14))
@settings(max_examples=60, deadline=None)
def test_overlap_is_of_whole_sentences(lengths, most, overlap):
    overlap = min(overlap, most - 1)
    sentences = [" ".join(f"w{i}x{j}" for j in range(n)) + "." for i, n in enumerate(lengths)]
    shown = [re.findall(r"[^.]+\.", piece) for piece in chunks(" ".join(sentences), most, overlap)]
    shown = [[s.strip() for s in piece] for piece in shown]
    assert all(sentence in sentences for piece in shown for sentence in piece)
    for before, piece in zip(shown, shown[1:], strict=False):
        again = [s for s in piece if s in before]
        assert piece[: len(again)] == again == before[len(before) - len(again) :]
        kept, following = sum(len(s.split()) for s in again), len(piece[len(again)].split())
        assert kept <= overlap
        if len(again) < len(before):
            assert kept + len(before[-len(again) - 1].split()) > min(overlap, most - following)


def test_a_data_set_from_a_folder_without_network(project, read, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    project.rows("mine/train.jsonl", [{"q": f"q{i}", "a": {"n": i}} for i in range(5)])
    project.rows("mine/test.jsonl", [{"q": "t", "a": {"n": 9}}])
    records = read(dataset="mine")
    assert (
        fields(records) == [{"q": f"q{i}", "a": {"n": i}} for i in range(5)] and records[4].source == "mine:5"
    )
    assert fields(read(dataset="mine", split="test", fields={"question": "q"})) == [{"question": "t"}]
    assert list(Source(dataset="mine").files(Project(project.path))) == ["mine"]
    with pytest.raises(ConfigError, match="'mine' cannot be read: ValueError: "):
        read(dataset="mine", split="none")
    with pytest.raises(ConfigError, match="lies outside the project"):
        read(dataset="..")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"path": "none.jsonl"}, "there is no file 'none.jsonl'; did you mean 'one.jsonl'?"),
        ({"path": "../x"}, "lies outside the project|there is no file"),
        ({"path": "empty.jsonl"}, "the source 'empty.jsonl' has no rows"),
        ({"path": "torn.jsonl"}, "torn.jsonl:2: not JSON: Unterminated string starting at character 7"),
        ({"path": "bare"}, "the source 'bare' has no rows: the folder is empty"),
        ({"path": "strange"}, r"none of its 1 files \(a.xyz\) is one that is read \(.jsonl .*.pdf"),
        ({"path": "strange", "format": "document"}, "is one of the format 'document', or has any text"),
        ({"path": "one.bin"}, "'one.bin' has an unknown ending; say format: jsonl, csv, parquet or text"),
        ({"path": "one.xlsx"}, "'one.xlsx' is a ZIP archive .or an Office file.: unpack it"),
        ({"path": "one.jsonl", "chunk_words": 20}, "chunk_words cuts texts and documents, not 'one.jsonl'"),
    ],
)
def test_what_cannot_be_read(project, read, options, message):
    project.write("one.jsonl", "{}")
    project.write("empty.jsonl", "\n")
    project.write("one.bin", "x")
    project.write("strange/a.xyz", "x")
    project.write("torn.jsonl", '{}\n{"a": "b')
    (project.path / "bare").mkdir()
    (project.path / "one.xlsx").write_bytes(b"PK\x03\x04...")
    with pytest.raises(ConfigError, match=message):
        read(**options)


def test_options_that_contradict_each_other():
    for options in ({}, {"path": "a", "dataset": "b"}, {"path": "a", "chunk_words": 10, "overlap_words": 10}):
        with pytest.raises(ValueError):
            Source(**options)


def test_memory_holds_no_more_than_a_chunk(project):
    with (project.path / "a.jsonl").open("w") as file:
        for i in range(40_000):
            file.write(f'{{"q": "question {i}", "n": {i}}}\n')
    source, job = (
        Source(name="source", path="a.jsonl"),
        Job(RunContext(Project(project.path)), WorkerServices({}, None)),
    )

    async def main():
        rows, longest = 0, 0
        async for chunk in source.run(None, job):
            rows, longest = rows + len(chunk), max(longest, len(chunk))
        return rows, longest

    tracemalloc.start()
    try:
        assert asyncio.run(main()) == (40_000, CHUNK)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_share_is_held_out_by_what_a_row_says(project, read):
    rows = [{"q": f"What is {i % 900}?"} for i in range(1000)]
    project.rows("rows.jsonl", rows)
    records = read(path="rows.jsonl", held_out=0.2)
    sides = {}
    for record in records:
        sides.setdefault(record.fields["q"], set()).add(record.fields["split"])
    assert all(len(side) == 1 for side in sides.values()), "the same row stands on both sides"
    assert 140 < sum(record.held_out for record in records) < 260
    assert [r.id for r in records] == [r.id for r in read(path="rows.jsonl")], (
        "the answers that were paid for are lost"
    )
    project.rows("more.jsonl", [{"q": "new"}, *rows[::-1]])
    assert {
        r.fields["q"]: r.held_out for r in read(path="more.jsonl", held_out=0.2) if r.fields["q"] in sides
    } == {q: side == {"test"} for q, side in sides.items()}, "a row changed sides because others came"


def test_a_share_is_for_validation_beside_the_share_for_tests(project, read):
    rows = [{"q": f"What is {i % 900}?"} for i in range(1000)]
    project.rows("rows.jsonl", rows)
    without = {r.fields["q"]: r.part for r in read(path="rows.jsonl", held_out=0.2)}
    records = read(path="rows.jsonl", held_out=0.2, validation=0.1)
    parts = {r.fields["q"]: r.part for r in records}
    assert all(parts[r.fields["q"]] == r.part for r in records), "an item is in two parts"
    assert 60 < sum(r.part == "validation" for r in records) < 140
    assert {q for q, part in parts.items() if part == "test"} == {
        q for q, part in without.items() if part == "test"
    }, "the test items changed"
    other = read(path="rows.jsonl", held_out=0.2, validation=0.1, seed=1)
    assert {r.fields["q"]: r.part for r in other} != parts


def test_validation_rows_come_from_the_train_rows_of_a_split(project, read):
    rows = [{"q": i, "split": "test" if i % 4 == 0 else "train"} for i in range(400)]
    project.rows("rows.jsonl", rows)
    records = read(path="rows.jsonl", validation=0.2)
    assert [r.part for r in records if r.fields["q"] % 4 == 0] == ["test"] * 100
    assert 35 < sum(r.part == "validation" for r in records) < 85
    project.rows("rows.jsonl", [{"q": i} for i in range(9)])
    with pytest.raises(ConfigError, match="give held_out"):
        read(path="rows.jsonl", validation=0.2)
    with pytest.raises(ValueError, match="nothing to train on"):
        Source(name="source", path="rows.jsonl", validation=0.5, held_out=0.5)


def test_a_text_is_held_out_whole(project, read):
    for i in range(40):
        project.write(
            f"texts/{i}.md", "\n\n".join(f"Sentence {j} of text {i} says a thing." for j in range(30))
        )
    records = read(path="texts", chunk_words=20, held_out=0.3)
    sides = {record.fields["file"]: set() for record in records}
    for record in records:
        sides[record.fields["file"]].add(record.fields["split"])
    assert (
        all(len(side) == 1 for side in sides.values())
        and {"train"} in sides.values()
        and {"test"} in sides.values()
    )


def test_a_split_of_its_own_is_kept_and_no_other_is_made(project, read):
    project.rows("rows.jsonl", [{"q": "a", "split": "train"}, {"q": "b", "split": "validation"}])
    assert [record.held_out for record in read(path="rows.jsonl")] == [False, True]
    with pytest.raises(ConfigError, match="a field 'split' already; leave held_out out"):
        read(path="rows.jsonl", held_out=0.5)


def test_a_bad_row_reaches_the_run(project):
    project.rows("a.jsonl", [{"q": i} for i in range(CHECKED_ROWS)])
    with (project.path / "a.jsonl").open("a") as file:
        file.write("oops\n")
    distillgen.run(
        {"version": 1, "stages": [{"source": {"path": "a.jsonl"}}, {"format": {"fields": {"t": "{{ q }}"}}}]},
        out="out",
    )
    (row,) = project.read("out/dropped.jsonl")
    assert row["meta"]["dropped"]["filter"] == "unreadable" and row["meta"]["source"] == "a.jsonl:1001"
    assert len(project.read("out/corpus.jsonl")) == CHECKED_ROWS


def names_file(project):
    project.write("data/first.txt", "Ada\n\n Bo \nCy\nAda\n")
    return {
        "first": "data/first.txt",
        "year": {"from": 1900, "to": 2099},
        "kind": ["simple", {"of": [1]}, None],
    }


def test_drawn_rows_begin_with_the_same_ones_and_differ_by_the_seed(project, read):
    values = names_file(project)
    few = read(draw={"n": 50, "fields": values})
    many = read(draw={"n": 300, "fields": values})
    assert many[:50] == few and len({r.id for r in many}) == 300
    assert {r.fields["first"] for r in many} == {"Ada", "Bo", "Cy"}
    assert all(1900 <= r.fields["year"] <= 2099 for r in many) and len({r.fields["year"] for r in many}) > 100
    assert [r.fields["kind"] for r in many].count({"of": [1]}) > 60
    assert 110 < [r.fields["first"] for r in many].count("Ada") < 190  # it stands twice among four
    more = read(draw={"n": 50, "fields": {**values, "more": ["x", "y"]}})
    assert [{**r.fields, "more": 0} for r in few] == [{**r.fields, "more": 0} for r in more]
    assert fields(read(draw={"n": 50, "fields": values}, seed=1)) != fields(few)


def test_unique_fields_use_up_every_combination_and_larger_n_keeps_the_first(project, read):
    values = names_file(project) | {"year": {"from": 1, "to": 7}}
    rows = fields(read(draw={"n": 21, "unique": ["first", "year"], "fields": values}))
    assert len({(row["first"], row["year"]) for row in rows}) == 21
    assert fields(read(draw={"n": 8, "unique": ["first", "year"], "fields": values})) == rows[:8]
    message = "22 rows cannot differ in first, year: their values have 21 combinations"
    with pytest.raises(ConfigError, match=message):
        read(draw={"n": 22, "unique": ["first", "year"], "fields": values})


def test_equal_drawn_rows_have_other_ids_and_one_side_of_the_split(project, read):
    records = read(draw={"n": 200, "fields": {"digit": {"from": 0, "to": 9}}}, held_out=0.5)
    assert len({r.id for r in records}) == len({r.source for r in records}) == 200
    sides = {(r.fields["digit"], r.fields["split"]) for r in records}
    assert len(sides) == 10 and {side for _, side in sides} == {"train", "test"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"draw": {"n": 2, "fields": {"a": "data/none.txt"}}}, "there is no file 'data/none.txt'"),
        ({"draw": {"n": 2, "fields": {"a": "empty.txt"}}}, "the file 'empty.txt' has no values for 'a'"),
        ({"draw": {"n": 2, "fields": {"a": []}}}, "the list of values for 'a' is empty"),
        ({"draw": {"n": 2, "fields": {"a": "rows.jsonl"}}}, "'rows.jsonl' is no text file; put one"),
        ({"draw": {"n": 2, "fields": {"a": {"from": 2, "to": 1}}}}, "'a': no number lies from 2 to 1"),
        ({"draw": {"n": 2, "fields": {"a": {"from": 2}}}}, "'a' has values in no known form; give a list"),
        ({"draw": {"n": 2, "fields": {"a": 5}}}, "'a' has values in no known form; give a list"),
        ({"draw": {"n": 2, "fields": {"a": [1]}, "unique": ["b"]}}, "'unique' names 'b', which is not drawn"),
        ({"draw": {"n": 2, "fields": {"meta": [1]}}}, "the field 'meta' is distillgen's own"),
        ({"draw": {"n": 0, "fields": {"a": [1]}}}, "'draw.n'"),
        (
            {"draw": {"n": 2, "fields": {"a": [1]}}, "path": "rows.jsonl"},
            "give one of 'path', 'dataset', 'script' and",
        ),
        (
            {"draw": {"n": 2, "fields": {"a": [1]}}, "fields": {"b": "a"}},
            "'fields' is for rows that are read",
        ),
        (
            {"draw": {"n": 2, "fields": {"split": [1]}}, "held_out": 0.5},
            "the row has a field 'split' already",
        ),
    ],
)
def test_a_mistake_in_a_draw_is_an_error_at_check(project, options, message):
    project.write("empty.txt", "\n \n")
    project.rows("rows.jsonl", [{"q": 1}])
    with pytest.raises(ConfigError, match=re.escape(message)):
        distillgen.load({"version": 1, "stages": [{"source": options}]})


def test_fields_are_drawn_independently_of_each_other(read):
    rows = fields(read(draw={"n": 400, "fields": {"a": ["x", "y"], "b": ["x", "y"]}}))
    assert 150 < sum(row["a"] == row["b"] for row in rows) < 250


def test_a_run_of_values_in_the_pipeline_is_replayed(project):
    pipeline = {"version": 1, "stages": [{"source": {"draw": {"n": 5, "fields": {"a": [1, 2]}}}}]}
    file = distillgen.run(pipeline, out="run").directory / "stages" / "01-source.jsonl"
    written = file.stat().st_mtime_ns
    distillgen.run(pipeline, out="run")
    assert file.stat().st_mtime_ns == written


def test_a_run_of_drawn_rows_is_replayed_and_names_its_values(project):
    names_file(project)
    draw = {"n": 5, "fields": {"first": "data/first.txt"}}
    pipeline = {"version": 1, "card": {"self_report": True}, "stages": [{"source": {"draw": draw}}]}
    first = distillgen.run(pipeline, out="run").directory
    written = (first / "stages" / "01-source.jsonl").stat().st_ino
    distillgen.run(pipeline, out="run")
    assert (first / "stages" / "01-source.jsonl").stat().st_ino == written  # the same file, not written again
    card = (first / "README.md").read_text()
    assert "Source: rows drawn by the program, 5 records read" in card and "data/first.txt SHA-256" in card
    project.write("data/first.txt", "Di\n")
    distillgen.run(pipeline, out="run")
    assert {row["first"] for row in project.read("run/corpus.jsonl")} == {"Di"}
