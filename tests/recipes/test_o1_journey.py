"""The recipe o1-journey: kept problems and chains, two-stage training, and accuracy at token budgets."""

import importlib.util
import json
import random
import re
from itertools import pairwise, product
from statistics import fmean

import pytest
import yaml

import distillgen
from distillgen.answers.final_answer import boxed
from distillgen.project import home
from distillgen.runs.directory import read_records

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
SCRIPTED = {"provider": "scripted", "model": "echo"}


def slow(test):
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    skip = pytest.mark.skipif(
        bool(missing), reason=f"needs {', '.join(missing)}: pip install 'distillgen[train]'"
    )
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(skip(test)))


def recipe(**source):
    """The shipped pipeline up to its corpus: with a scripted teacher, and without students."""
    shipped = yaml.safe_load((home("pipelines") / "o1-journey.yaml").read_text())
    stages = [stage for stage in shipped["stages"] if not stage.keys() & {"train", "evaluate"}]
    return {
        "version": 1,
        "models": {"teacher": SCRIPTED},
        "stages": [{"source": {**stages[0]["source"], **source}}, *stages[1:]],
    }


class Sums:
    """Sums of digits modulo `base`: solved step by step, or by a chain that tries, checks and goes back; a
    quarter of the chains is wrong.
    """

    def __init__(self, count, *, base=10, wrong=0.25):
        asked = random.Random(0).sample([*product(range(base), repeat=4)], count)
        self.digits = {" + ".join(map(str, some)): some for some in asked}
        self.base, self.wrong, self.said = base, wrong, {}

    def gold(self, question):
        return sum(self.digits[question]) % self.base

    def rows(self, golds=None):
        golds = golds or map(self.gold, self.digits)
        return [
            {"number": i, "question": question, "solution": self.short(question), "gold": str(gold)}
            for i, (question, gold) in enumerate(zip(self.digits, golds, strict=True))
        ]

    def short(self, question):
        first, *others = self.digits[question]
        steps = []
        for digit in others:
            steps.append(f"{first} + {digit} = {(first + digit) % self.base}")
            first = (first + digit) % self.base
        return f"{' ; '.join(steps)} ; \\boxed{{{first}}}"

    def long(self, question, draw, wrong=False):
        first, *others = self.digits[question]
        steps, slip = [], draw.randrange(len(others)) if wrong else -1
        for i, digit in enumerate(others):
            result = (first + digit) % self.base
            while draw.random() < 0.3:  # a try that the check refutes
                tried = draw.choice([n for n in range(self.base) if n != result])
                steps.append(
                    f"{first} + {digit} = {tried} ? {tried} - {digit} = {(tried - digit) % self.base} , no"
                )
            result = (result + draw.randrange(1, self.base)) % self.base if i == slip else result
            steps.append(
                f"{first} + {digit} = {result} ? {result} - {digit} = {(result - digit) % self.base} , yes"
            )
            first = result
        return f"{' ; '.join(steps)} ; \\boxed{{{first}}}"

    def teach(self, request, sample):
        """Reformats by heart; a chain is wrong in a quarter of all samples."""
        text = request.messages[-1]["content"]
        question = re.search(r"\d(?: \+ \d)+", text)[0]
        if "short solution" in text:
            return self.short(question)
        draw = random.Random(f"{question}/{sample}")
        chain = self.long(question, draw, wrong=draw.random() < self.wrong)
        self.said[chain] = question
        return chain

    def right(self, question, chain):
        return boxed(chain) == str(self.gold(question))


def test_no_chain_with_a_wrong_final_answer_is_kept(project):
    sums = Sums(200)
    project.rows("sums.jsonl", sums.rows())
    run = distillgen.run(recipe(path="sums.jsonl"), out="run", teachers={"teacher": sums.teach})
    kept, dropped = (list(read_records(run.directory / f"{name}.jsonl")) for name in ("corpus", "dropped"))
    right = {chain: sums.right(question, chain) for chain, question in sums.said.items()}
    assert len(kept) + len(dropped) == 400 and 0.2 < 1 - fmean(right.values()) < 0.3
    assert all(right[record.fields["thought"]] for record in kept), "a wrong final answer was kept"
    lost = [record for record in dropped if record.dropped.filter == "boxed"]
    assert not any(right[record.fields["thought"]] for record in lost) and {
        record.dropped.filter for record in dropped
    } <= {"boxed", "unique"}
    assert all(record.fields["messages"][1]["content"] == record.fields["thought"] for record in kept)
    assert any(", no ;" in record.fields["thought"] for record in kept), "the chains that go back are gone"


def test_with_shuffled_golds_next_to_nothing_passes(project):
    sums = Sums(200)
    golds = [*map(sums.gold, sums.digits)]
    random.Random(1).shuffle(golds)
    project.rows("sums.jsonl", sums.rows(golds))
    run = distillgen.run(recipe(path="sums.jsonl"), out="run", teachers={"teacher": sums.teach})
    assert sum(1 for _ in read_records(run.directory / "corpus.jsonl")) < 0.2 * 400


def test_unverifiable_shipped_problems_are_dropped(project):
    problems = [
        json.loads(line) for line in (home("data") / "contest_problems.jsonl").read_text().splitlines()
    ]
    golds = {row["question"]: row["gold"] for row in problems}

    def teach(request, sample):
        question = next(question for question in golds if question in request.messages[-1]["content"])
        return distillgen.Completion(
            text=rf"So it is \boxed{{{golds[question]}}}, by way {sample}.", reasoning=f"Hm, {sample}. Wait."
        )

    run = distillgen.run(recipe(), out="run", teachers={"teacher": teach})
    reasons = [record.dropped.reason for record in run.dropped]
    assert sorted(reasons) == [
        "asks for a proof",
        "asks for a proof",
        "has no gold answer",
        "its gold answer is not a number",
        "its gold answer is not a number",
        "needs an image",
        "needs an image",
        "needs an image",
    ]
    kept = list(read_records(run.directory / "corpus.jsonl"))
    assert len(kept) == 2 * (len(problems) - len(reasons)) == 80
    assert kept[0].fields["messages"][1]["content"] == "Hm, 0. Wait.\n\n" + kept[0].fields["thought"]
    held_out = [
        json.loads(line)["question"]
        for line in (home("data") / "contest_problems_held_out.jsonl").read_text().splitlines()
    ]
    assert not set(held_out) & golds.keys()


def test_accuracy_grows_with_the_token_budget(project):
    """Right in 55 % of samples, else one of nine wrong answers: the more votes, the surer."""
    sums = Sums(120)
    project.rows("sums.jsonl", sums.rows())

    def solver(share, words):
        def script(request, sample):
            question = request.messages[-1]["content"]
            draw = random.Random(f"{share}/{question}/{sample}")
            right = sums.gold(question)
            answer = right if draw.random() < share else draw.choice([n for n in range(10) if n != right])
            return "so " * words + rf"\boxed{{{answer}}}"

        script.__qualname__ = f"solver({share}, {words})"
        return script

    stage = {
        "models": ["able", "blind"],
        "template": "{{ question }}",
        "gold": "gold",
        "metrics": ["boxed"],
        "n": 8,
        "vote": "boxed",
    }
    pipeline = {
        "version": 1,
        "models": {"able": SCRIPTED, "blind": SCRIPTED},
        "stages": [{"source": {"path": "sums.jsonl"}}, {"evaluate": stage}],
    }
    scripts = {"able": solver(0.55, 40), "blind": solver(0.1, 10)}
    run = distillgen.run(pipeline, out="run", teachers=scripts)
    written = (run.directory / "evaluation.json").read_bytes()
    models = json.loads(written)["models"]
    curve = [models["able"]["metrics"]["boxed"]["majority_at_k"][k] for k in ("1", "2", "4", "8")]
    assert all(later >= earlier for earlier, later in pairwise(curve)) and curve[-1] > curve[0] + 0.2
    blind = [models["blind"]["metrics"]["boxed"]["majority_at_k"][k] for k in ("1", "8")]
    assert blind[1] < blind[0] + 0.1, "a vote made right answers of blind guesses"
    usage = {each["model"]: each["output_tokens"] / each["answers"] for each in run.state["usage"]}
    assert {name: model["tokens"] for name, model in models.items()} == usage and usage["able"] > 2 * usage[
        "blind"
    ] > 0
    page = (run.directory / "report.html").read_text()
    paths = re.findall(r'<path class="curve"[^>]* d="(M[^"]+)"><title>(able|blind)</title>', page)
    assert [name for _, name in paths] == ["able", "blind"] and all(path.count("L") == 3 for path, _ in paths)
    heights = [float(spot.split()[1]) for spot in paths[0][0][1:].split("L")]
    assert heights == pytest.approx([100 - 100 * share for share in curve], abs=0.06)
    again = distillgen.run(pipeline, out="again", teachers=scripts, ledger=run.ledger)
    assert (again.directory / "evaluation.json").read_bytes() == written, (
        "answers from the ledger have other lengths"
    )


@slow
def test_the_second_training_continues_from_the_warm_up(project):
    """The tiny student learns the sums from short solutions, and then the chain's form; the control's short
    ones were another problem's.
    """
    sums = Sums(500, base=5)
    rows = sums.rows()
    project.rows("sums.jsonl", rows[:440])
    project.rows("held_out.jsonl", rows[440:])
    how = {"student": "tiny", "batch_size": 16, "learning_rate": 3e-3, "held_out": 0, "prompt": "question"}
    warm_up = {**how, "max_steps": 240, "completion": "reformatted"}
    names = ["student-warm-up", "student-warm-shuffled", "student"]
    stages = [
        {"source": {"path": "sums.jsonl"}},
        {
            "generate": {
                "name": "reformat",
                "model": "teacher",
                "prompt": "o1-journey/reformat",
                "output": "reformatted",
            }
        },
        {"train": {"name": "warm-up", **warm_up}},
        {"train": {"name": "warm-shuffled", "on": "shuffled", **warm_up}},
        {
            "generate": {
                "name": "thoughts",
                "model": "teacher",
                "prompt": "o1-journey/long-thought",
                "output": "thought",
            }
        },
        {"filter": [{"boxed": {"field": "thought"}}]},
        {"train": {**how, "student": "student-warm-up", "max_steps": 80, "completion": "thought"}},
        {
            "evaluate": {
                "models": names,
                "data": "held_out.jsonl",
                "template": "{{ question }}",
                "gold": "gold",
                "metrics": ["boxed"],
                "temperature": 0,
                "max_tokens": 160,
            }
        },
    ]
    run = distillgen.run(
        {"version": 1, "models": {"teacher": SCRIPTED}, "stages": stages},
        out="run",
        teachers={"teacher": sums.teach},
    )
    told = json.loads((run.directory / "evaluation.json").read_text())["models"]
    short, shuffled, long = (told[name] for name in names)
    assert short["metrics"]["boxed"]["mean"] > 0.7 and shuffled["metrics"]["boxed"]["mean"] < 0.4
    assert long["tokens"] > 1.5 * short["tokens"] and long["numbers"]["boxed.answered"] > 0.9


class Steps:
    """Applying n -> 7 n + 3 modulo 53 so many times: one step after the other, or by a chain that also tries
    what is wrong.
    """

    def __init__(self):
        self.asked = random.Random(0).sample([*product(range(53), (2, 3, 4, 5))], 212)

    def step(self, number):
        return (7 * number + 3) % 53

    def path(self, number, times):
        path = [number]
        for _ in range(times):
            path.append(self.step(path[-1]))
        return path

    def rows(self):
        return [
            {
                "question": f"from {number} , {times} steps",
                "solution": self.short(number, times),
                "gold": str(self.path(number, times)[-1]),
            }
            for number, times in self.asked
        ]

    def short(self, number, times):
        path = self.path(number, times)
        return " ; ".join(f"{a} > {b}" for a, b in pairwise(path)) + f" ; \\boxed{{ {path[-1]} }}"

    def long(self, number, times, draw):
        steps, slip = [], draw.randrange(times) if draw.random() < 0.25 else -1
        for i in range(times):
            after = self.step(number)
            while draw.random() < 0.3:
                steps.append(f"{number} > {draw.choice([n for n in range(53) if n != after])} ? no")
            after = (after + draw.randrange(1, 53)) % 53 if i == slip else after
            steps.append(f"{number} > {after}")
            number = after
        return " ; ".join(steps) + f" ; \\boxed{{ {number} }}"

    def teach(self, request, sample):
        text = request.messages[-1]["content"]
        number, times = map(int, re.search(r"from (\d+) , (\d) steps", text).groups())
        return (
            self.short(number, times)
            if "short solution" in text
            else self.long(number, times, random.Random(f"{number} {times} {sample}"))
        )


@slow
def test_two_stages_need_less_than_half_the_chains_of_one(project):
    """The steps are learned from a person's solutions, of which there are enough; chains of 40 problems then
    cost hardly any of them, with a tenth of the learning rate. From chains alone, of twice as many problems
    and in as many steps, few problems are solved.
    """
    steps = Steps()
    rows = steps.rows()
    for name, some in {
        "all": rows[:162],
        "forty": rows[:40],
        "eighty": rows[:80],
        "held_out": rows[162:],
    }.items():
        project.rows(f"{name}.jsonl", some)
    how = {"student": "tiny", "batch_size": 16, "learning_rate": 3e-3, "held_out": 0, "prompt": "question"}
    evaluate = {
        "data": "held_out.jsonl",
        "template": "{{ question }}",
        "gold": "gold",
        "metrics": ["boxed"],
        "temperature": 0,
        "max_tokens": 120,
    }

    def taught(name, source, *stages):
        stages = [{"source": {"path": f"{source}.jsonl"}}, *stages]
        run = distillgen.run(
            {"version": 1, "models": {"teacher": SCRIPTED}, "stages": stages},
            out=name,
            teachers={"teacher": steps.teach},
        )
        told = json.loads((run.directory / "evaluation.json").read_text())["models"].values()
        return run, [model["metrics"]["boxed"]["mean"] for model in told]

    ask = {"model": "teacher", "n": 2, "prompt": "o1-journey/long-thought", "output": "thought"}
    chains = [
        {"generate": {"name": "thoughts", **ask}},
        {"filter": [{"boxed": {"field": "thought"}}, {"unique": {"by": ["question", "thought"]}}]},
    ]
    warm_up, [before] = taught(
        "warm-up",
        "all",
        {
            "generate": {
                "name": "reformat",
                "model": "teacher",
                "prompt": "o1-journey/reformat",
                "output": "reformatted",
            }
        },
        {"train": {"name": "warm-up", **how, "max_steps": 700, "completion": "reformatted"}},
        {"evaluate": {"models": ["student-warm-up"], **evaluate}},
    )
    begin = {"student": str((warm_up.directory / "student-warm-up").resolve()), "learning_rate": 3e-4}
    second = {"train": {**how, **begin, "max_steps": 20, "completion": "thought"}}
    alone = {"train": {**how, "max_steps": 720, "completion": "thought"}}
    two, [after] = taught(
        "two-stages", "forty", *chains, second, {"evaluate": {"models": ["student"], **evaluate}}
    )
    one, [only] = taught(
        "one-stage", "eighty", *chains, alone, {"evaluate": {"models": ["student"], **evaluate}}
    )
    assert 2 * two.state["kept"] > 0.9 * one.state["kept"] > 60
    assert before > 0.75 and after > 0.6 and only < 0.4, (before, after, only)


def test_a_failed_reformat_goes_on_to_the_second_stage(project):
    """Of four problems one reformat is wrong and one is cut off: no examples of the form, but problems to
    think about.
    """
    sums = Sums(4, wrong=0.0)
    project.rows("sums.jsonl", sums.rows())
    wrong, cut, *_ = sums.digits

    def teach(request, sample):
        text = request.messages[-1]["content"]
        if "short solution" in text and wrong in text:
            return r"Therefore \boxed{-1}"
        if "short solution" in text and cut in text:
            return distillgen.Completion(text=sums.short(cut)[:-3], status="length")
        return sums.teach(request, sample)

    run = distillgen.run(recipe(path="sums.jsonl"), out="run", teachers={"teacher": teach})
    rows = [record.fields for record in read_records(run.directory / "corpus.jsonl")]
    assert {row["question"] for row in rows} == set(sums.digits), "a problem was lost to the second stage"
    learnt = {row["question"] for row in rows if row["whole"] and row["right_in_short"]}
    assert learnt == set(sums.digits) - {wrong, cut}
    shipped = yaml.safe_load((home("pipelines") / "o1-journey.yaml").read_text())
    (warm_up,) = [s["train"] for s in shipped["stages"] if s.get("train", {}).get("name") == "warm-up"]
    assert warm_up["where"] == "{{ whole and right_in_short }}"
