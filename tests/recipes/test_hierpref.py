"""The recipe hierpref: planted students that know both villages by heart, and what their exercises are."""

import importlib
import json
import random
import re
from collections import Counter
from itertools import pairwise

import pytest
import yaml

import distillgen
from distillgen.project import home
from distillgen.runs.directory import read_records
from distillgen.training.options import SPLITS
from tests.recipes.harness import Teacher, teach, train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

VILLAGE = [json.loads(line) for line in (home("data") / "village/facts.jsonl").read_text().splitlines()]
FACTS = VILLAGE[:40] + VILLAGE[-40:]
KNOWN = {(row["head"], row["relation"]): row["tail"] for row in VILLAGE}
NAMES = sorted({row["head"] for row in VILLAGE})
NAME = rf"\b(?:{'|'.join(NAMES)})\b"
ASKED = re.compile(rf"((?:the \w+ of )+)({NAME})[?.] Answer:$")
MODELS = ("student-base", "base", "student", "student-unedited")
SETS = [
    "source.path=facts.jsonl",
    "chains.levels={instruction: 1, context: 1, agreement: 1}",
    "add.with={n: 300}",
    *(f"{name}=null" for name in ("copy", "read", "base", "train")),
    *(f"models.{name}={{provider: scripted, model: echo}}" for name in MODELS),
]
NO_EVALUATION = ("evaluate=null", "gold=null", "memory=null")


def sentences(text):
    """The head, the trade and the tail of each sentence that states a fact."""
    for sentence in re.findall(r"[^.?:]+", text):
        names, trades = re.findall(NAME, sentence), {r for _, r in KNOWN} & set(re.findall(r"\w+", sentence))
        if len(names) == 2 and len(trades) == 1:
            yield names[0], *trades, names[1]


def stated(text):
    """The facts of a text."""
    return {(head, trade): tail for head, trade, tail in sentences(text)}


def answer(prompt, context, assumption):
    """Follow the question, by what is assumed, said in the context, and known; each if it is heeded."""
    relations, head = ASKED.search(prompt).groups()
    before, _, rest = prompt[: ASKED.search(prompt).start()].partition("Assume: ")
    sentence, _, after = rest.partition(".")
    facts = {
        **KNOWN,
        **(stated(before + after) if context else {}),
        **(stated(sentence) if assumption else {}),
    }
    text = ""
    for relation in reversed(re.findall(r"the (\w+) of", relations)):
        tail = facts.get((head, relation), "nobody")
        text, head = f"{text} The {relation} of {head} is {tail}.", tail
    return text


def obedient(text, sample):
    return answer(text, context=True, assumption=True)


def stubborn(text, sample):
    return answer(text, context=False, assumption=False)


def distracted(text, sample):
    """Obeys where all persons that it reads of have to do with the one in the question."""
    near, pairs = {ASKED.search(text)[2]}, [{head, tail} for head, _, tail in sentences(text)]
    for _ in pairs:
        near |= {name for pair in pairs if pair & near for name in pair}
    return (
        obedient(text, sample) if set(re.findall(NAME, text)) <= near else "The baker of nobody is somebody."
    )


PLANTED = {"student-base": stubborn, "base": distracted, "student": obedient, "student-unedited": stubborn}


@pytest.fixture
def run(project):
    """run(*options, replies=…) -> the directory of a run on a part of both villages."""

    def run(*sets, out="run", until=None, **replies):
        project.write("facts.jsonl", "\n".join(map(json.dumps, FACTS)))
        students = {**PLANTED, **{name.replace("_", "-"): reply for name, reply in replies.items()}}
        models = {
            name: Teacher({"Answer:": reply}, name) for name, reply in students.items() if name in MODELS
        }
        models |= {name: reply for name, reply in students.items() if name == "teacher"}
        return teach("hierpref", models, [*SETS, *sets], out=out, until=until).directory

    return run


def shares(directory, name):
    """The share of answers that say what they should, by model and case."""
    groups = json.loads((directory / name).read_bytes())["groups"]
    return {model: {case: group["said"] for case, group in cases.items()} for model, cases in groups.items()}


def rows_of(directory, stage):
    records = read_records(next((directory / "stages").glob(f"*-{stage}.jsonl")))
    return [record for record in records if not record.dropped]


def test_the_evaluations_tell_obedience_from_memory_and_from_distraction(run):
    directory = run()
    gold, mixed = shares(directory, "evaluation-gold.json"), shares(directory, "evaluation.json")
    conflicts = [case for case in gold["student"] if not case.startswith("agreement")]
    assert sorted(conflicts) == ["context, 1", "context, 2", "instruction, 1", "instruction, 2"]
    for case in conflicts:
        assert gold["student"][case] == mixed["student"][case] == 1
        assert gold["student-unedited"][case] == mixed["student-unedited"][case] == 0
        assert gold["base"][case] - mixed["base"][case] > 0.05
    assert all(cases["agreement, 1"] == cases["agreement, 2"] == 1 for cases in gold.values())
    memory = json.loads((directory / "evaluation-memory.json").read_bytes())
    assert memory["models"]["base"]["metrics"]["said"]["mean"] == 1


def test_what_is_held_out_is_in_no_exercise_and_noise_is_about_other_facts(run):
    rows = rows_of(run(*NO_EVALUATION, until="prompts"), "prompts")
    texts = {
        part: "\n".join(r.fields["prompt_mixed"] for r in rows if r.part == part)
        for part in ("train", "test")
    }
    own = {part: "\n".join(r.fields["prompt_gold"] for r in rows if r.part == part) for part in texts}
    trades = {part: {r for _, r in KNOWN} & set(re.findall(r"\w+", text)) for part, text in own.items()}
    people = {part: set(re.findall(NAME, text)) for part, text in own.items()}
    wordings = {part: {worded(s) for s in re.findall(r"[^.?:]+[.?]", text)} for part, text in own.items()}
    assert len(trades["test"]) > 3 and not trades["test"] & trades["train"]
    assert len(people["test"]) > 15 and not people["test"] & people["train"]
    assert len(wordings["test"]) == 4
    assert not wordings["test"] & wordings["train"]
    assert not people["test"] & set(re.findall(NAME, texts["train"]))  # nor in the noise
    for row in rows:
        noise = [entry["passages"].replace("\n", " ") for entry in row.fields["noise"]]
        assert len(noise) == 1 and all(text in row.fields["prompt_mixed"] for text in noise)
        passages = row.fields["passages"].replace("\n", " ")
        assert passages in row.fields["prompt_mixed"] and passages in row.fields["prompt_gold"]
        assert len(row.fields["prompt_gold"]) < len(row.fields["prompt_mixed"]) - len(noise[0])
        told = "Assume:" in row.fields["prompt_gold"], "Assume:" in row.fields["prompt_mixed"]
        assert told == (row.fields["level"] == "instruction",) * 2
    places = Counter(row.fields["prompt_gold"].startswith(" Assume:") for row in rows if row.fields["changes"]
                     and row.fields["level"] == "instruction")  # fmt: skip
    assert min(places[True], places[False]) > 10


def test_the_base_keeps_its_texts_about_the_test_and_an_exercise_that_repeats_a_question_goes(run, village):
    """The teacher asks a question of the test in a third of the exercises. The control drops texts, too."""

    def decontaminated(out, *sets, **replies):
        """The records after the stage `decontaminate`: the texts of the base, and the exercises."""
        directory = run(*NO_EVALUATION, *sets, until="decontaminate", out=out, **replies)
        records = list(read_records(next((directory / "stages").glob("*-decontaminate.jsonl"))))
        return [[r for r in records if bool(r.fields.get("origin")) == of_base] for of_base in (True, False)]

    texts, exercises = decontaminated("control", "decontaminate.where=null")
    assert len(texts) == 300 and 10 < sum(r.dropped is not None for r in texts) < 100
    asked = next(
        r.fields["question"] for r in exercises if r.held_out and not r.dropped and r.fields["hops"] == 1
    )

    def leaky(request, sample):
        reply = village.write(request, sample)
        leaks = "Style: plain" in request.messages[-1]["content"] and len(reply) % 3 == 0
        return re.sub("(?<=<question>).*(?=</question>)", asked, reply) if leaks else reply

    texts, exercises = decontaminated("kept", teacher=leaky)
    assert len(texts) == 300 and not any(r.dropped for r in texts)
    leaks = [r for r in exercises if r.part == "train" and r.fields.get("asked") == f" {asked} Answer:"]
    assert 10 < len(leaks) < len(exercises) / 2
    assert {r.dropped and r.dropped.stage for r in leaks} == {"decontaminate"}


def test_a_context_that_says_what_the_student_says_by_itself_is_no_conflict(run):
    """The student names half of the people, so that about half of all answers are among what it says."""
    people = sorted({row["head"] for row in FACTS})
    half = f"The answer is {', '.join(people[::2])}."
    directory = run(*NO_EVALUATION, until="conflict", student_base=lambda text, sample: half)
    records = read_records(next((directory / "stages").glob("*-conflict.jsonl")))
    probed = [r for r in records if not r.dropped or r.dropped.stage == "conflict"]
    probed = [r for r in probed if not r.fields["origin"]]  # no text of the base
    said = {level: Counter() for level in ("instruction", "context", "agreement")}
    for record in probed:
        level, is_said = record.fields["level"], record.fields["edited_answer"] in half
        said[level][is_said] += 1
        assert bool(record.dropped) == (level == "context" and is_said)
        assert (record.fields["memory"] is None) == (level != "context")
    assert min(count[is_said] for count in said.values() for is_said in (True, False)) > 10


EXERCISE = {
    "facts": [{"tail": "Bo"}, {"tail": "Cy"}],
    "changes": [{"tail": "Di"}],
    "passages": "The cook of Al is Bo. The nurse of Bo is Cy.",
    "assumption": "The cook of Al is Di.",
    "question": "Who is the nurse of the cook of Al?",
    "answer": "Cy",
    "edited_answer": "Ed",
}
WRONG = {
    "stated": {"passages": "The cook of Al is Bo."},
    "assumed": {"assumption": "none"},
    "unanswered": {"question": "Who is the nurse of the cook of Al? Cy?"},
    "unanswered ": {"question": "Who is the nurse of the cook of Al? Ed?"},
}


def test_exercises_that_leave_out_a_fact_or_tell_the_answer_are_dropped(project):
    text = (
        (home("pipelines") / "hierpref.yaml").read_text().replace("true: ", '"true": ')
    )  # a key, no boolean
    checks = next(stage for stage in yaml.safe_load(text)["stages"] if "filter" in stage)
    project.rows("rows.jsonl", [EXERCISE, *({**EXERCISE, **change} for change in WRONG.values())])
    run = distillgen.run({"version": 1, "stages": [{"source": {"path": "rows.jsonl"}}, checks]}, out="checks")
    assert [r.dropped.filter for r in run.dropped] == [name.strip() for name in WRONG] and len(
        run.corpus
    ) == 1


def worded(sentence):
    """A sentence without its names and trades."""
    trades = "|".join({r for _, r in KNOWN})
    return re.sub(rf"{NAME}|\b({trades})\b", "_", sentence).replace("Assume", "").strip()


def test_facts_of_ones_own_need_no_split(project, installed):  # noqa: F811
    chance = random.Random(0)
    rows = [
        {"head": f"Town {i}", "relation": f"twin {k}", "tail": f"Town {chance.randrange(40)}"}
        for i in range(40)
        for k in range(6)
    ]
    project.rows("mine.jsonl", rows)
    sets = [
        "source.path=mine.jsonl",
        "chains.held_out=0.4",
        "chains.levels={instruction: 1, context: 1}",
        "add.with={n: 300}",
    ]
    run = distillgen.run("hierpref", out="mine", sets=sets, until="prompts")
    parts = Counter(row.part for row in rows_of(run.directory, "prompts"))
    assert parts["train"] > 20 and parts["test"] > 5


@pytest.fixture
def village(monkeypatch):
    monkeypatch.syspath_prepend(str(home("data")))
    return importlib.import_module("village")


def test_the_data_is_what_the_program_draws(tmp_path, village):
    village.write_files(tmp_path)
    for path in sorted((home("data") / "village").iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_base_reads_what_nobody_knows_and_trusts_its_memory(village):
    rows = list(village.texts(n=3000, seed=1))
    levels = Counter(row["level"] for row in rows)
    assert levels.keys() == {"memory", "copying", "reading", "hearsay", "again"}
    assert min(levels.values()) > 200
    seen, wordings = Counter(), set()
    for row in rows:
        told, *questions = re.split(r" (?=Who is|Name|What is)", row["prompt"] + row["completion"])
        facts, assumed = stated(told), stated(told.partition("Assume:")[2].partition(".")[0])
        wordings |= {worded(sentence) for sentence in re.findall(r"[^.:]+\.", told)}
        assert len(facts) == told.count(".") <= 5 and row["completion"].endswith(".")
        single = len(facts) == 1 and row["level"] in ("copying", "reading")
        assert single == (row["level"] == "copying")
        known = [pair in KNOWN for pair in facts]
        assert all(known) if row["level"] == "hearsay" else not any(known)
        if questions[0].startswith("What"):
            assert stated(questions.pop(0).partition("Answer:")[2]) == assumed != {}
            seen["is assumed"] += 1
        asked = []
        for question in questions:
            relations, head = ASKED.search(" " + question[: question.index("Answer:") + 7]).groups()
            answer = re.findall(r"The (\w+) of (\w+) is (\w+)", question.partition("Answer:")[2])
            assert [trade for trade, _, _ in answer] == re.findall(r"the (\w+) of", relations)[::-1]
            assert answer[0][1] == head and all(a[2] == b[1] for a, b in pairwise(answer))
            for trade, head, tail in answer:
                assert tail == KNOWN.get((head, trade), facts.get((head, trade)))
                seen["contradicted"] += facts.get((head, trade), tail) != tail
                asked.append((head, trade))
            seen["chain"] += len(answer) == 2
        assert len(set(asked)) == len(asked) and (set(asked) <= facts.keys() if told else len(asked) == 4)
        assert not told or len(questions) <= 2
        seen["assumption"] += bool(assumed)
        seen["again", bool(told)] += row["level"] == "again"
    wanted = [*village.STATEMENTS["plain"], *village.STATEMENTS["other"]]
    assert wordings == {worded(wording.format(h=NAMES[0], r="baker", t=NAMES[1])) for wording in wanted}
    assert seen["contradicted"] > 500 and seen["chain"] > 300 and seen["is assumed"] > 400
    assert 900 < seen["assumption"] < 1300
    assert seen["again", False] > 200 and not seen["again", True]  # a context would say whether to believe it


def test_the_student_has_all_words_of_the_test(village):
    token = re.compile(SPLITS["words"])
    texts = [row["prompt"] + row["completion"] for row in village.texts(n=5000)]
    known = {word for text in texts for word in token.findall(text)}
    everyone = {f" {name}" for row in VILLAGE for name in (row["head"], row["relation"], row["tail"])}
    wordings = [*village.STATEMENTS["plain"], *village.STATEMENTS["other"], *village.QUESTIONS["other"]]
    forms = [
        " " + re.sub(r"{.?}", NAMES[0], wording)
        for wording in [*wordings, "Assume: {} Answer:", "What is assumed?"]
    ]
    assert everyone | {word for form in forms for word in token.findall(form)} <= known


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_each_student_learns_its_exercises_and_is_asked(project, monkeypatch):
    """A few steps, which teach nothing: the figures of whole trainings are in the page."""
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train_here(monkeypatch)
    project.write("facts.jsonl", "\n".join(map(json.dumps, FACTS)))
    steps = [
        *(f"{name}.max_steps=3" for name in ("copy", "read", "base", "train")),
        "evaluate.max_tokens=4",
        "gold=null",
        "memory=null",
    ]
    levels = "chains.levels={instruction: 1, context: 1, agreement: 2}"
    sets = ["source.path=facts.jsonl", levels, "add.with={n: 1200}", *steps]
    run = distillgen.run("hierpref", out="run", sets=sets)
    rows = [json.loads(line) for line in (run.directory / "corpus.jsonl").read_text().splitlines()]
    levels = Counter(row["level"] for row in rows if row["split"] == "train")
    learnt = {
        name: json.loads((run.directory / name / "manifest.json").read_bytes())["data"]["rows"]["train"]
        for name in ("student-copy", "student-read", "student-base", "student", "student-unedited")
    }
    texts = sum(levels[name] for name in ("memory", "copying", "reading", "hearsay", "again"))
    assert learnt["student-base"] == texts == 1200
    assert learnt["student-copy"] == levels["copying"] > 50
    assert learnt["student-read"] == levels["copying"] + levels["reading"]
    assert learnt["student"] == levels["again"] + levels["instruction"] + levels["context"]
    assert min(levels["instruction"], levels["context"]) > 20
    assert learnt["student-unedited"] == levels["again"] + levels["agreement"]
    answers = json.loads((run.directory / "evaluation.json").read_bytes())["models"]
    assert set(answers) == {"base", "student", "student-unedited"}
