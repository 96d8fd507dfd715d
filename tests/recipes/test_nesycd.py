"""The recipe nesycd: a planted student knows the common rule alone, and reads a lesson in its prompt."""

import json
import math
import re

from distillgen.inference.request import Completion
from distillgen.project import home
from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, chance, teach

SCRIPTED = "{provider: scripted, model: echo}"
STUDENTS = ("student-general", "student-augmented")
SETS = [
    "source.path=crates.jsonl",
    "general=null",
    "augmented=null",
    *(f"models.{name}={SCRIPTED}" for name in STUDENTS),
]
LINES = (home("data") / "crates.jsonl").read_text().splitlines()[:300]
QUESTION = re.compile(r"How many kilograms do (\d+) crates of (\w+) weigh\?")
FACT = re.compile(r"A crate of (\w+) weighs (\d+) kg")

KINDS = {QUESTION.search(row["question"])[2]: row["kind"] for row in map(json.loads, LINES)}


def letter(text, weight):
    """The option with the weight of all crates, or the first one."""
    count, _ = QUESTION.search(text).groups()
    options = dict(re.findall(r"^\(([A-D])\) (\d+)$", text, re.MULTILINE))
    return next((key for key, value in options.items() if int(value) == int(count) * weight), "A")


def explain(text, sample):
    fact = FACT.search(text)
    return f"The answer is ({letter(text, int(fact[2]) if fact else 10)})."


def lesson(text, sample):
    fact = FACT.search(text)
    return f"<summary>Some goods are special.</summary><knowledge>{fact[0] if fact else '10 kg'}.</knowledge>"


def teacher():
    return Teacher({"fact that may help": explain, "wrong answer": lesson})


def student(text, sample):
    """Knows 10 kg; believes a lesson about the good of the question. It is surer where it is right."""
    _, good = QUESTION.search(text).groups()
    facts = dict(FACT.findall(text))
    weight = int(facts.get(good, 10))
    sure = 0.9 if chance(0.15 if KINDS[good] == "exception" else 0.85, good, text[-9:]) else 0.4
    tops = [["x", sure], ["y", 1 - sure]]
    logprobs = [["x", math.log(sure), [[word, math.log(p)] for word, p in tops]]]
    return Completion(text=f"The answer is ({letter(text, weight)}).", logprobs=logprobs)


def run(project, out, *sets):
    """Run the recipe; return, by evaluation and line, the answer, whether it is right, and the kind."""
    project.write("crates.jsonl", "\n".join(LINES))
    models = {"teacher": teacher(), **{name: Teacher({"crates": student}, name) for name in STUDENTS}}
    directory = teach("nesycd", models, [*SETS, *sets], out=out).directory
    answers = {}
    for name in ("closed-book", "gated"):
        rows = map(json.loads, (directory / f"evaluation-{name}.jsonl").read_text().splitlines())
        answers[name] = {row["source"]: (row["answer"], not row["reasons"], kind_of(row)) for row in rows}
    return directory, answers


def kind_of(row):
    return json.loads(LINES[int(row["source"].rpartition(":")[2]) - 1])["kind"]


def share(answers, kind):
    verdicts = [right for _, right, its_kind in answers.values() if its_kind == kind]
    assert len(verdicts) > 20
    return sum(verdicts) / len(verdicts)


def gains(answers):
    return [
        share(answers["gated"], kind) - share(answers["closed-book"], kind)
        for kind in ("exception", "common")
    ]


def auroc(wrong, right):
    """The probability that a wrong answer has the smaller margin."""
    return sum((a < b) + (a == b) / 2 for a in wrong for b in right) / (len(wrong) * len(right))


def test_lessons_help_with_exceptions_alone_and_lessons_of_others_do_not(project):
    directory, answers = run(project, "run")
    exceptions, common = gains(answers)
    assert exceptions >= 0.15 and abs(common) <= 0.02
    _, shuffled = run(project, "control", "book.shuffle=true")
    assert gains(shuffled)[0] <= 0.03
    records = [r for r in read_records(next((directory / "stages").glob("*-solved.jsonl"))) if not r.dropped]
    margins = {verdict: [] for verdict in (True, False)}
    for record in records:
        margins[record.fields["solved"]].append(record.scores["draft.margin"])
    assert auroc(margins[False], margins[True]) > 0.7


def test_an_edited_lesson_flips_exactly_the_answers_that_read_it(project):
    """The edited lesson names a weight that is no option, for which the planted student answers A."""
    directory, answers = run(project, "run")
    readers = {}
    for record in read_records(directory / "corpus.jsonl"):
        answer, right, _ = answers["gated"].get(record.source, ("", False, ""))
        if right and record.scores["draft.margin"] < 0.68 and answer != "The answer is (A).":
            for entry in record.fields["book"]:
                if QUESTION.search(record.fields["question"])[2] in entry["knowledge"]:
                    readers.setdefault(entry["knowledge"], set()).add(record.source)
    knowledge = max(sorted(readers), key=lambda text: len(readers[text]))
    edit = {"where": {"knowledge": knowledge}, "set": {"knowledge": knowledge.replace("weighs ", "weighs 9")}}
    project.write("data/lesson_edits.jsonl", json.dumps(edit) + "\n")
    _, after = run(project, "run", "audit.edits=data/lesson_edits.jsonl")
    flipped = {source for source, answer in after["gated"].items() if answer != answers["gated"][source]}
    assert flipped == readers[knowledge] and after["closed-book"] == answers["closed-book"]


def test_the_data_is_what_the_program_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(home("data")))
    import crates

    crates.write(tmp_path)
    assert (tmp_path / "crates.jsonl").read_bytes() == (home("data") / "crates.jsonl").read_bytes()
