"""generate with constraints: what a model that searches is sent, and what another one's answers lose."""

import json
import sqlite3
from contextlib import closing

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion, Request
from distillgen.pipeline.load import load
from tests.tiny_llama import make_model

DRAWER = """
from distillgen import Completion, Endpoint, Spec


class Drawer(Endpoint):
    spec_type = Spec
    identity = "drawer"

    async def answer(self, request, samples, attempt):
        texts = ["dogs can bark", "dogs bark", "Can dogs and cats bark?", "dogs can bark and can run"]
        return [Completion(text=texts[sample]) for sample in samples]
"""
CAN_ONCE = [{"any": ["can", "may"], "at_least": 1, "at_most": 1}, {"any": ["and"], "at_most": 0}]


class Searcher:
    """A teacher that keeps the requests, and answers with the text of the prompt."""

    __qualname__ = "searcher"

    def __init__(self):
        self.requests = []

    def __call__(self, request, sample):
        self.requests.append(request)
        text = request.messages[-1]["content"]
        return Completion(status="failed", error="the search met nothing") if text == "fail" else text


def pipeline(project, rows=({"ask": "dogs can bark"},), model=None, **options):
    project.rows("rows.jsonl", rows)
    options = {"model": "t", "template": "{{ ask }}", "output": "said", "constraints": CAN_ONCE, **options}
    model = {"provider": "scripted", "model": "echo", **(model or {})}
    stages = [{"source": {"path": "rows.jsonl"}}, {"generate": options}]
    return {"version": 1, "models": {"t": model}, "stages": stages}


def rows_of(run, name="corpus"):
    return [json.loads(line) for line in (run.directory / f"{name}.jsonl").read_text().splitlines()]


def test_a_request_without_constraints_keeps_its_key():
    (key,) = Request("m", [{"role": "user", "content": "Hi"}], sampling={"temperature": 0}).keys("id", 1)
    assert key.hex() == "5b9e209046b96a6f6d6472d5c08855422885816efce88fd52ddb3e2173b49c97"


def test_phrases_are_filled_from_the_record_and_from_a_file(project):
    project.write("linking.txt", "and\n\n or \n")
    constraints = [
        {"any": ["{{ helper }}", "  {{ noun }}  eats "]},
        {"any": ["{{ noun }}"], "at_least": 1, "at_most": 2, "whole_words": False},
        {"any": "linking.txt", "at_most": 0},
    ]
    rows = [
        {"ask": "a cat eats", "helper": "", "noun": "cat"},
        {"ask": "it may", "helper": "may", "noun": ""},
        {"ask": "null", "helper": None, "noun": "cat"},
    ]
    teacher = Searcher()
    search = {"setting": "fine_tuned", "beam": 4}
    options = pipeline(project, rows, constraints=constraints, search=search, ordered=True)
    run = distillgen.run(options, out="run", teachers={"t": teacher})
    sent = {request.messages[-1]["content"]: dict(request.constraints) for request in teacher.requests}
    assert sent["a cat eats"]["clauses"] == [
        {"any": ["cat eats"], "at_least": 1},
        {"any": ["cat"], "at_least": 1, "at_most": 2, "whole_words": False},
        {"any": ["and", "or"], "at_most": 0},
    ]
    assert sent["it may"]["clauses"] == [
        {"any": ["may", "eats"], "at_least": 1},
        {"any": ["and", "or"], "at_most": 0},
    ]
    assert sent["it may"]["ordered"] and sent["it may"]["search"] == {
        **{"beam": 4, "tolerance": 2, "prune": 50, "beta": 0.0, "early_stop": 1.5, "ngram": 3},
        **{"length_penalty": 0.2, "per_bucket": "best", "buckets": "met", "min_tokens": 0},
    }
    reasons = {row["ask"]: row["meta"]["dropped"]["reason"] for row in rows_of(run, "dropped")}
    assert len(sent) == 2 and "'helper' is null" in reasons["null"]
    assert "linking.txt" in (run.directory / "pipeline.lock.yaml").read_text()


def test_an_answer_that_does_not_meet_its_clauses_is_no_row_whoever_says_that_it_does(project):
    rows = [{"ask": text} for text in ("dogs can bark", "dogs bark", "dogs can and may", "fail")]
    run = distillgen.run(pipeline(project, rows), out="run", teachers={"t": Searcher()})
    (row,) = rows_of(run)
    assert row["said"] == "dogs can bark" and row["meta"]["made"][-1]["constrained_by"] == "neurologic"
    reasons = {
        r["said"]: (r["meta"]["dropped"]["filter"], r["meta"]["dropped"]["reason"])
        for r in rows_of(run, "dropped")
    }
    assert reasons == {
        "dogs bark": (
            "constraints",
            "the answer does not meet clause 1, at least 1 and at most 1 of 'can', 'may': it has 0",
        ),
        "dogs can and may": (
            "constraints",
            "the answer does not meet clause 1, at least 1 and at most 1 of 'can', 'may': it has 2",
        ),
        "": ("failed", "the search met nothing"),
    }


def test_rejection_keeps_what_meets_the_clauses_and_says_so(project):
    project.write("teachers/drawer.py", DRAWER)
    options = pipeline(project, model={"provider": "drawer"}, n=4, fallback="rejection", temperature=1)
    run = distillgen.run(options, out="run")
    assert [row["said"] for row in rows_of(run)] == ["dogs can bark"]
    assert [row["meta"]["made"][-1]["constrained_by"] for row in rows_of(run)] == ["rejection"]
    assert [row["meta"]["dropped"]["filter"] for row in rows_of(run, "dropped")] == ["constraints"] * 3
    options["stages"][1]["generate"]["mark"] = "good"
    marked = distillgen.run(options, out="run")
    assert [row["good"] for row in rows_of(marked)] == [True, False, False, False]
    loose = pipeline(project, model={"provider": "drawer"}, n=4, temperature=1, constraints=None)
    again = distillgen.run(loose, out="run")
    assert len(rows_of(again)) == 4
    usage = json.loads((again.directory / "usage.json").read_text())["models"]["t"]
    assert usage["answers"] == 4, "the requests are those without constraints"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraints": [{"any": ["{{ nuon }}"]}]}, "clause 1 of 'constraints' needs the field 'nuon'"),
        ({"constraints": [{"any": "can"}]}, r"any: \[can\], or the name of a text file that ends in .txt"),
        ({"constraints": [{"any": "empty.txt"}]}, "'empty.txt' has no phrases"),
        ({"constraints": [{"any": "none.txt"}]}, "there is no file 'none.txt'"),
        ({"constraints": []}, "constraints"),
        ({"constraints": [{"any": []}]}, "any"),
        ({"constraints": [{"any": ["a"], "at_most": 1, "at_least": 2}]}, "'at_most' 1 is less than"),
        ({"constraints": [{"any": ["a"], "at_least": 0}]}, "the clause allows everything"),
        ({"constraints": [{"all": ["a"]}]}, "all"),
        ({"constraints": None, "ordered": True}, "'ordered' is about the clauses"),
        ({"constraints": None, "fallback": "rejection"}, "'fallback' is about the clauses"),
        ({"n": 21}, "'n' is 21, and a search has 20 answers at most"),
        ({"grammar": "root ::= 'a'"}, "constraints, or else a grammar or tools"),
        ({"temperature": 0.5}, "has no use for 'temperature'"),
        ({"logprobs": 1, "constraints": None, "search": {}}, "has no use for 'logprobs'"),
        (
            {"model": {"provider": "drawer"}},
            "cannot do constraints; providers that can: transformers.*fallback",
        ),
    ],
)
def test_check_reports(project, options, message):
    project.write("teachers/drawer.py", DRAWER)
    project.write("empty.txt", "\n")
    of_model = options if isinstance(options.get("model"), dict) else {}
    options = {} if of_model else options
    with pytest.raises(ConfigError, match=message):
        load(pipeline(project, **of_model, **options)).check()


def test_a_search_without_constraints_is_a_beam_search(project):
    teacher = Searcher()
    options = pipeline(project, [{"ask": "a"}], constraints=None, search={"beam": 3})
    run = distillgen.run(options, out="run", teachers={"t": teacher})
    assert (
        teacher.requests[0].constraints["clauses"] == []
        and teacher.requests[0].constraints["search"]["beam"] == 3
    )
    assert "constrained_by" not in rows_of(run)[0]["meta"]["made"][-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_model_on_this_machine_searches_and_a_second_run_asks_nothing(project):
    for name in ("torch", "transformers"):
        pytest.importorskip(name)
    folder = make_model(project.path / "lm")
    rows = [
        {"ask": ask, "word": word} for ask in ("What?", "No", "You may") for word in ("warranty", "License")
    ]
    constraints = [{"any": ["{{ word }}"]}, {"any": ["the", "of", "and", "or"], "at_most": 0}]
    model = {"provider": "transformers", "model": str(folder), "api": "completions", "max_concurrency": 40}
    limits = {"n": 2, "max_tokens": 8, "search": {"beam": 10}, "take_cut_off": True}
    options = pipeline(project, rows, model, constraints=constraints, **limits)
    ledger = project.path / "answers.sqlite3"
    run = distillgen.run(options, out="run", ledger=ledger)
    kept = rows_of(run)
    assert len(kept) > 6 and {row["meta"]["made"][-1]["constrained_by"] for row in kept} == {"neurologic"}
    assert all(row["word"].lower() in row["said"].lower() for row in kept)
    assert not any({"the", "of", "and", "or"} & {*row["said"].lower().split()} for row in kept)

    def answers():
        with closing(sqlite3.connect(ledger)) as database:
            return database.execute("SELECT count(*) FROM answers").fetchone()[0]

    before = answers()
    again = distillgen.run(options, out="again", ledger=ledger)
    assert rows_of(again) == kept and answers() == before == 12
