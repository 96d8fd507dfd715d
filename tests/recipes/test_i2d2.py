"""The recipe i2d2: clauses, critic and rounds, on a world whose truth is planted."""

import json
import random
from collections import Counter

import pytest
import yaml

import distillgen
from distillgen.errors import ConfigError
from distillgen.project import home
from tests.benchmarks.i2d2 import FREE, arms, meets, shuffled_labels, world
from tests.recipes.harness import drops
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

PIPELINE = yaml.safe_load((home("pipelines") / "i2d2.yaml").read_text())
ROUNDS = next(stage["rounds"] for stage in PIPELINE["stages"] if "rounds" in stage)
STAGES = {kind: options for stage in ROUNDS["stages"] for kind, options in stage.items()}
ECHO = {"provider": "scripted", "model": "echo"}
ANSWERS = [
    ({"plural": "birds", "relation": "can", "related": None}, "build nests", True),
    ({"plural": "birds", "relation": "can", "related": None}, "fly over the sea", False),
    ({"plural": "birds", "relation": "can", "related": None}, "fly over seas", True),
    ({"plural": "birds", "relation": "can", "related": None}, "fly and sing", False),
    ({"plural": "birds", "relation": "can", "related": None}, "fly like other birds", False),
    ({"plural": "birds", "relation": "can", "related": None}, "fly if they can", False),
    ({"plural": "birds", "relation": "produce", "related": None}, "chicks which produce eggs", False),
    ({"plural": "birds", "relation": "produce", "related": None}, "eggs, produce chicks", False),
    ({"plural": "birds", "relation": "can", "related": "eggs"}, "lay eggs", True),
    ({"plural": "birds", "relation": "can", "related": "eggs"}, "build nests", False),
    ({"plural": "birds", "relation": "can", "related": "eggs"}, "lay eggshells", False),
]


def test_it_passes_the_check_also_with_the_models_and_files_of_a_user(project, installed):  # noqa: F811
    pytest.importorskip("sklearn")
    project.rows(
        "concepts.jsonl", [{"plural": "dogs", "related": "bones"}, {"plural": "cats", "related": None}]
    )
    labels = [{"plural": f"things{i}", "generic": f"Things are {i}.", "label": i % 2} for i in range(60)]
    project.rows("labels.jsonl", labels)
    own = [
        "source={path: concepts.jsonl, held_out: 0.2}",
        "lm=null",
        "fluent.model=lm",
        "rounds.start=lm",
        "models.lm={provider: transformers, model: openai-community/gpt2-xl, api: completions}",
        "critic.labels=labels.jsonl",
        "critic.template=null",
        "critic.fields=[generic]",
        "critic.features=embeddings",
        "critic.encoder=FacebookAI/roberta-large",
    ]
    assert len(distillgen.load("i2d2").stages) == len(distillgen.load("i2d2", sets=own).stages) + 1
    assert distillgen.load("i2d2", sets=FREE)
    with pytest.raises(ConfigError, match="field 'kind'"):
        distillgen.load("i2d2", sets=[s for s in own if not s.startswith("critic")])


def reach(project, rows, stages, **models):
    """Run the recipe's stages on rows of a file."""
    project.rows("rows.jsonl", rows)
    stages = [{"source": {"path": "rows.jsonl"}}, *stages]
    models = {name: (ECHO, script) for name, script in models.items()}
    pipeline = {"version": 1, "models": {name: spec for name, (spec, _) in models.items()}, "stages": stages}
    return distillgen.run(
        pipeline, out="run", teachers={name: script for name, (_, script) in models.items()}
    )


def test_the_clauses_let_through_what_another_checker_lets_through(project):
    """A model that cannot search answers here, so that the recipe's clauses reject."""
    rows = [{**fields, "prompt": f"{i}", "answer": text} for i, (fields, text, _) in enumerate(ANSWERS)]
    texts = {row["prompt"]: row["answer"] for row in rows}
    generate = {**STAGES["generate"], "n": 1, "search": None, "fallback": "rejection"}
    generate = {name: value for name, value in generate.items() if value is not None}
    run = reach(
        project,
        rows,
        [{"generate": generate}],
        student=lambda request, sample: texts[request.messages[-1]["content"]],
    )
    assert [row["rest"] for row in run.corpus] == [text for _, text, good in ANSWERS if good]
    assert len(run.dropped) == sum(not good for *_, good in ANSWERS)
    assert [meets({**fields, "rest": text}) for fields, text, _ in ANSWERS] == [good for *_, good in ANSWERS]


def test_every_truth_meets_the_clauses_and_what_the_longer_texts_go_on_with_does_not():
    for plural, kind in world.KINDS.items():
        for relation, rests in world.FACTS[kind].items():
            fields = {"plural": plural, "relation": relation, "related": None}
            assert all(meets({**fields, "rest": rest}) for rest in rests)
            longer = [f"{rest}{more.format(plural)}" for rest in rests for more in world.TAILS]
            assert not any(meets({**fields, "rest": text}) for text in longer)
    said = Counter(world.is_true(*fact) for fact in drawn(4000, 1))
    assert said[True] / 4000 == pytest.approx(0.5, abs=0.03)


def drawn(n, seed):
    """What people say of concepts."""
    chance = random.Random(seed)
    plurals = chance.choices([*world.KINDS], k=n)
    return [(plural, *world._said(chance, plural, 0.5, 0.3)) for plural in plurals]


def test_the_critic_keeps_what_is_true_and_one_of_shuffled_labels_does_not(project):
    pytest.importorskip("sklearn")
    facts = drawn(1500, 2)
    rows = [
        {"plural": p, "kind": world.KINDS[p], "relation": relation, "rest": rest}
        for p, relation, rest in facts
    ]

    def precision(**options):
        critic = {name: value for name, value in {**STAGES["critic"], **options}.items() if value is not None}
        kept = reach(project, rows, [{"critic": critic}]).corpus
        assert len(kept) > 200
        return sum(world.is_true(row["plural"], row["relation"], row["rest"]) for row in kept) / len(kept)

    assert precision() >= 0.8  # the target
    shuffled_labels(project.path, 0)
    recall = {"target_precision": None, "target_recall": 0.4}
    assert precision(labels="shuffled.jsonl", **recall) == pytest.approx(0.5, abs=0.08)


def test_the_prompts_of_a_concept_are_its_likeliest_of_different_relations(project):
    """A scripted model finds longer relations likelier, and adverbs that come later in the alphabet."""
    from distillgen.inference.request import Completion

    def fluent(request, sample):
        adverb, _, relation = request.target.partition(", dogs ")
        return Completion(
            logprobs=[["x", len(relation) + ord(relation[-1]) / 2**8 + ord(adverb[0]) / 2**14 - 99, []]]
        )

    score, likeliest = (
        next(s for s in PIPELINE["stages"] if kind in s and s[kind].get("name") == name)
        for kind, name in (("score", "fluent"), ("filter", "likeliest"))
    )
    stages = [s for s in PIPELINE["stages"] if "cross" in s or "format" in s]
    stages += [{"score": {**score["score"], "model": "lm"}}, likeliest]
    run = reach(project, [{"plural": "dogs"}], stages, lm=fluent)
    assert [row["prompt"] for row in run.corpus] == [
        f"Usually, dogs are {relation}" for relation in ("found in", "known for", "used to")
    ]
    assert drops(run) == {("likeliest", "adverb"): 30, ("likeliest", "stems"): 7}


def test_the_data_is_what_the_program_draws(tmp_path):
    world.write(tmp_path)
    for name in ("stems", "labels"):
        shipped = (home("data") / f"generics/{name}.jsonl").read_bytes()
        assert (tmp_path / f"{name}.jsonl").read_bytes() == shipped and shipped
    labels = [json.loads(line) for line in shipped.splitlines()]
    truth = [world.is_true(row["plural"], row["relation"], row["rest"]) for row in labels]
    wrong = sum(t != bool(row["label"]) for t, row in zip(truth, labels, strict=True))
    assert wrong / len(labels) == pytest.approx(0.05, abs=0.02)
    rows = [*world.generics()]
    assert Counter(row["split"] for row in rows if row["plural"]) == {"train": 120, "test": 30}
    assert sum(row["related"] is not None for row in rows) == 20
    assert rows == [*world.generics()] != [*world.generics(seed=1)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_validity_rises_without_the_critic_and_not_by_unfiltered_training(project, monkeypatch):
    """One seed, one prompt a concept; figures of more seeds are those of tests/benchmarks/i2d2.py."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stems = [json.loads(line) for line in (home("data") / "generics/stems.jsonl").read_text().splitlines()]
    project.rows("few.jsonl", [stem for stem in stems if stem["adverb"] == "usually"])
    rounds = arms(
        project.path, 0, ("unfiltered", "free"), ("cross.rows=few.jsonl", "stems.n=1", "stems.best=1")
    )
    for name in ("critic", "unfiltered"):
        assert all(each["meets"] == 1.0 and each["answers"] >= 400 for each in rounds[name])
    assert rounds["free"][0]["meets"] < 0.9
    valid = {name: [each["valid_learnt"] for each in rounds[name]] for name in ("critic", "unfiltered")}
    assert valid["critic"][0] == valid["unfiltered"][0]
    assert valid["critic"][2] - valid["critic"][0] > 0.1 > valid["unfiltered"][2] - valid["unfiltered"][0]
    assert rounds["critic"][2]["concepts"] > 0.8 * rounds["critic"][0]["concepts"]
