"""(slow) Searches over a tiny Llama in llama.cpp: the answers that all log-probabilities give, and those of
transformers.
"""

import asyncio
import importlib.util
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from threading import Event

import pytest

from distillgen.algorithms.clauses import clauses_of
from distillgen.inference.constraints import SearchOptions
from distillgen.inference.endpoint import Services
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Request
from distillgen.inference.teacher import Teacher
from distillgen.teachers._llamacpp_search import ServerSearch
from distillgen.teachers._search import Query
from distillgen.teachers._settling import settled
from distillgen.teachers.embedded import Embedded, EmbeddedSpec
from distillgen.teachers.transformers import Model, TransformersSpec
from tests.tiny_gguf import make_gguf
from tests.tiny_llama import make_model

PACKAGES = ("torch", "transformers", "gguf", "xllamacpp")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in PACKAGES),
        reason="needs pip install 'distillgen[train,embedded]'",
    ),
]
CLAUSES = [{"any": ["granted", "copyright"], "at_least": 1}, {"any": ["the", "of", "and"], "at_most": 0}]
TEXTS = ["What?", "Who wrote the long book?", "Permission is", "You may", "No", "If the Work"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def weights(folder, tmp_path_factory):
    return make_gguf(folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def request(text="You may", *, chat=False, write=None, clauses=CLAUSES, max_tokens=8, **search):
    options = {"setting": "fine_tuned", "beam": 6, "prune": 200, "length_penalty": 1.0} | search
    settings = SearchOptions(**options).model_dump(exclude={"setting"})
    prompt = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    constraints = {"clauses": clauses, "search": settings}
    return Request("m", sampling={"max_tokens": max_tokens}, constraints=constraints, write=write, **prompt)


def ask(tmp_path, weights, *requests, samples=1):
    """Each request's answers by llama.cpp."""

    async def main():
        tmp_path.mkdir(exist_ok=True)
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        spec = EmbeddedSpec(provider="embedded", model=str(weights), threads=1, context=256)
        teacher = Teacher(Embedded("m", spec, Services(ledger, Budget(), "run", tmp_path)))
        try:
            begun = teacher.begin([(one, samples) for one in requests], stage="s")
            return [await outcome for outcome in begun]
        finally:
            await teacher.close()
            await ledger.close()

    return asyncio.run(main())


def in_transformers(folder, *requests, samples=1):
    model = Model(str(folder), None, TransformersSpec(provider="transformers", model=str(folder)), Event())
    model.ends = {0, 2}  # llama.cpp also takes <|end|> for an end
    return model, model.searched([Query(one, model.tokens(one), range(samples), 0) for one in requests])


def test_the_likeliest_tokens_give_the_answers_that_all_tokens_give(weights, tmp_path, monkeypatch):
    known = []
    of_server = ServerSearch._logprobs

    async def all_known(self, prefixes, count, size):
        return await of_server(self, prefixes, size, size)

    async def noted(self, prefixes, count, size):
        known.append((count, size))
        return await of_server(self, prefixes, count, size)

    monkeypatch.setattr(ServerSearch, "_logprobs", noted)
    requests = [request(text) for text in TEXTS]
    answers = ask(tmp_path / "some", weights, *requests, samples=3)
    monkeypatch.setattr(ServerSearch, "_logprobs", all_known)
    full = ask(tmp_path / "all", weights, *requests, samples=3)
    assert [[c.text for c in cs] for cs in answers] == [[c.text for c in cs] for cs in full]
    assert max(count for count, _ in known) < min(size for _, size in known) == 1000
    clauses = clauses_of(requests[0].constraints)
    texts = [c.text for cs in answers for c in cs if c.status in ("ok", "length")]
    assert len(texts) > 6 and not any(map(clauses.mistake, texts))
    free = ask(tmp_path / "free", weights, *(request(text, clauses=[]) for text in TEXTS))
    assert all(clauses.mistake(c.text) for (c,) in free), "few texts meet them by chance"


@pytest.mark.parametrize("kind", ["text", "chat", "user"])
def test_the_answers_are_those_of_transformers(folder, weights, tmp_path, kind):
    """llama.cpp keeps keys and values with 16 bits: an answer may be another one that is as likely."""
    options = {"chat": kind != "text", "write": "user" if kind == "user" else None}
    requests = [request(text, **options) for text in TEXTS]
    model, theirs = in_transformers(folder, *requests)
    ours = ask(tmp_path, weights, *requests)
    same = 0
    for one, (answer,), (other,) in zip(requests, ours, theirs, strict=True):
        assert answer.status == settled(one, other).status and answer.input_tokens == other.input_tokens
        pair = [mean_logprob(model, one, completion.text) for completion in (answer, other)]
        assert pair[0] == pytest.approx(pair[1], abs=0.02)
        same += answer.text == other.text
    assert same >= 4


def mean_logprob(model, one, text):
    ((completion,),) = model.scored([model.tokens(one)], [text or "x"], 0)
    return sum(value for _, value, _ in completion.logprobs) / len(completion.logprobs)


def test_a_dead_end_names_its_clause(weights, tmp_path):
    impossible = [*CLAUSES, {"any": ["zebra crossing elephant"], "at_least": 2}]
    ((failed,),) = ask(tmp_path, weights, request(clauses=impossible))
    assert failed.status == "failed" and "clause 3, at least 2 of 'zebra crossing elephant'" in failed.error


LEDGER = "answers.sqlite3"
PIPELINE = """# ask.yaml: texts with words
version: 1
models:
  lm: {{provider: embedded, model: {weights}, api: completions, threads: 1, context: 256}}
stages:
  - source: {{path: data/rows.jsonl}}
  - generate:
      {{model: lm, template: "{{{{ ask }}}}", output: said, n: 2, max_tokens: 8, take_cut_off: true,
       constraints: [{{any: ["{{{{ word }}}}"]}}], search: {search}}}
"""


def answers_in(project):
    """The number of answers in the ledger."""
    try:
        with closing(sqlite3.connect(f"file:{project.path / LEDGER}?mode=ro", uri=True)) as database:
            return database.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # there is none yet
        return 0


def test_a_killed_search_is_done_again_and_nothing_else(project, weights):
    words = ["warranty", "License", "copyright", "granted"]
    rows = [{"ask": ask, "word": word} for ask in ("What?", "You may") for word in words]
    project.rows("data/rows.jsonl", rows)
    project.write("pipelines/free.yaml", PIPELINE.format(weights=weights, search="{beam: 6}"))
    refused = project.cli("check", "free", check=2).stderr
    assert "(embedded) cannot do constraints" in refused and "setting: fine_tuned" in refused
    project.write("pipelines/ask.yaml", PIPELINE.format(weights=weights, search="{beam: 6, prune: 200}"))
    project.cli("run", "ask", "--out", "whole", check=None)
    whole = project.read("whole/corpus.jsonl")
    assert len(whole) > 8 and all(row["word"].lower() in row["said"].lower() for row in whole)
    assert {row["meta"]["made"][-1]["constrained_by"] for row in whole} == {"neurologic"}
    killed = ["run", "ask", "--out", "killed", "--ledger", LEDGER]
    project.kill_at([2, 8], [sys.executable, "-m", "distillgen", *killed], LEDGER)
    project.cli(*killed, check=None)
    assert project.read("killed/corpus.jsonl") == whole and answers_in(project) == 2 * len(rows)


def test_a_run_that_is_interrupted_ends_its_searches(project, weights):
    project.rows("data/rows.jsonl", [{"ask": f"No {i}", "word": "warranty"} for i in range(400)])
    project.write("pipelines/ask.yaml", PIPELINE.format(weights=weights, search="{beam: 6, prune: 200}"))
    process = subprocess.Popen(
        [sys.executable, "-m", "distillgen", "run", "ask", "--ledger", LEDGER],
        cwd=project.path,
        env=project.env(),
        stderr=subprocess.PIPE,
    )
    limit = time.monotonic() + 60
    while time.monotonic() < limit and answers_in(project) < 4:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - begun < 10
