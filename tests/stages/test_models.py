"""Several models in one `generate`: who answers, what is asked again, and what the plan promises."""

from collections import Counter, defaultdict

import pytest
from pyarrow.parquet import read_table

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.pipeline.load import load
from distillgen.runs.directory import Rows
from distillgen.runs.export_signals import export_signals

PRICE = {"a": 1.0, "b": 10.0, "c": 100.0}
SIX = "abcdef"


def pipeline(count=3, models="abc", more=(), **options):
    entries = {
        name: {"provider": "scripted", "model": f"model-{name}", "price": {"output": PRICE.get(name, 1.0)}}
        for name in models
    }
    stage = {"model": list(models), "template": "{{ topic }}", "output": "text", "max_tokens": 5, **options}
    return {
        "version": 1,
        "models": entries,
        "stages": [{"source": {"path": f"rows-{count}.jsonl"}}, {"generate": stage}, *more],
    }


def checked(wanted, sets=()):
    return load(wanted, sets, scripted=wanted["models"])


@pytest.fixture
def run(project):
    """Run a pipeline on teachers that answer with their names, and count the requests of each."""
    counts = Counter()

    def run_pipeline(wanted, count=3, out="run", answer=lambda name, request: name, **options):
        project.rows(f"rows-{count}.jsonl", [{"topic": f"t{i}", "card": SIX[i % 3]} for i in range(count)])

        def teacher(name):
            def script(request, sample):
                counts[name] += 1
                return answer(name, request)

            return script

        teachers = {name: teacher(name) for name in wanted["models"]}
        counts.clear()
        return distillgen.run(wanted, out=out, teachers=teachers, **options)

    run_pipeline.counts = counts
    return run_pipeline


def answers(run):
    """The texts about each source row, in order."""
    by_row = defaultdict(list)
    for record in Rows(run.directory / "corpus.jsonl"):
        by_row[record.source].append(record.fields["text"])
    return list(by_row.values())


def test_every_model_answers_and_the_rows_say_which(run, project):
    made = run(pipeline(n=2, draws=2, author="by"))
    assert answers(made) == [list("aaaabbbbcccc")] * 3
    rows = project.read("run/corpus.jsonl")
    assert [row["by"] for row in rows] == [row["text"] for row in rows]
    assert [row["meta"]["made"][0]["teacher"] for row in rows] == [row["text"] for row in rows]
    assert {row["text"]: row["meta"]["made"][0]["model"] for row in rows} == {
        name: f"model-{name}" for name in "abc"
    }
    assert len({row["meta"]["id"] for row in rows}) == 36
    assert made.state["stages"][1]["measured"] == {"identical requests": 9}  # the second draw of each


def test_a_list_of_one_gives_the_rows_and_asks_the_requests_of_a_single_model(run, project):
    run(pipeline(models="a"))
    listed = project.read("run/corpus.jsonl")
    run(pipeline(models="a", model="a"))
    assert not run.counts
    plain = project.read("run/corpus.jsonl")
    assert {row["meta"]["made"][0].pop("teacher") for row in listed} == {"a"}
    assert listed == plain  # the same ids too


def test_four_of_six_are_drawn_evenly_and_in_the_order_of_the_list(run):
    from scipy.stats import chisquare

    made = run(pipeline(1500, SIX, pick=4), 1500)
    picks = answers(made)
    assert len(picks) == 1500 and all(len(names) == 4 and sorted(names) == names for names in picks)
    by_model = Counter(name for names in picks for name in names)
    assert sum(by_model.values()) == 6000 and chisquare([by_model[name] for name in SIX]).pvalue > 0.01
    by_set = Counter(map("".join, picks))
    assert len(by_set) == 15 and chisquare(list(by_set.values())).pvalue > 0.01
    skewed = [by_model[name] + (150 if name == "a" else -30) for name in SIX]
    assert chisquare(skewed).pvalue < 0.01  # the test sees a teacher that is drawn 15 % too often


def test_the_stage_and_the_seed_decide_the_draw(run):
    first = answers(run(pipeline(60, SIX, pick=2), 60))
    assert answers(run(pipeline(60, SIX, pick=2), 60, out="again")) == first
    assert answers(run(pipeline(60, SIX, pick=2) | {"seed": 1}, 60, out="seed")) != first
    assert answers(run(pipeline(60, SIX, pick=2, name="other"), 60, out="name")) != first


def test_a_larger_pick_or_another_model_asks_only_what_is_new(run):
    before = answers(run(pipeline(40, "abcde", pick=2), 40))
    more = answers(run(pipeline(40, "abcde", pick=3), 40))
    assert sum(run.counts.values()) == 40 and all(set(a) < set(b) for a, b in zip(before, more, strict=True))
    run(pipeline(40, "abcde"), 40)
    assert sum(run.counts.values()) == 80
    run(pipeline(40, SIX), 40)
    assert run.counts == {"f": 40}
    run(pipeline(40, SIX), 40)
    assert not run.counts


def test_the_template_names_the_model_and_an_unknown_name_is_a_reason(run):
    made = run(pipeline(6, "ab", pick="{{ card }} "), 6)
    assert answers(made)[:2] == [["a"], ["b"]] and run.counts == {"a": 2, "b": 2}
    assert {(r.dropped.filter, r.dropped.reason) for r in made.dropped} == {
        ("unrenderable", "pick: 'c' is none of the models a, b")
    }


def test_each_model_has_its_own_options_and_its_own_failure(run, project):
    asked = {}

    def answer(name, request):
        asked[name] = dict(request.sampling)
        return Completion("half", status="length") if name == "b" else name

    wanted = pipeline(1)
    wanted["stages"][1]["generate"].pop("max_tokens")
    wanted["models"]["b"] |= {"max_tokens": 7, "temperature": 0.5}
    made = run(wanted, 1, answer=answer)
    assert asked == {"a": {}, "b": {"temperature": 0.5, "max_tokens": 7}, "c": {}}
    assert [r.dropped.reason for r in made.dropped] == ["cut off at max_tokens 7"]
    run(wanted, 1, retry_failed=True)
    assert run.counts == {"b": 1} and [row["text"] for row in project.read("run/corpus.jsonl")] == list("abc")


def test_a_mark_keeps_the_failures_of_one_model(run):
    def answer(name, request):
        return Completion(status="refused", text="no") if name == "b" else name

    made = run(pipeline(1, mark="fit", author="by"), 1, answer=answer)
    assert [(r.fields["by"], r.fields["fit"]) for r in Rows(made.directory / "corpus.jsonl")] == [
        ("a", True),
        ("b", False),
        ("c", True),
    ]


@pytest.mark.parametrize(
    ("pick", "requests", "cost"), [(None, 6, 111), (2, 4, 110), ("{{ card }}", 2, 100)], ids=str
)
def test_the_plan_is_an_upper_bound(project, pick, requests, cost):
    project.rows("rows-3.jsonl", [{"topic": "t", "card": "a"}, {"topic": "u", "card": "c"}])
    _, (_, estimate) = checked(pipeline(pick=pick)).plan()
    assert (estimate.requests, estimate.rows, estimate.output_tokens) == (requests, requests, 5 * requests)
    assert estimate.max_cost_usd == pytest.approx(2 * 5 * cost / 1e6)


def test_a_model_without_a_limit_leaves_the_plan_without_a_bound(project):
    project.rows("rows-3.jsonl", [{"topic": "t"}])
    wanted = pipeline(max_tokens=None)
    for name in "ab":
        wanted["models"][name]["max_tokens"] = 5
    _, (_, estimate) = checked(wanted).plan()
    assert (estimate.requests, estimate.output_tokens, estimate.max_cost_usd) == (3, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ["a", "d"]}, "there is no model 'd'"),
        ({"model": ["a", "a"]}, "'model' names a model twice"),
        ({"model": []}, "names no model"),
        ({"pick": 4}, "at most the number of models, 3"),
        ({"pick": 0}, "'pick' is at least 1"),
        ({"pick": True}, "pick"),
        ({"pick": "card"}, "write a field"),
        ({"pick": "{{ crad }}"}, "did you mean 'card'"),
        ({"model": "a", "pick": 1}, "give 'model' a list"),
        ({"author": "text"}, "the same field 'text'"),
        ({"author": "meta"}, "distillgen's own"),
        ({"grammar": "root ::= 'a'"}, "model 'a' (scripted) cannot do grammar"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_before_anything_is_asked(project, options, message):
    project.rows("rows-3.jsonl", [{"topic": "t", "card": "a"}])
    with pytest.raises(ConfigError, match=".") as error:
        checked(pipeline(**options))
    assert message in str(error.value)


def test_the_card_and_an_override_know_the_models_of_a_list(run, project):
    made = run(pipeline(1, temperature=0.5, name="ask"), 1)
    assert "| ask | a, b, c |" in (made.directory / "README.md").read_text()
    project.rows("rows-3.jsonl", [{"topic": "t"}])
    with pytest.raises(ConfigError, match="use --set generate.temperature=0.1"):
        checked(pipeline(temperature=0.5, name="ask"), ["b.temperature=0.1"])


def test_exported_signals_have_the_tokenizer_of_the_model_that_answered(run, project):
    wanted = pipeline(1, "ab", logprobs=0)
    for name in "ab":
        wanted["models"][name]["tokenizer"] = f"of-{name}"
    made = run(wanted, 1, answer=lambda name, _: Completion(text=name, logprobs=[[name, -1.0, []]]))
    export_signals(made, project.path / "s.parquet")
    rows = read_table(project.path / "s.parquet").to_pylist()
    assert [(row["tokens"], row["tokenizer"]) for row in rows] == [(["a"], "of-a"), (["b"], "of-b")]


def test_exported_signals_of_stages_inside_rounds(run, project):
    """The loop asks `a` in a stage without a name, and `b` in one with a name, beside others."""
    inner = [
        {"generate": {"model": "a", "template": "{{ topic }} {{ round }}", "output": "x", "logprobs": 0}},
        {"rounds": {"name": "deep", "n": 1, "stages": [
            {"generate": {"name": "ask-b", "model": "b", "template": "{{ x }}", "output": "y", "logprobs": 0}}
        ]}},
        {"filter": [{"schema": {"field": "y", "pattern": "b"}}]},
        {"replay": None},
    ]  # fmt: skip
    wanted = pipeline(1, "ab")
    wanted["stages"][1:] = [{"rounds": {"n": 2, "stages": inner}}]
    for name in "ab":
        wanted["models"][name]["tokenizer"] = f"of-{name}"
    made = run(wanted, 1, answer=lambda name, _: Completion(text=name, logprobs=[[name, -1.0, []]]))
    export_signals(made, project.path / "s.parquet")
    rows = read_table(project.path / "s.parquet").to_pylist()
    seen = [(row["stage"], row["tokens"], row["tokenizer"]) for row in rows]
    assert seen == [("generate", ["a"], "of-a"), ("ask-b", ["b"], "of-b")]


def test_exported_signals_of_answers_that_an_earlier_run_got(run, project):
    wanted = pipeline(1, "a", model="a", name="earlier", logprobs=0)

    def answer(name, request):
        return Completion(text=name, logprobs=[[name, -1.0, []]])

    shared = {"answer": answer, "ledger": project.path / "shared.sqlite3"}
    run(wanted, 1, out="first", **shared)
    wanted["stages"] = [
        {"source": {"path": "first/corpus.jsonl", "lineage": True}},
        {
            "generate": {
                "name": "later",
                "model": "a",
                "template": "{{ text }}!",
                "output": "y",
                "logprobs": 0,
            }
        },
    ]
    export_signals(run(wanted, 1, out="second", **shared), project.path / "s.parquet")
    rows = read_table(project.path / "s.parquet").to_pylist()
    assert [(row["stage"], row["tokens"]) for row in rows] == [("earlier", ["a"]), ("later", ["a"])]
