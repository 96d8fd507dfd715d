"""The stage evaluate finds a planted truth and no shuffled one, asks held-out items only, and counts nothing
twice.
"""

import json
import math
import random
from pathlib import Path

import pytest

import distillgen
from distillgen.cli import show
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.inference.request import Completion
from distillgen.project import Project
from distillgen.stages.evaluate import Evaluate
from distillgen.stages.train import Train
from tests.stages.test_train import installed  # noqa: F401  as if every package were there


def rows(project, n=200, **more):
    project.rows(
        "rows.jsonl",
        [{"question": f"{i} + {i}?", "right": 2 * i, **{k: v(i) for k, v in more.items()}} for i in range(n)],
    )


def answers(share, wrong="It is 1.", seed=0):
    """A model that knows this share of the sums, and says `wrong` to the others."""

    def script(request, sample):
        asked = request.messages[-1]["content"]
        i = int(asked.partition(" ")[0])
        knows = random.Random(f"{seed}/{sample}/{i}").random() < share
        return f"The answer is {2 * i}." if knows else wrong

    script.__qualname__ = (
        f"answers({share}, {wrong!r}, {seed})"  # what tells one scripted model's answers from another's
    )
    return script


def evaluate(stage, scripts, source=None, out="out"):
    models = {name: {"provider": "scripted", "model": "echo"} for name in scripts}
    asked = [name for name in scripts if name != "judge"]
    stage = {"models": asked, "template": "{{ question }}", "gold": "right", "metrics": ["numeric"], **stage}
    pipeline = {
        "version": 1,
        "models": models,
        "stages": [{"source": {"path": "rows.jsonl", **(source or {})}}, {"evaluate": stage}],
    }
    run = distillgen.run(pipeline, out=out, teachers=scripts)
    return json.loads((run.directory / "evaluation.json").read_text()), run


def test_a_better_model_is_found_better_and_how_sure_that_is(project):
    rows(project)
    found, run = evaluate({}, {"good": answers(0.8), "poor": answers(0.4, seed=1)})
    good, poor = (found["models"][name]["metrics"]["numeric"] for name in ("good", "poor"))
    assert (
        good["n"] == 200
        and 0.68 < good["low"] < good["mean"] < good["high"] < 0.9
        and good["high"] - good["low"] < 0.15
    )
    (difference,) = found["comparisons"]
    assert (
        difference["difference"] == pytest.approx(good["mean"] - poor["mean"])
        and difference["low"] > 0.2
        and difference["p"] < 0.01
    )
    lines = [json.loads(line) for line in (run.directory / "evaluation.jsonl").read_text().splitlines()]
    assert len(lines) == 400 and {line["model"] for line in lines} == {"good", "poor"}
    wrong = [line for line in lines if line["reasons"]]
    assert sum(not line["reasons"] for line in lines if line["model"] == "good") == pytest.approx(
        200 * good["mean"]
    )
    assert wrong[0]["reasons"]["numeric"].startswith("1 is not ") and wrong[0]["gold"] == int(
        wrong[0]["reasons"]["numeric"].split()[-1]
    )


def test_two_equal_models_are_not_found_different(project):
    rows(project)
    found = []
    for seed in range(6):
        told, _ = evaluate(
            {}, {"one": answers(0.5, seed=seed), "other": answers(0.5, seed=seed + 50)}, out=f"out{seed}"
        )
        found += told["comparisons"]
    assert (
        sum(each["p"] < 0.05 for each in found) <= 1
        and sum(each["low"] <= 0 <= each["high"] for each in found) >= 5
    )


def test_no_answer_in_it_is_told_from_a_wrong_answer(project):
    rows(project, 60)
    found, _ = evaluate({}, {"mute": answers(0.5, wrong="I wonder."), "wrong": answers(0.5)})
    mute, wrong = found["models"]["mute"], found["models"]["wrong"]
    assert mute["metrics"]["numeric"]["mean"] == wrong["metrics"]["numeric"]["mean"]
    assert (
        mute["numbers"]["numeric.answered"] == mute["metrics"]["numeric"]["mean"]
        and wrong["numbers"]["numeric.answered"] == 1
    )


def test_only_held_out_items_are_asked_and_the_corpus_is_kept(project):
    rows(project)
    asked = []

    def script(request, sample):
        asked.append(request.messages[-1]["content"])
        return "1"

    found, run = evaluate({}, {"student": script}, source={"held_out": 0.2})
    held = {
        row.fields["question"]
        for row in distillgen.runs.directory.read_records(run.directory / "corpus.jsonl")
        if row.held_out
    }
    assert set(asked) == held and found["items"] == len(held) == len(asked) and len(list(run.dropped)) == 0
    evaluate({}, {"student": script}, source={"held_out": 0.2})
    assert len(asked) == len(held), "an answer was asked for again"


def test_validation_items_are_not_asked(project):
    rows(project, split=lambda i: ("train", "validation", "test", "test")[i % 4])
    found, _ = evaluate({}, {"good": answers(0.8)})
    assert found["items"] == 100


def test_a_student_is_not_asked_about_what_it_was_trained_on(project):
    made = Train(name="train", student="tiny").makes(Path(), Project(project.path))
    given = CheckContext(
        frozenset({"question"}), {"student": made["student"]}, Project(project.path), trained=frozenset(made)
    )
    stage = Evaluate(name="evaluate", models=["student"], template="{{ question }}", metrics=["finished"])
    with pytest.raises(
        ConfigError, match="the items would be the student's training records; give the source held_out: 0.1"
    ):
        stage.bind(given)
    with pytest.raises(ConfigError, match="'split: validation' needs a source with validation rows"):
        stage.model_copy(update={"split": "validation"}).bind(given)
    rows(project)
    project.rows("other.jsonl", [{"question": "3 + 3?", "right": 6}])
    found, _ = evaluate({"data": "other.jsonl"}, {"student": answers(1)})
    assert found["items"] == 1 and found["models"]["student"]["metrics"]["numeric"]["mean"] == 1


def test_pass_at_k_and_majority_over_several_samples(project):
    rows(project, 30)

    def script(request, sample):  # right, wrong in the same way, wrong in the same way, right, right
        i = int(request.messages[-1]["content"].partition(" ")[0])
        return f"The answer is {2 * i if sample in (0, 3, 4) else 2 * i + 1}."

    found, _ = evaluate({"n": 5, "vote": "number"}, {"m": script})
    numeric = found["models"]["m"]["metrics"]["numeric"]
    assert numeric["mean"] == pytest.approx(0.6) and found["models"]["m"]["answers"] == 150
    assert numeric["pass_at_k"] == {"1": pytest.approx(0.6), "2": pytest.approx(0.9), "4": 1, "5": 1}
    # over the five runs in a circle; 1-1 and 2-2 are won by what came first in the run
    assert numeric["majority_at_k"] == {
        "1": pytest.approx(0.6),
        "2": pytest.approx(0.6),
        "4": pytest.approx(0.8),
        "5": 1,
    }


def test_failed_answers_never_pass_and_unread_verdicts_are_left_out(project):
    rows(project, 20)

    def shaky(request, sample):
        if request.messages[-1]["content"].startswith("3 "):
            raise RuntimeError("down")
        return " " if request.messages[-1]["content"].startswith("4 ") else answers(1)(request, sample)

    judged = []

    def judge(request, sample):
        judged.append(str(request.messages))
        return "no grade" if "10 + 10" in judged[-1] else '{"reason": "fine", "score": 9}'

    metrics = [
        "numeric",
        {"judge": {"model": "judge", "rubric": "Is it right?", "fields": ["question", "answer"]}},
    ]
    found, _ = evaluate({"metrics": metrics}, {"m": shaky, "judge": judge})
    told = found["models"]["m"]
    assert told["failed"] == 1 and told["metrics"]["numeric"] == {
        **told["metrics"]["numeric"],
        "mean": 0.9,
        "n": 20,
    }
    assert told["numbers"]["numeric.answered"] == 0.9
    assert (
        told["metrics"]["judge"] == {**told["metrics"]["judge"], "mean": 17 / 19, "n": 19}
        and told["numbers"]["judge"] == 9
    )
    assert len(judged) == 18 and not any("3 + 3" in each or "4 + 4" in each for each in judged), (
        "a judge was paid for no answer"
    )


def test_an_item_with_an_unread_verdict_counts_in_no_figure(project):
    rows(project, 10)
    metrics = [{"judge": {"model": "judge", "rubric": "Is it right?", "fields": ["question", "answer"]}}]

    def judge(request, sample):
        text = str(request.messages)
        return (
            "no grade"
            if "10 + 10" not in text and "8 + 8" in text and "one" in text
            else '{"reason": "", "score": 9}'
        )

    def script(request, sample):
        return ["one", "two"][sample]

    found, _ = evaluate({"metrics": metrics, "n": 2, "vote": "text"}, {"m": script, "judge": judge})
    told = found["models"]["m"]["metrics"]["judge"]
    assert told["n"] == 9 and told["mean"] == 1 == told["pass_at_k"]["1"] == told["majority_at_k"]["2"], (
        "an unread grade was a bad one"
    )


def test_pairs_are_judged_in_both_orders(project):
    rows(project, 20)
    metric = [
        {"preferred": {"model": "judge", "rubric": "Which is right?", "over": "base", "fields": ["question"]}}
    ]
    first = evaluate(
        {"metrics": metric},
        {"base": answers(0), "new": answers(1), "judge": lambda *_: '{"reason": "", "better": "first"}'},
    )[0]
    assert (
        first["models"]["new"]["numbers"]["preferred.preference"] == 0
        and "preferred" not in first["models"]["base"]["metrics"]
    )

    def fair(request, sample):
        text = request.messages[-1]["content"]
        return json.dumps(
            {
                "reason": "",
                "better": "first" if text.find("The answer is") < text.find("It is 1.") else "second",
            }
        )

    fairly = evaluate({"metrics": metric}, {"base": answers(0), "new": answers(1), "judge": fair})[0]
    assert fairly["models"]["new"]["metrics"]["preferred"]["mean"] == 1
    asked = []
    models = {"base": lambda request, sample: f"sample {sample}", "new": answers(1), "judge": None}
    models["judge"] = lambda request, sample: asked.append(request.messages[-1]["content"]) or "second"
    evaluate({"metrics": metric, "n": 2}, models)
    assert asked and all("sample 0" in text and "sample 1" not in text for text in asked)


def scores(request, sample):
    """Gives a text a log-probability of minus its distance from the sum, in tens."""
    if request.target is None:
        return "no idea"
    i = int(request.messages[-1]["content"].partition(" ")[0])
    return Completion(logprobs=[[request.target, -abs(int(request.target) - 2 * i) / 10, []]])


def test_perplexity_counts_every_token_alike(project):
    from distillgen.inference.request import Completion

    project.rows(
        "rows.jsonl",
        [{"question": f"{i}", "right": "a " * (9 if i % 2 else 1), "kind": "k"} for i in range(4)],
    )

    def scores(request, sample):
        long = len(request.target.split()) == 9
        return Completion(logprobs=[["a", -1.0 if long else -4.0, []]] * (9 if long else 1))

    found, run = evaluate({"perplexity": True, "metrics": [], "by": "kind"}, {"m": scores})
    assert (
        found["models"]["m"]["perplexity"]
        == pytest.approx(math.exp(13 / 10))
        == found["groups"]["m"]["k"]["perplexity"]
    )
    measured = next(stage["measured"] for stage in run.state["stages"] if stage["name"] == "evaluate")
    assert measured["m.perplexity"] == pytest.approx(math.exp(13 / 10)) == measured["m.perplexity in k"]


def test_the_likeliest_option_and_the_perplexity_of_the_right_answer(project):
    rows(project, 20, options=lambda i: [str(2 * i + 30), str(2 * i), str(2 * i + 60)])
    project.rows(
        "rows.jsonl",
        [
            {"question": f"{i} + {i}?", "right": 2 * i, "options": [2 * i + 30, 2 * i, 2 * i + 60]}
            for i in range(20)
        ],
    )
    found, _ = evaluate({"options": "options", "perplexity": True, "metrics": []}, {"m": scores})
    told = found["models"]["m"]
    assert told["perplexity"] == 1 and told["likeliest_option"]["mean"] == 1
    sure = 1 / (1 + math.exp(-3) + math.exp(-6))
    assert told["ece"] == pytest.approx(1 - sure)


@pytest.mark.parametrize(
    "stage, told",
    [
        ({"models": ["teecher"]}, "there is no model 'teecher'; did you mean 'teacher'?"),
        ({"template": "{{ qestion }}"}, "did you mean 'question'?"),
        ({"gold": "rigth"}, "did you mean 'right'?"),
        ({"metrics": ["numerc"]}, "there is no filter 'numerc'"),
        ({"metrics": [{"numeric": {"field": "nothing"}}]}, "needs the field 'nothing'"),
        ({"metrics": []}, "nothing to measure"),
        ({"vote": "number"}, "a vote needs several samples"),
        ({"data": "none.jsonl"}, "there is no file 'none.jsonl'"),
        ({"prompt": "p"}, "give either 'prompt'"),
        ({"perplexity": True, "gold": None}, "need 'gold'"),
        ({"figures": ["macro_f1"], "gold": None}, "need 'gold'"),
        ({"figures": ["macro_f1"], "n": 2}, "'figures' are of one answer to each item: leave out n"),
        ({"figures": ["macrof1"]}, "macro_f1"),
        (
            {"figures": ["ece"]},
            "figures: ece needs the probabilities of the answers of 'teacher'; give logprobs: 5",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked(project, stage, told):
    rows(project, 3)
    with pytest.raises(ConfigError) as error:
        evaluate(stage, {"teacher": lambda *_: pytest.fail("asked")})
    assert told in str(error.value)


def test_evaluate_on_the_command_line_and_in_the_report(project):
    rows(project, 12)
    project.write(
        "script.py",
        "def right(request, sample):\n    return str(2 * int(request.messages[-1]['content'].split()[0]))\n",
    )
    common = ["--template", "{{ question }}", "--gold", "right", "--with", "numeric", "--with", "exact"]
    done = project.cli(
        "evaluate", "rows.jsonl", "--model", "m={provider: scripted, model: 'script.py:right'}", *common
    )
    assert "numeric          m              100.0%  (73.5% to 100.0%)" in done.stdout
    assert "95 % intervals: Clopper-Pearson (exact) of shares" in done.stdout
    page = (project.path / "runs/rows-evaluated/report.html").read_text()
    assert "The line is the 95 % interval over items: Clopper-Pearson (exact) of shares." in page
    again = project.cli(
        "evaluate",
        "rows-evaluated",
        "--model",
        "m={provider: scripted, model: 'script.py:right'}",
        *common,
        "-o",
        "again",
    )
    assert "numeric          m              100.0%" in again.stdout, (
        "a run is not found by its name under runs/"
    )
    assert "Evaluation" in page and "100%" in page
    project.write("script.py", "def failing(request, sample):\n    raise ValueError('no')\n")
    failing = (
        "evaluate",
        "rows.jsonl",
        "--model",
        "m={provider: scripted, model: 'script.py:failing'}",
        *common,
    )
    assert "m: failed 12" in project.cli(*failing, "-o", "f").stdout
    assert "asked now        nothing" in project.cli(*failing, "-o", "f").stdout
    assert "asked now        12 requests" in project.cli(*failing, "-o", "f", "--retry-failed").stdout
    assert "give a model to ask" in project.cli("evaluate", "rows.jsonl", *common, check=2).stderr
    assert "NAME=MODEL" in project.cli("evaluate", "rows.jsonl", "--model", "m", *common, check=2).stderr


def test_figures_by_group_are_those_of_each_groups_items(project):
    rows(project, 60, kind=lambda i: "even" if i % 2 == 0 else "odd")

    def script(request, sample):
        i = int(request.messages[-1]["content"].partition(" ")[0])
        return f"The answer is {2 * i if i % 2 == 0 or i < 10 else 1}."

    found, run = evaluate({"by": "kind"}, {"one": script})
    even, odd = found["groups"]["one"]["even"], found["groups"]["one"]["odd"]
    assert {**even, **odd} == {"items": 30, "numeric": 5 / 30, "intervals": odd["intervals"]} and even[
        "numeric"
    ] == 1
    about = even["intervals"]["numeric"]
    assert (
        about["low"] == pytest.approx(0.025 ** (1 / 30))
        and about["high"] == 1
        and about["method"].startswith("Clopper-Pearson")
    )
    measured = run.state["stages"][-1]["measured"]
    assert (
        measured["one.numeric in even"] == 1
        and measured["one.numeric in odd"] == 5 / 30
        and measured["one.numeric"] == 35 / 60
    )
    page = (run.directory / "report.html").read_text()
    assert "By kind" in page and "88.4% to 100.0%" in page
    with pytest.raises(ConfigError, match="'by' needs the field 'knd'.*did you mean 'kind'"):
        evaluate({"by": "knd"}, {"one": script})


def test_values_for_all_items_stand_in_the_question(project):
    rows(project, 5)
    asked = []

    def script(request, sample):
        asked.append(request.messages[-1]["content"])
        return "1"

    evaluate({"template": "{{ tone }}: {{ question }}", "with": {"tone": "briefly"}}, {"one": script})
    assert len(asked) == 5 and all(text.startswith("briefly: ") for text in asked)


def test_figures_over_all_verdicts_are_given_for_each_model(project):
    """A judge that likes what is shown first is found out for each model; one that looks at the answers is
    not.
    """
    rows(project, 8)
    metric = {
        "preferred": {
            "model": "judge",
            "rubric": "Which is right?",
            "field": "answer",
            "over": "gold",
            "keep_ties": True,
        }
    }

    def judge(request, sample):
        text = request.messages[-1]["content"]
        better = "second" if "First answer: Who knows?" in text else "first"
        return json.dumps({"reason": "", "better": better})

    scripts = {"good": answers(1), "poor": answers(0, wrong="Who knows?"), "judge": judge}
    found, run = evaluate({"metrics": ["numeric", metric], "models": ["good", "poor"]}, scripts)
    changes = "preferred: share of verdicts that change with the order"
    assert found["models"]["good"]["judges"][changes] == 1
    assert found["models"]["poor"]["judges"][changes] == 0
    measured = run.state["stages"][-1]["measured"]
    assert (
        measured[f"good.{changes}"] == 1
        and measured[f"poor.{changes}"] == 0
        and measured["good.numeric"] == 1
    )
    page = (run.directory / "report.html").read_text()
    assert page.count(f"<li>{changes} 1</li>") == 1 and page.count(f"<li>{changes} 0</li>") == 1


def test_an_item_that_cannot_be_asked_is_left_out_with_a_reason(project):
    rows(
        project,
        40,
        question=lambda i: [None, "", ["list"], f"{i} + {i}?"][i] if i < 4 else f"{i} + {i}?",
        right=lambda i: None if i == 9 else 2 * i,
    )
    found, run = evaluate({}, {"good": answers(1.0)})
    assert found["items"] == 36 and sum(found["left_out"].values()) == 4
    assert {why.partition(", which")[0] for why in found["left_out"]} == {
        "'question' is null",
        "there is nothing to say: 'question' is empty",
        "'question' is a list",
        "'right' is null",
    }
    assert found["models"]["good"]["metrics"]["numeric"]["mean"] == 1.0
    assert run.state["stages"][-1]["measured"]["items left out"] == 4
    rows(project, 3, question=lambda i: None)
    with pytest.raises(ConfigError, match="no item can be asked about: 'question' is null"):
        evaluate({}, {"good": answers(1.0)}, out="none")


def test_a_default_in_the_question_needs_no_field(project):
    rows(project, 5)
    found, _ = evaluate({"template": "{{ question }}{{ hint | default('') }}"}, {"good": answers(1.0)})
    assert found["items"] == 5


def test_each_answer_stands_with_its_scores_and_what_is_wrong_with_it(project):
    rows(project, 3)
    _, run = evaluate(
        {}, {"m": lambda request, sample: "2" if request.messages[-1]["content"].startswith("1 ") else "?"}
    )
    lines = [json.loads(line) for line in (run.directory / "evaluation.jsonl").read_text().splitlines()]
    assert [line["scores"]["numeric.answered"] for line in lines] == [0, 1, 0]
    assert [[*line["reasons"]] for line in lines] == [["numeric"], [], ["numeric"]]
    assert [(line["answer"], line["gold"], line["sample"], line["status"]) for line in lines] == [
        ("?", 0, 0, "ok"),
        ("2", 2, 0, "ok"),
        ("?", 4, 0, "ok"),
    ]


def test_a_metric_that_could_judge_nothing_has_no_share(project):
    rows(project, 3)
    metric = {"judge": {"model": "judge", "rubric": "Is it right?", "fields": ["answer"]}}
    found, run = evaluate({"metrics": ["numeric", metric]}, {"m": answers(1), "judge": lambda *_: "no grade"})
    assert (
        found["models"]["m"]["metrics"]["judge"]["n"] == 0
        and "mean" not in found["models"]["m"]["metrics"]["judge"]
    )
    assert found["models"]["m"]["metrics"]["numeric"]["n"] == 3 and (run.directory / "report.html").exists()


def labels(right, probability=0.8, always=""):
    """A model that says the sign of a number, right in this share, and how probable its answer is."""

    def script(request, sample):
        i = int(request.messages[-1]["content"].split()[0])
        sign = "odd" if i % 3 == 1 else "even"
        other = {"odd": "even", "even": "odd"}[sign]
        text = always or (sign if random.Random(f"{right}/{i}").random() < right else other)
        beside = [[f" {text}", math.log(probability * 0.75)], [text, math.log(probability * 0.25)]]
        rest = [["odd" if text == "even" else "even", math.log(1 - probability)]]
        return Completion(
            text=f" {text}", logprobs=[[f" {text}", math.log(probability * 0.75), beside + rest]]
        )

    script.__qualname__ = f"labels({right}, {probability}, {always!r})"
    return script


FIGURES = ["balanced_accuracy", "macro_f1", "ece"]


def signs(project, n=150):
    rows = [
        {"question": f"{i} + {i}?", "right": "odd" if i % 3 == 1 else "even", "kind": "ab"[i % 2]}
        for i in range(n)
    ]
    project.rows("rows.jsonl", rows)


def test_figures_of_all_answers_stand_wherever_metrics_stand(project, capsys):
    signs(project)
    stage = {"metrics": ["exact"], "figures": FIGURES, "logprobs": 3, "by": "kind"}
    scripts = {"good": labels(0.9, 0.9), "poor": labels(0.6, 0.99), "constant": labels(0.6, 0.6, "even")}
    told, run = evaluate(stage, scripts)
    good, poor, constant = (told["models"][name]["figures"] for name in scripts)
    assert constant["balanced_accuracy"]["mean"] == 0.5, "the larger class does not count more"
    assert told["models"]["constant"]["metrics"]["exact"]["mean"] == pytest.approx(2 / 3)
    assert constant["ece"]["mean"] == pytest.approx(abs(0.6 - 2 / 3), abs=1e-3)
    assert good["ece"]["mean"] < 0.1 < poor["ece"]["mean"] and good["macro_f1"]["low"] > 0.7
    assert set(good["macro_f1"]) == {"mean", "low", "high", "method", "n"} and good["macro_f1"]["n"] == 150
    differences = {(row["metric"], row["first"], row["second"]): row for row in told["comparisons"]}
    worse = differences["macro_f1", "good", "poor"]
    assert worse["difference"] > 0.15 and worse["low"] > 0 and worse["p"] < 0.01
    assert differences["ece", "good", "poor"]["high"] < 0
    group = told["groups"]["poor"]["a"]
    assert group["items"] == 75 and group["intervals"]["ece"]["low"] <= group["ece"] <= 0.6
    (stage_state,) = (stage for stage in run.state["stages"] if stage["kind"] == "evaluate")
    measured = stage_state["measured"]
    assert measured["poor.macro_f1"] == poor["macro_f1"]["mean"]
    assert measured["poor.ece in a"] == group["ece"]
    page = (run.directory / "report.html").read_text()
    assert "balanced_accuracy, macro_f1, ece: of all answers together" in page
    assert "<h3>macro_f1</h3>" in page and "double-or-nothing bootstrap" in page
    show.evaluation(run)
    shown = capsys.readouterr().out
    assert f"  macro_f1         good           {good['macro_f1']['mean']:6.1%}" in shown
    assert "good against poor, ece: " in shown


def test_an_answer_that_is_no_class_is_wrong_and_no_class(project):
    project.rows("rows.jsonl", [{"question": f"{i} + 0?", "right": "AB"[i % 2]} for i in range(4)])
    texts = ["a.", "The B", "perhaps", "B"]
    told, _ = evaluate(
        {"metrics": [], "figures": ["macro_f1", "balanced_accuracy"]},
        {"m": lambda request, _: texts[int(request.messages[-1]["content"][0])]},
    )
    figures = told["models"]["m"]["figures"]
    assert figures["balanced_accuracy"]["mean"] == 0.75
    assert figures["macro_f1"]["mean"] == pytest.approx((2 / 3 + 1) / 2)


def test_of_several_right_answers_the_class_is_the_one_that_was_answered(project):
    project.rows(
        "rows.jsonl", [{"question": f"{i} + 0?", "right": [["a"], ["b", "c"]][i % 2]} for i in range(4)]
    )
    told, _ = evaluate(
        {"metrics": [], "figures": ["macro_f1"]},
        {"m": lambda request, _: "acab"[int(request.messages[-1]["content"][0])]},
    )
    assert told["models"]["m"]["figures"]["macro_f1"]["mean"] == 1


def test_the_calibration_error_of_an_answer_of_several_tokens_is_of_their_product(project):
    project.rows("rows.jsonl", [{"question": f"{i} + 0?", "right": "yes no"} for i in range(4)])
    tokens = [["yes", math.log(0.5), []], [" no", math.log(0.5), []]]
    told, _ = evaluate(
        {"metrics": [], "figures": ["ece"], "logprobs": 2},
        {"m": lambda *_: Completion(text="yes no", logprobs=tokens)},
    )
    assert told["models"]["m"]["figures"]["ece"]["mean"] == pytest.approx(0.75)


def test_figures_of_the_likeliest_option(project):
    project.rows(
        "rows.jsonl",
        [
            {"question": f"{i} + {i}?", "right": 2 * i, "options": [2 * i + 30, 2 * i, 2 * i + 60]}
            for i in range(20)
        ],
    )
    told, _ = evaluate({"options": "options", "metrics": [], "figures": FIGURES}, {"m": scores})
    figures = told["models"]["m"]["figures"]
    assert figures["balanced_accuracy"]["mean"] == figures["macro_f1"]["mean"] == 1
    assert figures["ece"]["mean"] == pytest.approx(1 - 1 / (1 + math.exp(-3) + math.exp(-6)))
    assert "ece" not in told["models"]["m"] and told["models"]["m"]["answers"] == 0


def test_an_evaluation_without_figures_is_as_it_was(project):
    signs(project, 6)
    told, _ = evaluate({"metrics": ["exact"]}, {"m": labels(1.0)})
    assert "figures" not in told["models"]["m"]


def test_a_ranking_is_measured_by_its_ndcg_with_an_interval_and_a_paired_test(project):
    chance = random.Random(0)
    rows = [{"question": f"{i} + 0?", "relevance": chance.sample([0, 0, 0, 1, 2, 3], 6)} for i in range(40)]
    rows.append({"question": "40 + 0?", "relevance": [0, 0]})
    project.rows("rows.jsonl", rows)

    def ranks(noise):
        def script(request, sample):
            i = int(request.messages[-1]["content"].split()[0])
            own = random.Random(f"{noise}/{i}")
            if i == 1:
                return "I do not know"
            return json.dumps([value + own.gauss(0, noise) for value in rows[i]["relevance"]])

        script.__qualname__ = f"ranks({noise})"
        return script

    stage = {"metrics": ["ndcg", {"reciprocal_rank": {"name": "mrr"}}], "gold": None}
    told, _ = evaluate(stage, {"good": ranks(0.3), "poor": ranks(30)})
    good, poor = (told["models"][name]["metrics"]["ndcg"] for name in ("good", "poor"))
    assert good["n"] == 40, "a query without a relevant document has no NDCG"
    assert 0.85 < good["low"] < good["mean"] < good["high"] <= 1 and good["mean"] < 0.99
    ndcg, mrr = told["comparisons"]
    assert ndcg["difference"] == pytest.approx(good["mean"] - poor["mean"]) and ndcg["p"] < 0.01
    assert mrr["metric"] == "mrr" and mrr["low"] > 0.1


def test_answers_of_earlier_stages_are_judged_beside_those_of_a_model(project):
    """A field with right answers is found better than the model; one with the answers of others is not."""
    rows(project, 60, known=lambda i: 2 * i, shuffled=lambda i: 2 * i + 1, gap=lambda i: i or None)
    stage = {"answers": {"wise": "known", "confused": "shuffled", "gappy": "gap"}, "by": "right"}
    found, run = evaluate(stage, {"poor": answers(0.4)})
    means = {name: model["metrics"]["numeric"]["mean"] for name, model in found["models"].items()}
    assert means["wise"] == 1 and means["confused"] == 0 and 0.2 < means["poor"] < 0.6
    assert found["models"]["gappy"]["failed"] == 1 and found["models"]["wise"]["failed"] == 0
    (difference,) = [c for c in found["comparisons"] if (c["first"], c["second"]) == ("poor", "wise")]
    assert difference["difference"] < -0.4 and difference["p"] < 0.01
    assert found["groups"]["wise"]["118"]["numeric"] == 1
    lines = [json.loads(line) for line in (run.directory / "evaluation.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 60
    assert {line["answer"] for line in lines if line["model"] == "wise"} == {str(2 * i) for i in range(60)}


@pytest.mark.parametrize(
    "stage, message",
    [
        ({"answers": {"wise": "knwon"}}, "'answers'"),
        ({"answers": {"poor": "known"}}, "'poor' is one of the models"),
        ({"answers": {"wise": "known"}, "n": 2}, "one answer to each item"),
        (
            {"answers": {"wise": "known"}, "metrics": [], "perplexity": True},
            "judged by 'metrics' or 'figures'",
        ),
    ],
)
def test_answers_that_cannot_be_judged_are_refused(project, stage, message):
    rows(project, 3, known=lambda i: 2 * i)
    with pytest.raises(ConfigError) as error:
        evaluate(stage, {"poor": answers(0.4)})
    assert message in str(error.value)


def test_records_that_a_student_learns_are_items_only_where_the_test_is_about_them(project, caplog):
    """`where` chooses among them; what is held out cannot be about the training."""
    rows(project, 20, kind=lambda i: "test" if i % 2 else "fact")
    stage = {"about": "trained", "where": "{{ kind == 'test' }}"}
    found, run = evaluate(stage, {"good": answers(1)})
    assert found["items"] == 10 and found["models"]["good"]["metrics"]["numeric"]["mean"] == 1
    lines = [json.loads(line) for line in (run.directory / "evaluation.jsonl").read_text().splitlines()]
    assert {line["gold"] % 4 for line in lines} == {2}
    project.rows(
        "test.jsonl", [{"question": "1 + 1?", "right": 2, "kind": "test"}, {"question": "?", "right": 2}]
    )
    some, _ = evaluate({**stage, "data": "test.jsonl"}, {"good": answers(1)}, out="some")
    assert some["items"] == 1
    assert "the item test.jsonl:2 is left out: 'where': " in caplog.text
    everything, _ = evaluate({"about": "trained"}, {"good": answers(1)}, out="all")
    assert everything["items"] == 20
    with pytest.raises(ConfigError, match="no record is left to ask about"):
        evaluate({"where": "{{ kind == 'tset' }}"}, {"good": answers(1)}, out="none")
    with pytest.raises(ConfigError, match="'knid'"):
        evaluate({"where": "{{ knid }}"}, {"good": answers(1)}, out="wrong")
    with pytest.raises(ConfigError, match="'about: trained' needs 'data'"):
        evaluate({"about": "trained"}, {"good": answers(1)}, source={"held_out": 0.2}, out="held")


def test_a_student_is_asked_about_its_training_records_if_the_test_is_about_them(project, installed):  # noqa: F811
    rows(project, 6)
    train = {"train": {"student": "tiny", "prompt": "question", "completion": "right"}}
    ask = {"models": ["m"], "template": "{{ question }}", "gold": "right", "metrics": ["numeric"]}
    pipeline = {
        "version": 1,
        "models": {"m": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, train, {"evaluate": ask}],
    }
    with pytest.raises(ConfigError, match="the items would be the student's training records"):
        distillgen.load(pipeline)
    ask["about"] = "trained"
    distillgen.load(pipeline)
