"""The recipe frontier-rationales: the data of each arm, the value of reasoning, and how answers are read."""

import importlib.util
import json
import random
import string

import pytest

import distillgen
from distillgen.answers.compare import compare_numbers, compare_texts

PACKAGES = ("torch", "transformers", "trl")


def slow(test):
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    skip = pytest.mark.skipif(
        bool(missing), reason=f"needs {', '.join(missing)}: pip install 'distillgen[train]'"
    )
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(skip(test)))


class Sums:
    """Numbers of up to nine digits, each in a place of its own, of which the sum modulo 5 is asked: by heart
    hard, digit by digit easy.
    """

    def __init__(self, lengths, count, seed=0):
        self.rows, self.steps, draw = [], {}, random.Random(seed)
        while len(self.rows) < count:
            digits = [draw.randrange(5) for _ in range(draw.choice(lengths))]
            places = [*zip(string.ascii_lowercase, [*digits, *"_" * (9 - len(digits))], strict=False)]
            question = " ".join(f"{place}{digit}" for place, digit in places)
            if question not in self.steps:
                self.steps[question] = " ".join(
                    f"{place}{digit} {sum(digits[: i + 1]) % 5}" for i, (place, digit) in enumerate(places)
                )
                self.rows.append({"question": question, "gold": str(sum(digits) % 5)})
        self.gold = {row["question"]: row["gold"] for row in self.rows}


class Teacher:
    """Shows its steps where the rich prompt asks for them, else answers at once; `misled` shows those of
    another question.
    """

    def __init__(self, sums, misled=False):
        self.sums, self.misled = sums, misled
        self.answer.__func__.__qualname__ = "Teacher.answer"

    def answer(self, request, sample):
        question = request.messages[-1]["content"]
        final = f"The answer is {self.sums.gold[question]}."
        if request.messages[0]["role"] != "system":
            return final
        shown = question
        if self.misled:
            alike = [
                other
                for other in self.sums.steps
                if other.count("_") == question.count("_") and other != question
            ]
            shown = random.Random(question).choice(alike)
        return f"{self.sums.steps[shown]}. {final}"


def test_arms_differ_in_the_answer_only(project):
    sums = Sums([3, 4], 40)
    project.rows("sums.jsonl", sums.rows)
    asked = []

    def teach(request, sample):
        asked.append(request.messages)
        return (
            "no idea"
            if request.messages[-1]["content"] == sums.rows[0]["question"]
            else Teacher(sums).answer(request, sample)
        )

    sets = ["source.path=sums.jsonl", "train=null", "evaluate=null"]
    run = distillgen.run("frontier-rationales", out="run", sets=sets, teachers={"teacher": teach})
    rich = [messages for messages in asked if messages[0]["role"] == "system"]
    assert len(asked) == 80 and len(rich) == 40 and all(len(messages) == 6 for messages in rich)
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    assert len(rows) == 39 and run.dropped[0].dropped.filter == "parsable"
    for row in rows:
        arms = [row[arm] for arm in ("chain_of_thought", "vanilla", "ground_truth")]
        assert all(
            turns[0] == {"role": "user", "content": row["question"]} and len(turns) == 2 for turns in arms
        )
        final = f"The answer is {row['gold']}."
        assert [turns[1]["content"] for turns in arms] == [
            f"{sums.steps[row['question']]}. {final}",
            final,
            row["gold"],
        ]


def test_right_bare_and_graded_answers_are_separated(project):
    sums = Sums([3], 40)
    project.rows("sums.jsonl", sums.rows)

    def teach(request, sample):
        if request.schema:
            return json.dumps({"reason": "It reads well.", "score": 10})
        question = request.messages[-1]["content"]
        return Teacher(sums).answer(request, sample) if question.startswith("a1") else "no idea"

    sets = [
        "source.path=sums.jsonl",
        "train=null",
        "parsable=null",
        "source.held_out=null",
        "evaluate.models=[teacher]",
    ]
    sets += [
        "models.grader={provider: scripted, model: echo}",
        "graded.model=grader",
    ]  # nobody grades himself
    run = distillgen.run(
        "frontier-rationales", out="run", sets=sets, teachers={"teacher": teach, "grader": teach}
    )
    told = json.loads((run.directory / "evaluation.json").read_text())["models"]["teacher"]
    share = sum(row["question"].startswith("a1") for row in sums.rows) / 40
    assert 0 < share < 1 and told["metrics"]["right"]["mean"] == share == told["numbers"]["right.answered"]
    assert told["metrics"]["right_and_bare"]["mean"] == 0 and told["metrics"]["graded"]["mean"] == 1


LEARNING = [
    "train.max_steps=250",
    "train.batch_size=16",
    "train.learning_rate=2e-3",
    "train.held_out=0",
    "source.path=sums.jsonl",
    "source.held_out=null",
]
LEARNING += [
    "evaluate.data=longer.jsonl",
    "evaluate.max_tokens=60",
    "evaluate.metrics=[numeric: {name: right}]",
    "ground-truth=null",
]


def trained(project, out, *, misled=False, sets=()):
    """What the recipe's students answer, who have learnt from lists of other lengths than those they are
    asked about.
    """
    sums, longer = Sums([3, 4, 6, 7, 9], 1500), Sums([5, 8], 100, seed=1)
    project.rows("sums.jsonl", sums.rows)
    project.rows("longer.jsonl", longer.rows)
    run = distillgen.run(
        "frontier-rationales",
        out=out,
        sets=[*LEARNING, *sets],
        teachers={"teacher": Teacher(sums, misled).answer},
    )
    told = json.loads((run.directory / "evaluation.json").read_text())["models"]
    rows = {
        arm: json.loads((run.directory / f"student-{arm}" / "manifest.json").read_text())["data"]["rows"][
            "train"
        ]
        for arm in [model.removeprefix("student-") for model in told]
    }
    return {
        model.removeprefix("student-"): each["metrics"]["right"]["mean"] for model, each in told.items()
    }, rows


@slow
def test_own_reasoning_gains_20_points_and_foreign_reasoning_none(project):
    """At equal examples; the answer-only arm sees them twice as often, and so more tokens (86 for 70 of the
    other).
    """
    both = ["evaluate.models=[student-chain-of-thought, student-vanilla]", "vanilla.max_steps=500"]
    right, rows = trained(project, "run", sets=both)
    assert rows["chain-of-thought"] == rows["vanilla"]
    alone = ["evaluate.models=[student-chain-of-thought]", "vanilla=null"]
    control, _ = trained(project, "control", misled=True, sets=alone)
    print(right, "control", control)
    assert right["chain-of-thought"] >= right["vanilla"] + 0.2
    assert control["chain-of-thought"] <= right["vanilla"] + 0.1


# Thirty right answers, 1,234 or 0.5 each, with what the strict reading (only what the text announces) and an
# exact match of the whole text say of it: a mistake of form is told apart from a wrong answer, and the
# lenient reading holds all of them right.
ODD = [
    ("1234", "1234", False, True),
    ("1,234", "1234", False, True),
    ("1234.", "1234", False, True),
    ("**1234**", "1234", False, True),
    ("$1,234", "1234", False, True),
    ("1234 dollars", "1234", False, False),
    ("= 1234", "1234", False, True),
    ("1000 + 234 = 1234", "1234", False, False),
    ("The answer is 1234.", "1234", True, False),
    ("The answer is 1,234.", "1234", True, False),
    ("The answer is: 1234", "1234", True, False),
    ("the answer is **1234**", "1234", True, False),
    ("Answer: 1234", "1234", True, False),
    ("**Answer:** 1234", "1234", True, False),
    ("Final answer: $1,234.00", "1234", True, False),
    ("#### 1234", "1234", True, True),
    ("So there are 234 and 1000.\n#### 1,234", "1234", True, False),
    ("\\boxed{1234}", "1234", True, False),
    ("Hence $\\boxed{1{,}234}$.", "1234", True, False),
    ("The answer is $1234$.", "1234", True, False),
    ("The answer is 1234 dollars, since 1000 + 234 = 1234.", "1234", True, False),
    ("The final answer is 1000 + 234 = 1234.", "1234", True, False),
    ("Thus she has 1234 marbles in the end.", "1234", False, False),
    ("First 1000, then 234 more. That makes 1234!", "1234", False, False),
    ("ANSWER: 1234", "1234", True, False),
    ("The answer would be 1234", "1234", True, False),
    ("The answer is 1/2.", "0.5", True, False),
    ("The answer is .5", "0.5", True, False),
    ("The answer is 50%.", "0.5", True, False),
    ("one half, that is 0.50", "0.5", False, False),
]


def test_right_answers_in_odd_forms_are_right():
    assert len(ODD) == 30
    lenient = [compare_numbers(text, gold).outcome for text, gold, _, _ in ODD]
    assert lenient == ["right"] * 30
    assert [compare_numbers(text, gold, lenient=False).outcome for text, gold, *_ in ODD] == [
        "right" if a else "unanswered" for _, _, a, _ in ODD
    ]
    assert [compare_texts(text, gold).right for text, gold, *_ in ODD] == [bare for *_, bare in ODD]
