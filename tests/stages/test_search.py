"""A search tries each choice once, survives kills and failures, keeps its cap, and sees no test records."""

import json
import math
import sys

import pytest

import distillgen
from distillgen.algorithms.rank_correlation import kendall_tau
from distillgen.errors import BudgetStop, ConfigError
from distillgen.inference.request import Completion
from distillgen.runs.directory import read_records
from distillgen.runs.progress import follow
from distillgen.runs.run import run_pipeline
from distillgen.runs.state import Options
from distillgen.stages._choices import with_choices
from distillgen.stages._proposals import Proposals, size_of
from tests.endpoint import Endpoint, completion

ROWS = [
    {"q": f"{split} {i}", "gold": str(i), "split": split}
    for split, count in (("train", 6), ("validation", 4), ("test", 4))
    for i in range(count)
]
TEMPLATES = ["{{ q }} plain", "{{ q }} with care"]
PRICE = {"input": 0, "output": 1_000_000}  # a dollar a token


class Teacher:
    """Knows the answer if it is asked with care; keeps what it was asked."""

    def __init__(self):
        self.asked = []
        self.dies_after = math.inf

    def __call__(self, request, sample):
        if len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        text = request.messages[-1]["content"]
        self.asked.append(text)
        answer = text.split()[1]
        right = "care" in text or answer in "01"
        return Completion(text=answer if right else "wrong", input_tokens=0, output_tokens=1)


def pipeline(**options):
    ask = {"name": "ask", "model": "t", "template": TEMPLATES[0], "output": "answer", "max_tokens": 1}
    long = {"filter": [{"word_count": {"field": "q", "min_words": 1}}]}
    judge = {
        "split": "validation",
        "models": ["t"],
        "template": TEMPLATES[0],
        "gold": "gold",
        "metrics": ["exact"],
        "max_tokens": 1,
    }
    search = {
        "stages": [{"generate": ask}, long, {"evaluate": judge}],
        "space": {"ask.template": TEMPLATES, "evaluate.template": TEMPLATES},
        "by": "evaluate.t.exact",
    }
    models = {"t": {"provider": "scripted", "model": "echo", "price": PRICE, "max_concurrency": 1}}
    return {
        "version": 1,
        "models": models,
        "stages": [{"source": {"path": "rows.jsonl"}}, {"search": {**search, **options}}],
    }


def marks_of(run):
    """When each trial ended."""
    marks = (run.directory / "search").glob("*/trial.json")
    return {mark: mark.stat().st_mtime_ns for mark in marks if mark.parent.name != "best"}


def trials_of(run, name="search"):
    return [json.loads(line) for line in (run.directory / name / "trials.jsonl").read_text().splitlines()]


@pytest.fixture
def search(project, monkeypatch):
    project.rows("rows.jsonl", ROWS)
    monkeypatch.chdir(project.path)

    def carry_out(teacher=None, out="run", limits=None, **options):
        teachers = {"t": teacher or Teacher()}
        return distillgen.run(pipeline(**options), out=out, teachers=teachers, **(limits or {}))

    return carry_out


def test_the_best_choice_is_found_and_its_records_leave(search):
    teacher = Teacher()
    run = search(teacher)
    trials = trials_of(run)
    assert [trial["value"] for trial in trials] == [0.5, 1.0, 0.5, 1.0]  # the second path changes fastest
    assert {trial["status"] for trial in trials} == {"finished"}
    assert json.loads((run.directory / "search/search.json").read_text())["best"] == 1
    answers = {
        record.fields["q"]: record.fields["answer"] for record in read_records(run.directory / "corpus.jsonl")
    }
    assert len(answers) == len(ROWS) and answers["train 5"] == "wrong", "not the records of the best trial"
    assert (
        search(best="lowest", out="low")
        .directory.joinpath("search/search.json")
        .read_text()
        .count('"best":0')
    )
    # trials share answers: each of the two prompts was asked once about each row, and no test row for a score
    assert len(teacher.asked) == len(set(teacher.asked)) == 2 * len(ROWS)


def test_the_progress_names_no_trial_after_the_search(project, monkeypatch):
    project.rows("rows.jsonl", ROWS)
    monkeypatch.chdir(project.path)
    notes = []

    async def watch(live):
        await follow(live, lambda progress: notes.append(progress.stages[1].note))

    run_pipeline(distillgen.load(pipeline()), project.path / "run", Options(), watch)
    assert notes[-1] == ""


def test_no_test_record_is_asked_about_to_choose(search):
    teacher = Teacher()
    search(teacher, space={"evaluate.template": ["{{ q }} judged"]})
    judged = [text for text in teacher.asked if text.endswith("judged")]
    assert len(judged) == 4 and all(text.startswith("validation") for text in judged)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "test"}, "asks about test records, and the search would choose by them"),
        ({"split": None}, "asks about test records, and the search would choose by them"),
    ],
)
def test_a_search_by_test_records_is_refused(search, changes, says):
    stages = pipeline()["stages"][1]["search"]["stages"]
    stages[2]["evaluate"] |= changes
    with pytest.raises(ConfigError, match=says):
        search(stages=stages)


def test_a_file_that_the_search_chooses_by_is_not_reported_later(search, project):
    project.rows("items.jsonl", ROWS[:3])
    wanted = pipeline()
    judge = wanted["stages"][1]["search"]["stages"][2]["evaluate"]
    del judge["split"]
    judge["data"] = "items.jsonl"
    distillgen.load(wanted)
    wanted["stages"].append({"evaluate": {**judge, "name": "last"}})
    with pytest.raises(ConfigError, match="the search chooses by 'items.jsonl'"):
        distillgen.load(wanted)


def test_a_killed_search_goes_on_and_runs_no_finished_trial_again(search):
    whole = Teacher()
    expected = trials_of(search(whole, out="whole"))
    teacher = Teacher()
    teacher.dies_after = len(ROWS) + 6  # within the second trial
    with pytest.raises(BaseException):  # noqa: B017
        search(teacher)
    teacher.dies_after = math.inf
    run = search(teacher)
    before = marks_of(run)
    assert len(before) == 4
    trials = trials_of(run)
    assert [(t["choices"], t["value"]) for t in trials] == [(t["choices"], t["value"]) for t in expected]
    assert sorted(teacher.asked) == sorted(whole.asked), "an answer was asked for twice, or never"
    more = search(
        teacher, space={"ask.template": [*TEMPLATES, "{{ q }} again"], "evaluate.template": TEMPLATES}
    )
    assert before.items() <= marks_of(more).items()
    assert len(trials_of(more)) == 6


def test_sigkill_in_a_search_buys_no_answer_twice(project):
    def answer(body, times):
        text = body["messages"][-1]["content"]
        right = "care" in text or text.split()[1] in "01"
        content = text.split()[1] if right else "wrong"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        return completion(body, choices=[choice], usage={"prompt_tokens": 0, "completion_tokens": 1})

    project.rows("rows.jsonl", ROWS)
    with Endpoint(answer, latency_s=0.02) as endpoint:
        wanted = pipeline(within={"usd": 50.0})
        wanted["models"]["t"] |= {
            "provider": "openai",
            "model": "m",
            "api_key": "k",
            "base_url": endpoint.url,
        }
        project.write("pipelines/find.yaml", f"# find.yaml: a search\n{json.dumps(wanted)}")
        assert "cost: at most $50.00" in project.cli("check", "find").stdout
        command = [sys.executable, "-m", "distillgen", "run", "find"]
        project.kill_at(
            [3, len(ROWS) + 6], command, "runs/ledger.sqlite3"
        )  # in the first trial and in the second
        project.cli("run", "find")
        assert len(endpoint.asked) == 2 * len(ROWS)
        again = len(endpoint.bodies) - len(endpoint.asked)
        assert again <= 2, "more was asked again than was in flight at two kills, one request each"
        usage = json.loads((project.path / "runs/find/usage.json").read_text())
        # a dollar an answer; what is in flight at a kill may have been paid for, and counts
        assert 0 <= usage["totals"]["cost_usd"] - 2 * len(ROWS) <= 2
        assert [trial["value"] for trial in project.read("runs/find/search/trials.jsonl")] == [0.5, 1.0] * 2
        project.cli("run", "find")
        assert len(endpoint.bodies) - again == 2 * len(ROWS), "a finished search asked again"


def test_a_trial_that_fails_says_why_and_the_search_goes_on(search):
    space = {"evaluate.where": ["{{ false }}", "{{ true }}"]}
    run = search(space=space)
    failed, finished = trials_of(run)
    assert failed["status"] == "failed" and "no record is left to ask about" in failed["reason"]
    assert finished["status"] == "finished" and run.state["stages"][1]["measured"]["failed"] == 1
    with pytest.raises(ConfigError, match="no trial has a value: .*no record is left"):
        search(space={"evaluate.where": ["{{ false }}"]}, out="none")


def test_the_money_of_the_search_is_never_exceeded(search):
    run = search(within={"usd": 20.0})  # the first trial costs 14, the second 4 more, the third 10 more
    trials = trials_of(run)
    assert [trial["status"] for trial in trials] == ["finished", "finished", "skipped", "skipped"]
    assert "usd: 20 may be spent" in trials[2]["reason"]
    spent = sum(use["cost_usd"] for use in run.state["usage"])
    assert 18 <= spent <= 20 and spent == pytest.approx(sum(trial["usd"] for trial in trials))
    run = search(within={"usd": 40.0})  # more money: what was skipped goes on, and what was paid for stays
    assert [trial["status"] for trial in trials_of(run)] == ["finished"] * 4
    with pytest.raises(BudgetStop):  # the cap of the run stops the run, not a trial
        search(within={"usd": 40.0}, out="capped", limits={"max_cost_usd": 16.0})


def test_what_a_judge_of_a_trial_costs_is_of_the_trial(search):
    stages = pipeline()["stages"][1]["search"]["stages"]
    stages[1] = {"filter": [{"judge": {"model": "t", "rubric": "Good.", "fields": ["answer"]}}]}

    class Judge(Teacher):
        def __call__(self, request, sample):
            if len(request.messages) == 1:
                return super().__call__(request, sample)
            return Completion(text='{"reason": "Good.", "score": 9}', input_tokens=0, output_tokens=1)

    run = search(Judge(), stages=stages, space={"ask.template": TEMPLATES})
    usage = run.state["usage"]
    assert any(use["stage"] == "filter/judge" and use["cost_usd"] for use in usage)
    spent = sum(trial["usd"] for trial in trials_of(run))
    assert spent == pytest.approx(sum(use["cost_usd"] for use in usage))


def test_the_plan_has_the_bound_of_all_trials(project, monkeypatch):
    project.rows("rows.jsonl", ROWS)
    monkeypatch.chdir(project.path)
    of_one, of_all = (
        distillgen.load(pipeline(space=space)).plan()[-1][1]
        for space in ({"ask.template": TEMPLATES[:1]}, {"ask.template": TEMPLATES, "ask.n": [1, 3]})
    )
    assert of_all.requests > 2 * of_one.requests and of_all.max_cost_usd > 2 * of_one.max_cost_usd
    two = distillgen.load(
        pipeline(space={"ask.template": TEMPLATES, "ask.n": [1, 3]}, strategy="random", n=2)
    ).plan()[-1][1]
    assert of_one.max_cost_usd < two.max_cost_usd < of_all.max_cost_usd


def plan_of(search, prompts=TEMPLATES, **space):
    options = {"space": {"ask.template": prompts, **space}, **search}
    return distillgen.load(pipeline(**options)).plan()[-1][1]


def test_the_plan_counts_a_request_that_trials_share_once_and_keeps_to_the_cap(project, monkeypatch):
    project.rows("rows.jsonl", ROWS)
    monkeypatch.chdir(project.path)
    one = plan_of({}, TEMPLATES[:1])
    # the threshold comes behind the prompt, and before the judge
    thresholds = plan_of({}, TEMPLATES[:1], **{"filter.word_count.min_words": [1, 2, 3]})
    asked, judged = one.requests / 2, one.requests / 2
    assert one.requests == 2 * len(ROWS) and thresholds.requests == asked + 3 * judged
    # of two judges, each trial asks one: the prompt before them counts once, too
    judges = plan_of({}, TEMPLATES[:1], **{"evaluate.template": TEMPLATES})
    assert judges.requests == asked + 2 * judged
    everything = plan_of({})
    assert everything.max_cost_usd == 2 * one.max_cost_usd > 50
    assert plan_of({"within": {"usd": 50.0}}).max_cost_usd == 50.0
    assert plan_of({"within": {"usd": 5000.0}}).max_cost_usd == everything.max_cost_usd
    assert plan_of({}, **{"ask.n": [1, 3]}).rows == 3 * len(ROWS)
    assert plan_of({"keep": 0}, **{"ask.n": [1, 3]}).rows == len(ROWS), "the records leave as they came"
    monkeypatch.setattr("distillgen.stages.search.MOST_PLANNED", 1)
    unbounded = plan_of({"strategy": "random", "n": 2})
    assert unbounded.max_cost_usd is unbounded.requests is None
    assert plan_of({"strategy": "random", "n": 2, "within": {"usd": 9.0}}).max_cost_usd == 9.0
    monkeypatch.setitem(PRICE, "output", 0)
    assert plan_of({}).max_cost_usd == 0.0, "what costs nothing has a bound"


@pytest.mark.parametrize(
    ("model", "stage", "says"),
    [
        ({"price": None}, {}, r"within: \{usd: 5\}: model 't' has no price; add price"),
        ({}, {"max_tokens": None}, r"within: \{usd: 5\}: stage 'ask' has no max_tokens"),
        ({}, {}, None),
    ],
)
def test_a_cap_that_could_not_hold_is_refused(project, monkeypatch, model, stage, says):
    project.rows("rows.jsonl", ROWS)
    monkeypatch.chdir(project.path)
    wanted = pipeline(within={"usd": 5})
    wanted["models"]["t"] = {"provider": "openai", "model": "m", "api_key": "k", "price": PRICE, **model}
    wanted["stages"][1]["search"]["stages"][0]["generate"] |= stage
    if says is None:
        distillgen.load(wanted)
    else:
        with pytest.raises(ConfigError, match=says):
            distillgen.load(wanted)


def test_arms_are_searches_beside_it(search):
    run = search(arms={"worst": {"best": "lowest"}})
    assert [trial["value"] for trial in trials_of(run, "search-worst")] == [0.5, 1.0, 0.5, 1.0]
    assert json.loads((run.directory / "search-worst/search.json").read_text())["best"] == 0


def test_drops_inside_are_counted_once_by_the_search_that_made_them(search):
    stages = pipeline()["stages"][1]["search"]["stages"]
    stages[1] = {"filter": [{"exact": {"field": "answer", "gold": "gold"}}]}
    run = search(stages=stages, arms={"again": {"n": 5}})
    assert {record.dropped.stage for record in run.dropped} == {"search.filter"}
    assert [sum(stage["dropped"].values()) for stage in run.state["stages"]] == [0, 8, 0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"space": {"aks.template": TEMPLATES}},
            "'aks.template' names no stage of the search; did you mean 'ask'",
        ),
        ({"space": {"ask": ["a", "b"]}}, "'ask' is no option: write STAGE.OPTION"),
        (
            {"space": {"filter.wordcount.min_words": [1, 2]}},
            "the list has no entry 'wordcount'; did you mean 'word_count'",
        ),
        ({"space": {"ask.templat": TEMPLATES}}, "with ask.templat: .*did you mean 'template'"),
        ({"space": {"ask.template": ["{{ x }}", "{{ q }}"]}}, "needs the field 'x'"),
        ({"space": {"ask.template": [TEMPLATES[0]] * 2}}, "needs choices that differ"),
        (
            {"by": "evalute.t.exact"},
            "begins with the name of no stage of the search; did you mean 'evaluate'",
        ),
        ({"by": "dishwot"}, "there is no score 'dishwot'; did you mean 'diswot'"),
        ({"by": "parameters"}, "score 'parameters' is of networks"),
        ({"n": 3}, "all tries 4 combinations, and n is 3; give n: 4"),
        (
            {"by": "evaluate.t.exactly"},
            "the trial has no measure 'evaluate.t.exactly'; did you mean 'evaluate.t.exact'",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(search, options, says):
    with pytest.raises(ConfigError, match=says):
        search(**options)


def test_choices_go_into_mappings_lists_and_filters():
    stages = [
        {"filter": ["exact", {"word_count": {"name": "short", "max_words": 3}}]},
        {"train": {"losses": [{"a": None}]}},
    ]
    changed = with_choices(
        stages, {"filter.short.max_words": 9, "train.losses.0.a.weight": 0.5, "train.student.mlp": [8]}
    )
    assert changed[0]["filter"][1]["word_count"]["max_words"] == 9
    assert changed[1]["train"] == {"losses": [{"a": {"weight": 0.5}}], "student": {"mlp": [8]}}
    assert stages[1]["train"]["losses"] == [{"a": None}], "the stages as written were changed"


SPACE = {"a.x": [*range(6)], "a.y": [*range(5)]}


def proposed(strategy, seed=0, n=12, goal=(4, 3)):
    """What a strategy proposes where the value falls with the distance from a goal."""
    proposals, order = Proposals(SPACE, strategy, n, seed, lowest=False), []
    for choices in proposals:
        order.append(tuple(choices.values()))
        proposals.tell(choices, -abs(order[-1][0] - goal[0]) - abs(order[-1][1] - goal[1]))
    return order


@pytest.mark.parametrize("strategy", ["random", "tpe", "evolution"])
def test_a_strategy_proposes_nothing_twice_and_the_same_for_a_seed(strategy):
    if strategy != "random":
        pytest.importorskip("optuna")
    order = proposed(strategy)
    assert len(order) == len({*order}) == 12 and order == proposed(strategy) != proposed(strategy, seed=1)
    assert len({*proposed(strategy, n=99)}) <= size_of(SPACE)
    if strategy == "random":
        assert order == proposed(strategy, goal=(0, 0)), "chance looked at the values"
        assert len({*proposed(strategy, n=99)}) == size_of(SPACE)
    else:
        assert order != proposed(strategy, goal=(0, 0)), "the strategy does not look at the values"


def test_kendalls_tau():
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    # 5 of 6 pairs agree but one is tied in the first: (5 - 0) / sqrt(5 · 6)
    assert kendall_tau([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(30))
    assert kendall_tau([1, 1], [1, 2]) == 0.0
