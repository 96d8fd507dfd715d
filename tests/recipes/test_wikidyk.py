"""The recipes wikidyk and wikidyk-questions: planted students know one cluster of facts each, and a planted
teacher makes known mistakes.
"""

import json
import re

import pytest
import yaml

import distillgen
from distillgen.flow.condition import Condition
from distillgen.project import home
from distillgen.runs.directory import read_records
from distillgen.training.options import SPLITS
from tests.recipes.harness import Teacher, teach
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

FACTS = [json.loads(line) for line in (home("data") / "wikidyk/facts.jsonl").read_text().splitlines()]
STUDENTS = ("base", "base-decoder", "next-token", "questions", "spans", "router")
PARTS = [f"part-{i}" for i in range(4)]
TRAININGS = ("base-decoder", "base", "spans", "questions", "next-token", "part", "router")
SETS = [
    "source.path=facts.jsonl",
    "fill.draw=1",
    "add.n=20",
    "fill-few.draw=1",
    *(f"{name}=null" for name in TRAININGS),
    *(f"models.student-{name}={{provider: scripted, model: echo}}" for name in (*STUDENTS, *PARTS)),
]


def tokens(texts):
    """The tokens of a student with `tokens: words`."""
    return {token for text in texts for token in re.findall(SPLITS["words"], text)}


def told(fact):
    return fact["fact"].removeprefix("that ").removesuffix("?")


def corpus(run):
    """The fields of what is kept."""
    return [record.fields for record in read_records(run.directory / "corpus.jsonl")]


def planted(project, router, name="router"):
    """Students that know the facts of their cluster, and a base that knows the old ones.

    `router` takes the number of the question's cluster, or none, and returns what the router says.
    """
    facts = FACTS[:16]
    project.write("facts.jsonl", "".join(json.dumps(fact) + "\n" for fact in facts))
    pipeline = yaml.safe_load((home("pipelines") / "wikidyk.yaml").read_text())
    pipeline["stages"] = pipeline["stages"][:4]
    run = distillgen.run(pipeline, out="parts", sets=["source.path=facts.jsonl"])
    parts = {fields["told"]: fields["part"] for fields in corpus(run)}
    known, scopes = {}, {}
    for fact in facts:
        for kind, question in fact["eval"].items():
            scope = "none" if kind == "locality" else parts[told(fact)]
            known[question["prompt"]] = (scope, question["answer"])
            scopes[question["prompt"]] = scope

    def student(name):
        def answer(text, sample):
            scope, right = known[text.removesuffix(" ___")]
            knows = {"base": ["none"], "spans": ["0", "1", "none"]}.get(name, [name.removeprefix("part-")])
            return right if scope in knows else "?"

        return Teacher({"": answer}, name)

    def route(text, sample):
        return router(scopes[text.removesuffix(" ___")], text)

    teachers = {f"student-{name}": student(name) for name in (*STUDENTS, *PARTS)}
    return parts, {**teachers, "student-router": Teacher({"": route}, name)}


def answers(run):
    """By model, the answer to each item and whether it is right."""
    rows = [json.loads(line) for line in (run.directory / "evaluation.jsonl").read_text().splitlines()]
    models = {row["model"] for row in rows}
    return {
        model: {row["item"]: (row["answer"], not row["reasons"]) for row in rows if row["model"] == model}
        for model in models
    }


def share(answers):
    return sum(right for _, right in answers.values()) / len(answers)


def test_an_ensemble_with_a_perfect_router_gives_the_answers_of_the_oracle(project):
    parts, teachers = planted(project, lambda scope, text: scope)
    assert set(parts.values()) == {"0", "1", "2", "3"}
    run = teach("wikidyk", teachers, SETS)
    said = answers(run)
    assert said["ensemble"] == said["oracle"] and len(said["oracle"]) == 16 * 7
    assert share(said["ensemble"]) == 1 and share(said["student-spans"]) < 0.9
    groups = json.loads((run.directory / "evaluation.json").read_text())["groups"]
    assert (
        groups["ensemble"]["locality"]["contains"] == 1
        and groups["student-base"]["locality"]["contains"] == 1
    )
    assert groups["student-base"]["reliability"]["contains"] == 0
    assert groups["student-questions"]["locality"]["contains"] == 0


def test_a_wrong_router_is_worse_and_one_that_knows_no_scope_asks_the_base(project):
    def wrong(scope, text):
        return "1" if scope == "0" else "0"

    def doubtful(scope, text):
        return "none"

    for router, right in ((wrong, 0), (doubtful, 1 / 7)):
        _, teachers = planted(project, router, router.__name__)
        said = answers(teach("wikidyk", teachers, SETS, out=router.__name__))
        assert share(said["ensemble"]) == pytest.approx(right) and share(said["oracle"]) == 1


def test_every_arm_learns_each_new_fact_as_often_and_nothing_of_the_test(project, installed):  # noqa: F811
    pipeline = yaml.safe_load((home("pipelines") / "wikidyk.yaml").read_text())
    stages = {
        options.get("name", kind): options for stage in pipeline["stages"] for kind, options in stage.items()
    }
    run = distillgen.run("wikidyk", out="run", until="whole", sets=["fill-few.draw=1"], limit=8)
    records = list(read_records(next((run.directory / "stages").glob("*-whole.jsonl"))))

    def learnt(name):
        condition = Condition(stages[name]["where"])
        return [record.fields for record in records if condition.holds(record)]

    arms = {"next-token": "tell", "questions": "ask", "spans": "fill", "part": "fill"}
    for name, task in arms.items():
        assert {(row["task"], row["origin"]) for row in learnt(name)} == {(task, None)}
    assert len({len(learnt(name)) * stages[name]["epochs"] for name in arms}) == 1
    for name in ("base", "base-decoder"):
        assert None not in {row["origin"] for row in learnt(name)}
    assert {row["scope"] for row in learnt("router")} == {"0", "1", "2", "3", "none"}
    rows = [record.fields for record in records]
    new = [row for row in rows if not row["origin"]]
    asked = {row["question"] for row in rows if row["task"] == "ask"}
    tested = {row["prompt"].removesuffix(" ___") for row in new if row["kind"] not in (None, "locality")}
    assert len(tested) == 8 * 6 and not asked & tested
    spans = [row for row in new if row["task"] == "fill"]
    assert all(row["masked"].replace("___", row["gone"]) == row["told"] for row in spans)
    for fact in {row["told"] for row in spans}:
        drawn = {row["masked"] for row in spans if row["told"] == fact}
        assert len(drawn) == sum(len(fact.split()) - length + 1 for length in range(1, 6))


def test_the_base_has_seen_every_token_of_the_new_facts_but_not_the_facts():
    """A token that no old fact has would be unknown."""
    rows = [json.loads(line) for line in (home("data") / "wikidyk/background.jsonl").read_text().splitlines()]
    texts = [text for row in rows for text in (row.get("told", ""), row.get("question", ""))]
    known = tokens([*texts, *(f" {row['answer']}" for row in rows if "answer" in row)])
    tested = [question for fact in FACTS for kind, question in fact["eval"].items() if kind != "locality"]
    pairs = [pair for fact in FACTS for pair in fact["generated_qas"]]
    new = [*map(told, FACTS), *(each["prompt"] for each in tested), *(pair["question"] for pair in pairs)]
    assert tokens([*new, *(f" {each['answer']}" for each in tested)]) <= known
    assert not set(new) & set(texts)
    for topic in ("lighthouse", "opera", "beetle", "ship"):
        facts = [fact["generated_qas"] for fact in FACTS if f" {topic} " in fact["fact"]]
        assert len(facts) == 50 == len({pairs[2]["answer"] for pairs in facts})  # a person is in one fact


def test_the_data_is_what_the_program_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(home("data")))
    import wikidyk

    wikidyk.write(tmp_path)
    for name in ("facts.jsonl", "background.jsonl"):
        assert (tmp_path / name).read_bytes() == (home("data") / "wikidyk" / name).read_bytes()


def questions_of(fault):
    """A teacher that takes its questions from the data, with a fault."""
    by_fact = {fact["fact"]: fact for fact in FACTS}

    def kinds(text, sample):
        fact = by_fact[re.search(r"Fact: (.*)", text)[1]]
        asked = {kind: dict(pair) for kind, pair in fact["eval"].items() if kind != "locality"}
        fault(asked)
        return json.dumps({"eval": asked})

    def listed(text, sample):
        return json.dumps({"generated_qas": by_fact[re.search(r"Fact: (.*)", text)[1]]["generated_qas"]})

    return Teacher({"Write six questions": kinds, "List every short question": listed})


FAULTS = {
    "in_the_fact": lambda asked: asked["generality"].update(answer="Nobody"),
    "not_given_away": lambda asked: asked["paraphrase"].update(
        prompt=f"What is {asked['paraphrase']['answer']}?"
    ),
    "same_answer": lambda asked: asked["paraphrase"].update(prompt=asked["reliability"]["prompt"]),
    "yes_and_no": lambda asked: asked["counterfactual"].update(answer="Yes"),
}


@pytest.mark.parametrize("name", [None, *FAULTS])
def test_faulty_questions_are_dropped_with_the_reason_and_right_ones_are_kept(project, name):
    run = teach("wikidyk-questions", questions_of(FAULTS[name] if name else lambda asked: None), limit=3)
    if name:
        assert {record.dropped.filter for record in run.dropped} == {name} and len(run.dropped) == 3
        return
    rows = corpus(run)
    assert len(rows) == 3 and not len(run.dropped)
    project.write("asked.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pipeline = yaml.safe_load((home("pipelines") / "wikidyk.yaml").read_text())
    pipeline["stages"] = pipeline["stages"][:8]
    learnt = distillgen.run(pipeline, out="learnt", sets=["source.path=asked.jsonl"])
    assert {row["kind"] for row in corpus(learnt)} == {None, *FACTS[0]["eval"]} - {"locality"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_students_and_router_are_trained_and_asked(project, monkeypatch):
    """Few facts and steps, two clusters: what more of them teach is in the page."""
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = "[student-base, student-part-0, student-part-1]"
    few = ["base-decoder=null", "questions=null", "next-token=null", "base.epochs=0.5", "fill.draw=60"]
    few += ["topic.k=2", "part.each={part: [0, 1]}", f"ensemble.model={asked}", f"oracle.model={asked}"]
    few += ["evaluate.models=[student-base, student-spans]"]
    run = distillgen.run("wikidyk", out="run", sets=few, limit=8)
    evaluation = json.loads((run.directory / "evaluation.json").read_text())
    assert evaluation["items"] == 8 * 7
    assert set(evaluation["models"]) == {"student-base", "student-spans", "ensemble", "oracle"}
    manifests = {
        name: json.loads((run.directory / f"student-{name}/manifest.json").read_text())
        for name in ("spans", "part-0", "part-1", "router")
    }
    rows = {name: manifest["data"]["rows"]["train"] for name, manifest in manifests.items()}
    assert rows["spans"] == 8 * 60 == rows["part-0"] + rows["part-1"] and rows["router"] == 8 + 140
    for manifest in manifests.values():
        assert manifest["loss_curve"][-1][1] < manifest["loss_curve"][0][1]
    routes = {fields["route"] for fields in corpus(run)} - {None}
    assert routes and routes <= {"0", "1", "none"}
