"""Exports: every shape and format, loaded back by its own reader; splits, shards, mistakes, kills."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.rows.shapes import SHAPES, shaper
from distillgen.runs.export import export
from distillgen.runs.export_rows import ExportOptions
from tests.pipeline.test_mistakes import here

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]


@pytest.fixture
def run(project):
    """Twenty questions with two answers each, of which one in four is dropped; fields of many kinds."""
    rows = [
        {
            "question": f"What is {i}?",
            "number": i,
            "tags": ["a", "b"][: i % 3],
            "note": None if i % 2 else "odd",
        }
        for i in range(20)
    ]
    project.rows("data/seeds.jsonl", rows)
    pipeline = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "teacher", "template": "{{ question }}", "output": "answer", "n": 2}},
            {"filter": [{"word_count": {"field": "answer", "min_words": 2}}]},
            {"format": {"messages": [{"user": "{{ question }}"}, {"assistant": "{{ answer }}"}]}},
        ],
    }

    def answer(request, sample):
        number = int(request.messages[-1]["content"][8:-1])
        return (
            "short"
            if number % 4 == 0 and sample
            else f"It is {number}, sample {sample}, naïve “ü” 🙂,\nand more"
        )

    return distillgen.run(pipeline, out="runs/r", teachers={"teacher": answer})


def kept(run):
    return [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]


# shapes


@pytest.mark.parametrize(
    "name, given, fields, row",
    [
        ("messages", {}, {"messages": TURNS}, {"messages": TURNS}),
        (
            "messages",
            {},
            {"question": "q", "answer": 4},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "4"}]},
        ),
        (
            "messages",
            {"system": "Be {{ how }}.", "user": "question"},
            {"question": "q", "response": "a", "how": "brief"},
            {"messages": TURNS},
        ),
        (
            "sharegpt",
            {},
            {"messages": TURNS},
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
        ),
        ("prompt_completion", {}, {"messages": TURNS}, {"prompt": TURNS[:2], "completion": TURNS[2:]}),
        ("prompt_completion", {}, {"instruction": "q", "output": "a"}, {"prompt": "q", "completion": "a"}),
        ("alpaca", {}, {"messages": TURNS[1:]}, {"instruction": "q", "input": "", "output": "a"}),
        (
            "alpaca",
            {"input": "passage"},
            {"question": "q", "answer": "a", "passage": "p"},
            {"instruction": "q", "input": "p", "output": "a"},
        ),
        ("preference", {}, {"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "b"}),
        (
            "unpaired_preference",
            {},
            {"question": "q", "answer": "a", "label": False},
            {"prompt": "q", "completion": "a", "label": False},
        ),
        (
            "preference",
            {},
            {"prompt": TURNS[:2], "chosen": TURNS[2:], "rejected": TURNS[2:]},
            {"prompt": TURNS[:2], "chosen": TURNS[2:], "rejected": TURNS[2:]},
        ),
        (
            "dpo",
            {},
            {"question": "q", "chosen": "a", "rejected": "b"},
            {"prompt": "q", "chosen": "a", "rejected": "b"},
        ),
        (
            "kto",
            {},
            {"prompt": "q", "completion": "a", "label": 0},
            {"prompt": "q", "completion": "a", "label": False},
        ),
        (
            "labelled",
            {"text": "{{ a }} [SEP] {{ b }}"},
            {"a": "x", "b": "y", "label": 1},
            {"text": "x [SEP] y", "label": 1},
        ),
        (
            "triples",
            {},
            {"subject": "s", "predicate": "p", "object": "o"},
            {"head": "s", "relation": "p", "tail": "o"},
        ),
    ],
)
def test_a_shape_is_made_of_fields_messages_or_templates(name, given, fields, row):
    made = shaper(name, given, list(fields))
    assert made.row(fields) == row and list(made.columns) == list(row)


@pytest.mark.parametrize(
    "name, given, fields, says",
    [
        ("alpca", {}, ["a"], "no shape 'alpca'; did you mean 'alpaca'?"),
        ("alpaca", {"outptu": "a"}, ["a"], "the shape 'alpaca' has no part 'outptu'; did you mean 'output'?"),
        (
            "alpaca",
            {"output": "anwser"},
            ["question", "answer"],
            "needs the field 'anwser', and there is none; did you mean 'answer'?",
        ),
        ("alpaca", {"output": "{{ anwser }}"}, ["question", "answer"], "did you mean 'answer'?"),
        (
            "alpaca",
            {"output": "{{ answer"},
            ["question", "answer"],
            "the template of 'output': unexpected end",
        ),
        (
            "preference",
            {},
            ["prompt", "choosen", "rejected"],
            "needs 'chosen', and there is no such field; did you mean 'choosen'?",
        ),
        (
            "messages",
            {},
            ["instruction", "input", "output"],
            "needs 'user', which could be 'instruction' or 'input'; say which field it is: messages:user=…",
        ),
        ("triples", {}, ["head", "tail"], "needs 'relation'"),
    ],
)
def test_what_a_shape_lacks_is_told_with_the_nearest_name(name, given, fields, says):
    with pytest.raises(ConfigError, match=".") as told:
        shaper(name, given, fields)
    assert says in str(told.value)


def test_the_format_stage_and_export_make_the_same_rows(project, run):
    pipeline = json.loads(
        json.dumps(
            {
                "version": 1,
                "stages": [
                    {"source": {"path": "runs/r/corpus.jsonl"}},
                    {"format": {"shape": "alpaca", "keep": []}},
                ],
            }
        )
    )
    made = [
        {k: v for k, v in row.items() if k != "meta"} for row in kept(distillgen.run(pipeline, out="runs/f"))
    ]
    export(run, Path("a.jsonl"), ExportOptions(shape="alpaca", identify=False))
    assert made == project.read("a.jsonl") and made[0].keys() == {"instruction", "input", "output"}


def test_the_format_stage_drops_unshapable_records(project):
    project.rows(
        "data/seeds.jsonl",
        [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": None}],
    )
    stages = [
        {"source": {"path": "data/seeds.jsonl"}},
        {"format": {"shape": {"preference": {"chosen": "{{ chosen }}!"}}}},
    ]
    run = distillgen.run({"version": 1, "stages": stages}, out="runs/f")
    assert [row["chosen"] for row in kept(run)] == ["a!"]
    assert [record.dropped.reason for record in run.dropped] == ["'rejected' is null"]
    with pytest.raises(ConfigError, match="did you mean 'rejected'"):
        distillgen.load(
            {
                "version": 1,
                "stages": [stages[0], {"format": {"shape": {"preference": {"rejected": "rejectd"}}}}],
            }
        )


# formats


def load(folder, name):
    """What `datasets` makes of an export."""
    import datasets

    if name == "arrow":
        loaded = datasets.load_from_disk(str(folder))
        return loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    return datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", ["jsonl", "parquet", "arrow", "csv"])
def test_datasets_loads_every_format_with_splits_and_shards(run, project, name):
    wanted = ExportOptions(name, splits={"train": 0.7, "test": 0.3}, shard_rows=5, seed=1)
    made = export(run, project.path / "out" / name, wanted)
    loaded = load(project.path / "out" / name, name)
    rows = {row["id"]: row for split in loaded.values() for row in split}
    assert {split: part.num_rows for split, part in loaded.items()} == made.rows and sum(
        made.rows.values()
    ) == len(rows) == 35
    for row in kept(run):
        got = rows[row["meta"]["id"]]
        assert (
            got["answer"] == row["answer"] and got["number"] == row["number"] and got["note"] == row["note"]
        )
        for field in ("messages", "tags"):
            assert (json.loads(got[field]) if name == "csv" else got[field]) == row[field]
    shards = [file for file in made.files if file.startswith("train")]
    assert len(shards) == -(-made.rows["train"] // 5) and shards[0].endswith(
        f"00000-of-{len(shards):05d}.{name}"
    )
    assert sorted(made.files) == sorted(
        p.relative_to(project.path / "out" / name).as_posix()
        for p in (project.path / "out" / name).rglob(f"*.{name}")
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", ["jsonl", "parquet", "arrow", "csv"])
def test_the_code_in_the_card_loads_an_export_without_splits(run, project, name, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", project.path / "cache")
    export(run, project.path / "my rows", ExportOptions(name, shape="alpaca"))
    card = (project.path / "my rows/README.md").read_text()
    variables: dict = {}
    exec(card.partition("```python\n")[2].partition("```")[0], variables)
    loaded = variables["rows"] if name == "arrow" else variables["rows"]["train"]
    assert loaded.column_names == ["id", "instruction", "input", "output"] and loaded.num_rows == 35
    assert loaded[0]["output"] == kept(run)[0]["answer"]


def test_one_file_by_its_ending(run, project, capfd):
    import pyarrow.parquet

    for ending in ("jsonl", "csv", "parquet", "arrow"):
        assert here(capfd, "export", "r", "-o", f"one.{ending}", "--keep", "question")[0] == 0
    assert project.read("one.jsonl") == [
        {"id": row["meta"]["id"], "question": row["question"]} for row in kept(run)
    ]
    with open("one.csv", newline="") as stream:
        assert list(csv.DictReader(stream)) == project.read("one.jsonl")
    assert pyarrow.parquet.read_table("one.parquet").to_pylist() == project.read("one.jsonl")
    assert not list(project.path.glob(".*partial"))


GRAPH = [
    {"head": 'PersonX "waits"', "relation": "xWant", "tail": "a <bus> & a seat\\n\n🙂"},
    {"head": 'PersonX "waits"', "relation": "xNeed", "tail": "time"},
    {"head": "time", "relation": "is a/n", "tail": 'PersonX "waits"'},
]


@pytest.mark.parametrize("name, suffix", [("ntriples", "nt"), ("turtle", "ttl")])
def test_triples_as_rdf_are_read_back_by_rdflib(project, name, suffix):
    rdflib = pytest.importorskip("rdflib", reason="rdflib is not installed")
    project.rows("g.jsonl", GRAPH)
    export("g.jsonl", Path(f"g.{suffix}"), ExportOptions(name))
    graph = rdflib.Graph().parse(f"g.{suffix}", format={"nt": "nt", "ttl": "turtle"}[suffix])
    label = {node: str(text) for node, text in graph.subject_objects(rdflib.RDFS.label)}
    statements = list(graph.subjects(rdflib.RDF.type, rdflib.RDF.Statement))
    edges = {
        s: tuple(
            graph.value(s, role) for role in (rdflib.RDF.subject, rdflib.RDF.predicate, rdflib.RDF.object)
        )
        for s in statements
    }
    assert sorted([label[part] for part in edge] for edge in edges.values()) == sorted(
        [row["head"], row["relation"], row["tail"]] for row in GRAPH
    )
    assert all(edge in graph for edge in edges.values()) and len(set(label.values())) == 6
    plain = export("g.jsonl", Path(f"plain.{suffix}"), ExportOptions(name, identify=False))
    assert plain.rows == {"train": 3} and len(rdflib.Graph().parse(f"plain.{suffix}")) == 3 + 6


def test_triples_as_graphml(project):
    project.rows("g.jsonl", [*GRAPH, {"head": "\x01￿", "relation": "\x02", "tail": "time"}])
    export("g.jsonl", Path("g.graphml"), ExportOptions("graphml"))
    space = "{http://graphml.graphdrawing.org/xmlns}"
    graph = ElementTree.parse("g.graphml").getroot().find(f"{space}graph")
    labels = {node.get("id"): node.find(f"{space}data").text for node in graph.iter(f"{space}node")}
    edges = [
        (labels[e.get("source")], e.find(f"{space}data").text, labels[e.get("target")])
        for e in graph.iter(f"{space}edge")
    ]
    assert edges[:3] == [(row["head"], row["relation"], row["tail"]) for row in GRAPH] and len(labels) == 4
    assert len({edge.get("id") for edge in graph.iter(f"{space}edge")}) == 4


# splits


def test_splits_are_disjoint_by_source_item_and_reproducible(run, project):
    shares = {"train": 0.6, "test": 0.4}

    def split(name, **more):
        export(run, project.path / name, ExportOptions(splits=shares, keep=["question"], **more))
        return {part: project.read(f"{name}/{part}-00000-of-00001.jsonl") for part in shares}

    one = split("a", seed=3)
    questions = {part: {row["question"] for row in rows} for part, rows in one.items()}
    assert not questions["train"] & questions["test"] and one == split("b", seed=3) != split("c", seed=4)
    ids = {row["id"]: part for part, rows in one.items() for row in rows}
    lines = (run.directory / "corpus.jsonl").read_text().splitlines()
    random.Random(0).shuffle(lines)
    project.write(
        "some.jsonl", "\n".join(lines[:25]) + "\n"
    )  # an item stays where it is when others come or go
    export("some.jsonl", project.path / "d", ExportOptions(splits=shares, seed=3))
    again = {row["id"]: part for part in shares for row in project.read(f"d/{part}-00000-of-00001.jsonl")}
    assert len(again) == 25 and all(ids[row] == part for row, part in again.items())


def test_pieces_of_one_text_stay_in_one_split(project):
    for i in range(12):
        project.write(f"texts/{i}.md", " ".join(f"Sentence {j} of text {i} is here now." for j in range(8)))
    pipeline = {
        "version": 1,
        "stages": [
            {"source": {"path": "texts", "chunk_words": 20, "overlap_words": 10}},
            {"format": {"keep": ["text", "file"]}},
        ],
    }
    run = distillgen.run(pipeline, out="runs/t")
    export(run, project.path / "s", ExportOptions(splits={"train": 0.5, "test": 0.5}))
    files = [
        {row["file"] for row in project.read(f"s/{part}-00000-of-00001.jsonl")} for part in ("train", "test")
    ]
    assert len(kept(run)) > 24 and not files[0] & files[1]


def test_rows_with_the_same_value_stay_together(project):
    project.rows("g.jsonl", [{"head": f"h{i % 7}", "relation": "r", "tail": f"t{i}"} for i in range(70)])
    export(
        "g.jsonl",
        project.path / "s",
        ExportOptions(splits={"train": 0.5, "dev": 0.25, "test": 0.25}, by="head", seed=2),
    )
    heads = [
        {row["head"] for row in project.read(f"s/{part}-00000-of-00001.jsonl")}
        for part in ("train", "dev", "test")
    ]
    assert (
        not any(one & other for one in heads for other in heads if one is not other)
        and sum(map(len, heads)) == 7
    )


# ids, dropped rows, other data


def test_every_row_is_traced_back_by_the_beginning_of_its_id(run, capfd):
    export(run, Path("rows.csv"), ExportOptions("csv", shape="prompt_completion"))
    with open("rows.csv", newline="") as stream:
        row = list(csv.DictReader(stream))[7]
    told = json.loads(here(capfd, "show", "r", "--id", row["id"][:12], "--json")[1])
    assert (
        told["record"]["meta"]["id"] == row["id"]
        and told["record"]["answer"] == json.loads(row["completion"])[0]["content"]
    )
    (made,) = told["record"]["meta"]["made"]
    assert told["answers"][made["key"]]["request"]["messages"][0]["content"] == told["record"]["question"]
    assert made["model"] == "echo" and told["record"]["meta"]["scores"].keys() == {"word_count"}
    assert told["parents"][0]["question"] == told["record"]["question"] and told["record"]["meta"][
        "source"
    ].startswith("data/seeds.jsonl:")
    shared = next(
        a[:n] for a, b in pairwise(sorted(r["meta"]["id"] for r in kept(run))) for n in (1,) if a[:n] == b[:n]
    )
    assert f"'{shared}' begins the ids of" in here(capfd, "show", "r", "--id", shared)[2]
    assert "there is no record 'xyz'" in here(capfd, "show", "r", "--id", "xyz")[2]


def test_what_was_dropped_is_exported_with_its_reasons(run):
    export(run, Path("dropped.parquet"), ExportOptions("parquet", dropped=True))
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table("dropped.parquet").to_pylist()
    assert len(rows) == 5 and {row["dropped_by"] for row in rows} == {"filter/word_count"}
    assert [row["id"] for row in rows] == [record.id for record in run.dropped] and rows[0][
        "reason"
    ] == "1 words < 2"


def test_a_field_id_of_the_users_is_kept(project):
    project.rows("data/seeds.jsonl", [{"id": f"mine-{i}", "text": "t"} for i in range(3)])
    run = distillgen.run(
        {
            "version": 1,
            "stages": [{"source": {"path": "data/seeds.jsonl"}}, {"format": {"keep": ["id", "text"]}}],
        },
        out="runs/i",
    )
    export(run, Path("a.jsonl"), ExportOptions())
    assert [row["id"] for row in project.read("a.jsonl")] == ["mine-0", "mine-1", "mine-2"]
    assert [row["record_id"] for row in project.read("a.jsonl")] == [row["meta"]["id"] for row in kept(run)]
    export("a.jsonl", Path("b.jsonl"), ExportOptions(keep=["text"]))
    assert [row["id"] for row in project.read("b.jsonl")] == ["mine-0", "mine-1", "mine-2"]
    export(
        "runs/i/corpus.jsonl", Path("d.jsonl"), ExportOptions(keep=["text"])
    )  # a row of a run is the record that it was
    assert [row["id"] for row in project.read("d.jsonl")] == [row["meta"]["id"] for row in kept(run)]
    export(run, Path("c.jsonl"), ExportOptions(keep=["text"], identify=False))
    assert project.read("c.jsonl") == [{"text": "t"}] * 3


def test_any_data_set_is_exported(project):
    project.write("a.csv", "question,answer\nq1,a1\nq2,a2\n")
    project.cli("export", "a.csv", "--shape", "sharegpt", "-o", "out")
    assert [row["conversations"][1]["value"] for row in project.read("out/train-00000-of-00001.jsonl")] == [
        "a1",
        "a2",
    ]


def test_rows_that_have_no_place_in_the_shape_are_counted_and_told(project):
    turns = TURNS[1:]
    project.rows(
        "a.jsonl",
        [
            {"messages": turns},
            {"messages": [*turns, *turns]},
            {"messages": TURNS},
            {"messages": "x"},
            {"messages": turns},
        ],
    )
    done = project.cli("export", "a.jsonl", "--shape", "alpaca", "-o", "b.jsonl", check=3)
    assert "train 2 rows" in done.stdout and "3 rows do not fit the shape and were left out" in done.stderr
    assert (
        "Alpaca holds one question and its answer, not the turns user, assistant, user, assistant"
        in done.stderr
    )
    assert len(project.read("b.jsonl")) == 2


# mistakes


@pytest.mark.parametrize(
    "args, says",
    [
        (("r", "--shape", "alpca"), "did you mean 'alpaca'?"),
        (("r", "--shape", "alpaca:output=anwser"), "did you mean 'answer'?"),
        (("r", "--shape", "alpaca:output"), "takes NAME:PART=FIELD"),
        (("r", "--keep", "qestion"), "--keep: there is no field 'qestion'; did you mean 'question'?"),
        (
            ("r", "--split", "train=0.5,test=0.5", "--by", "numbr"),
            "--by: there is no field 'numbr'; did you mean 'number'?",
        ),
        (("r", "--split", "train=0.5,test=0.4"), "the shares add up to 0.9"),
        (("r", "--split", "train"), "--split takes NAME=SHARE"),
        (("r", "--split", "train=0.5,a/b=0.5"), "a split has a name of letters"),
        (
            ("r", "--split", "train=0.999,test=0.001"),
            "there are no rows for the split 'test'; give it a larger share, or another --seed",
        ),
        (("r", "--format", "parket"), "no format 'parket'; did you mean 'parquet'?"),
        (("r", "--format", "graphml"), "needs 'head'"),
        (("r", "--format", "graphml", "--shape", "alpaca"), "graphml holds triples"),
        (("r", "-o", "x.jsonl", "--shard-rows", "3"), "'x.jsonl' is one file"),
        (("rr",), "'rr' is not a run directory; did you mean 'r'?"),
        (("data/sedes.jsonl", "-o", "x"), "there is no file 'data/sedes.jsonl'; did you mean 'seeds.jsonl'?"),
        (("data/seeds.jsonl",), "give --out"),
        (("data/seeds.jsonl", "-o", "x", "--dropped"), "--dropped needs a run"),
        (("r", "-o", "data"), "'data' exists already; remove it first"),
        (("r", "-o", "data/seeds.jsonl/x"), "cannot write to 'data/seeds.jsonl'"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(run, project, capfd, args, says):
    before = sorted(project.path.rglob("*"))
    code, _, told = here(capfd, "export", *args)
    assert code == 2 and says in told and told.count("\n") == 1 and sorted(project.path.rglob("*")) == before


def test_a_column_of_different_kinds_is_told_and_jsonl_takes_it(project):
    project.rows("a.jsonl", [{"x": 1}] * 1500 + [{"x": "one"}, {"x": 1 << 70}])
    for name in ("parquet", "arrow"):
        with pytest.raises(ConfigError, match="'x' holds values of different kinds.*export JSONL"):
            export("a.jsonl", project.path / name, ExportOptions(name))
        assert not (project.path / name).exists()
    export("a.jsonl", Path("b.jsonl"), ExportOptions())
    assert project.read("b.jsonl")[-1]["x"] == 1 << 70


def test_late_columns_and_mixed_numbers_get_one_type(project):
    import pyarrow.parquet

    project.rows("a.jsonl", [{"x": 1, "d": {"a": 1}}] * 1200 + [{"x": 0.5, "late": "t", "d": {"b": "c"}}])
    export("a.jsonl", Path("a.parquet"), ExportOptions("parquet"))
    last = pyarrow.parquet.read_table("a.parquet").to_pylist()[-1]
    assert (last["x"], last["late"], last["d"]) == (0.5, "t", {"a": None, "b": "c"})


def test_a_run_that_goes_on_is_not_exported(run, project):
    import fcntl

    with (run.directory / "run.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads((run.directory / "usage.json").read_text()) | {"state": "running"}
        (run.directory / "usage.json").write_text(json.dumps(state))
        with pytest.raises(ConfigError, match="is still running"):
            export(run, project.path / "out", ExportOptions())


# kills


@pytest.mark.slow
def test_a_killed_export_leaves_no_file_that_looks_whole(project):
    name = "parquet"
    project.rows("a.jsonl", [{"text": f"{i} " * 40} for i in range(10_000)])
    whole = project.path / "whole"
    export("a.jsonl", whole, ExportOptions(name))
    command = [sys.executable, "-m", "distillgen", "export", "a.jsonl", "--format", name, "-o", "out"]
    partial, kills = project.path / ".out.partial", 0
    for wait in (0.0, 0.02):
        process = subprocess.Popen(
            command, cwd=project.path, env=project.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        limit = time.monotonic() + 30
        while process.poll() is None and not list(partial.glob("train*")) and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        if process.wait(30) == -signal.SIGKILL and not (project.path / "out").exists():
            kills += 1
            assert list(partial.glob("train*"))
    assert kills
    project.cli(
        "export",
        "a.jsonl",
        "--format",
        name,
        "-o",
        "out",
        check=0 if not (project.path / "out").exists() else 2,
    )
    assert not partial.exists()
    assert [p.name for p in (project.path / "out").iterdir()] == [p.name for p in whole.iterdir()]
    assert [p.read_bytes() for p in sorted((project.path / "out").iterdir())] == [
        p.read_bytes() for p in sorted(whole.iterdir())
    ]


def test_two_exports_to_one_place_do_not_mix(project):
    import fcntl

    project.rows("a.jsonl", [{"text": "t"}])
    (project.path / ".out.partial").mkdir()
    handle = os.open(project.path / ".out.partial", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another export is writing '.*out'"):
        export("a.jsonl", project.path / "out", ExportOptions())
    os.close(handle)
    export("a.jsonl", project.path / "out", ExportOptions())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(project):
    import tracemalloc

    texts = [{"question": f"q{i}", "answer": f"answer {i:>6} " * 80} for i in range(8_000)]
    assert project.rows("a.jsonl", texts).stat().st_size > 8_000_000
    export("a.jsonl", Path("warm.jsonl"), ExportOptions(shape="messages"))
    del texts
    tracemalloc.start()
    export("a.jsonl", Path("b.jsonl"), ExportOptions(shape="messages"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


# trainers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize("shape", ["messages", "prompt_completion", "preference"])
def test_trl_trains_on_every_shape_that_it_reads(project, monkeypatch, shape, name):
    """One step, with a model of a few thousand random weights; the loss of a prompt's completion alone tells
    that it was seen.
    """
    pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from tests.tiny_llama import make_model

    rows = [
        {"prompt": f"What is {i}?", "answer": f"It is {i}.", "chosen": f"It is {i}.", "rejected": "No idea."}
        for i in range(8)
    ]
    project.rows("a.jsonl", rows)
    export(
        "a.jsonl",
        project.path / "out",
        ExportOptions(
            name,
            shape=shape,
            parts={"messages": {"assistant": "answer"}, "prompt_completion": {"completion": "answer"}}.get(
                shape, {}
            ),
        ),
    )
    data = load(project.path / "out", name)["train"]
    assert "id" in data.column_names
    model = str(make_model(project.path / "model"))
    options = {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
    }
    if shape == "preference":
        trainer = DPOTrainer(model, args=DPOConfig(str(project.path / "t"), **options), train_dataset=data)
    else:
        trainer = SFTTrainer(model, args=SFTConfig(str(project.path / "t"), **options), train_dataset=data)
    result = trainer.train()
    assert result.global_step == 1 and 0 < result.training_loss < 20


@pytest.mark.slow
def test_trl_reads_sharegpt(project):
    utilities = pytest.importorskip("trl.data_utils", reason="trl is not installed")
    project.rows("a.jsonl", [{"messages": TURNS}])
    export("a.jsonl", Path("b.jsonl"), ExportOptions(shape="sharegpt"))
    (row,) = project.read("b.jsonl")
    turns = utilities.maybe_convert_to_chatml(row)["messages"]
    assert [turn["content"] for turn in turns] == [turn["content"] for turn in TURNS]


def test_every_shape_is_named_in_the_help(capfd):
    told = here(capfd, "export", "--help")[1]
    assert all(name in told for name in SHAPES)


def test_what_was_held_out_stays_apart(project):
    """The rows' own `split` is that of the export: who loads `train` has none of what was held out."""
    project.rows("rows.jsonl", [{"q": f"What is {i}?"} for i in range(60)])
    run = distillgen.run(
        {"version": 1, "models": {}, "stages": [{"source": {"path": "rows.jsonl", "held_out": 0.3}}]},
        out="runs/r",
    )
    made = export(run, project.path / "out", ExportOptions(keep=["q"]))
    held_out = {row["q"] for row in kept(run) if row["split"] == "test"}
    assert {row["q"] for row in project.read("out/test-00000-of-00001.jsonl")} == held_out and made.rows[
        "test"
    ] == len(held_out) > 5
    assert not {row["q"] for row in project.read("out/train-00000-of-00001.jsonl")} & held_out and made.rows[
        "train"
    ] == 60 - len(held_out)
    with pytest.raises(ConfigError, match="split already"):
        export(run, project.path / "again", ExportOptions(splits={"train": 0.5, "test": 0.5}))
    with pytest.raises(ConfigError, match="is one file, and the splits"):
        export(run, project.path / "one.jsonl", ExportOptions())


@pytest.mark.parametrize(
    "values, kind",
    [
        ([1, 1.5, None], "double"),
        ([None, "a", None], "string"),
        ([1.5, 1, 2], "double"),
        ([[1], [None], [2.5]], "list<item: float>"),
        ([[1], None, [2.5, 0.1]], "list<item: double>"),
        ([[1], [2], [16777217]], "list<item: int64>"),
        ([[0.5], [16777217]], "list<item: double>"),
        ([[[0.5]], [[], [1.25]]], "list<item: list<item: float>>"),
        ([["a"], [None]], "list<item: string>"),
    ],
)
def test_a_column_type_fits_all_batches(values, kind):
    from distillgen.rows.formats import schema_of

    assert (
        str(schema_of([[{"a": value}] for value in values]).field("a").type).replace("element", "item")
        == kind
    )


def test_arrays_and_references_come_back_as_they_were(project):
    import pyarrow.parquet

    numpy = pytest.importorskip("numpy")
    numbers = numpy.random.default_rng(0).random((5, 40), dtype="float32")
    numpy.savez(
        project.path / "rows.npz", features=numbers, image=numpy.zeros((5, 1100)), whole=numpy.arange(5)
    )
    run = distillgen.run({"version": 1, "stages": [{"source": {"path": "rows.npz"}}]}, out="r")
    written = [{name: row[name] for name in row if name != "meta"} for row in project.read("r/corpus.jsonl")]
    assert written[3]["image"].keys() == {"path", "sha256", "column", "index"}
    for ending in ("jsonl", "parquet", "arrow"):
        export(run, project.path / f"one.{ending}", ExportOptions(format=ending, identify=False))
    table = pyarrow.parquet.read_table("one.parquet")
    with pyarrow.OSFile("one.arrow") as stream:
        assert pyarrow.ipc.open_stream(stream).read_all().to_pylist() == written
    assert table.to_pylist() == project.read("one.jsonl") == written
    assert str(table.schema.field("features").type.value_type) == "float"
    assert str(table.schema.field("whole").type) == "int64"
    again = distillgen.run({"version": 1, "stages": [{"source": {"path": "one.parquet"}}]}, out="again")
    assert [{**row, "meta": 0} for row in again.corpus] == [{**row, "meta": 0} for row in run.corpus]


SPLITS = [
    "../x",
    "a/b",
    "/tmp/x",
    "..",
    "",
    "train-1",
    "all",
    "a..b",
    "a\nb",
    "a b",
    "x" * 300,
    "C:\\x",
    "\u202etrain",
]


@pytest.mark.parametrize("format", ["jsonl", "arrow"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_that_is_no_name_is_refused_before_anything_is_written(project, split, format):
    project.rows("rows.jsonl", [{"q": 1, "split": "train"}, {"q": 2, "split": split}])
    before = sorted(project.path.parent.rglob("*"))
    with pytest.raises(
        distillgen.ConfigError, match="^the split .*: use letters, digits, '_' and single dots; change it"
    ):
        export("rows.jsonl", project.path / "out", ExportOptions(format=format))
    project.rows("rows.jsonl", [{"q": 1}, {"q": 2}])
    with pytest.raises(distillgen.ConfigError, match="^the split "):
        export(
            "rows.jsonl",
            project.path / "out",
            ExportOptions(format=format, splits={"train": 0.5, split: 0.5}),
        )
    assert sorted(project.path.parent.rglob("*")) == before


def test_splits_that_no_text_names_or_case_alone_tells_apart(project):
    for split, message in (
        (None, "of rows.jsonl:2 is null"),
        (3, "is 3, which is not a text"),
        ("Train", "differ in case only"),
    ):
        project.rows("rows.jsonl", [{"q": 1, "split": "train"}, {"q": 2, "split": split}])
        with pytest.raises(distillgen.ConfigError, match=message):
            export("rows.jsonl", project.path / "out", ExportOptions())


def sides(project, rows, out):
    project.rows("rows.jsonl", rows)
    export(
        "rows.jsonl", project.path / out, ExportOptions(splits={"train": 0.5, "test": 0.5}, identify=False)
    )
    return {
        split: [
            row["q"] for file in sorted((project.path / out).glob(f"{split}-*")) for row in project.read(file)
        ]
        for split in ("train", "test")
    }


def test_equal_items_go_together_and_others_move_none(project):
    rows = [{"id": i, "q": f"question {i % 60}", "answer": f"a{i}"} for i in range(120)]
    first = sides(project, rows, "a")
    assert not set(first["train"]) & set(first["test"]) and min(map(len, first.values())) > 30
    again = sides(project, [{"id": 999, "q": "new", "answer": "n"}, *rows[::-1]], "b")
    assert {split: set(own) - {"new"} for split, own in again.items()} == {
        split: set(own) for split, own in first.items()
    }


def test_a_runs_splits_go_by_the_items_it_began_with(project):
    def made(rows, out):
        project.rows("seeds.jsonl", rows)
        stages = [
            {"source": {"path": "seeds.jsonl"}},
            {"generate": {"model": "m", "template": "{{ q }}", "n": 2}},
            {"format": {"keep": ["response"]}},
        ]
        models = {"m": {"provider": "scripted", "model": "echo"}}
        run = distillgen.run(
            {"version": 1, "models": models, "stages": stages},
            out=f"runs/{out}",
            teachers={"m": lambda r, i: f"{r.messages[-1]['content']} {i}"},
        )
        export(run, project.path / out, ExportOptions(splits={"train": 0.5, "test": 0.5}, identify=False))
        return {
            s: {
                r["response"].rpartition(" ")[0]
                for f in (project.path / out).glob(f"{s}-*")
                for r in project.read(f)
            }
            for s in ("train", "test")
        }

    rows = [{"q": f"question {i % 40}", "id": i} for i in range(80)]
    first = made(rows, "a")
    assert not first["train"] & first["test"] and len(first["train"] | first["test"]) == 40
    again = made([{"q": "new", "id": 7}, *rows], "b")
    assert {split: own - {"new"} for split, own in again.items()} == first


NOWHERE = [
    [{"c": {}}],
    [{"c": {"a": {}}}],
    [{"c": [{}]}],
    [{"c": [[{}], []]}],
    [{"c": None}],
    [{"c": []}],
    [{"c": [[], [[]]]}],
    [{"c": [None]}],
    [{"c": {}}, {"c": {"a": 1}}],
    [{"c": []}, {"c": [1]}],
    [{"c": {"a": {}, "b": []}}, {"c": None}],
    [{"c": {"a": None}}, {"c": {"a": [{}]}}],
]


@pytest.mark.parametrize("rows", NOWHERE)
@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_what_has_no_type_of_its_own_is_written(project, rows, format):
    datasets = pytest.importorskip("datasets")
    project.rows("rows.jsonl", rows)
    export("rows.jsonl", project.path / "out", ExportOptions(format=format, identify=False))
    back = (
        datasets.load_from_disk("out")
        if format == "arrow"
        else datasets.Dataset.from_parquet("out/*.parquet")
    )

    def without(value):
        """A value less what stands for nothing."""
        if isinstance(value, dict):
            return {name: own for name, part in value.items() if (own := without(part)) is not None} or None
        return [without(part) for part in value] if isinstance(value, list) else value

    assert [without(row["c"]) for row in back] == [without(row["c"]) for row in rows]


@pytest.mark.parametrize(
    "values", [[[1, "a"]], [1, "x"], [True, 1], [{"a": 1}, [1]], [{"a": 1}, {"a": "x"}], [[[1], 2]]]
)
def test_a_column_of_several_kinds_is_named_with_the_remedy(project, values):
    project.rows("rows.jsonl", [{"c": value} for value in values])
    with pytest.raises(
        distillgen.ConfigError, match=r"'c' holds values of different kinds.*\{\{ c \| json \}\}"
    ):
        export("rows.jsonl", project.path / "out", ExportOptions(format="parquet"))
