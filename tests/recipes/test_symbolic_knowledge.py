"""The recipe symbolic-knowledge: its prompts, its filters, and the gain from its critic."""

import importlib.util
import json
import re
from collections import Counter
from itertools import cycle
from statistics import fmean

import pytest
import yaml

import distillgen
from distillgen.inference.request import Completion
from distillgen.project import home
from distillgen.record import digest
from distillgen.runs.directory import Run
from tests.planted import EITHER, INVALID, VALID, Triples

RELATIONS = {"xAttr", "xReact", "xNeed", "xIntent", "xWant", "xEffect", "HinderedBy"}
PHRASES = {
    row["relation"]: row["phrase"]
    for row in map(json.loads, (home("data") / "relations.jsonl").read_text().splitlines())
}


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    skip = pytest.mark.skipif(
        bool(missing), reason=f"needs {', '.join(missing)}: pip install 'distillgen[filters,train]'"
    )
    return lambda test: pytest.mark.slow(pytest.mark.filterwarnings("default")(skip(test)))


class Planted:
    """A teacher that writes an event for every list of seeds, and planted triples for every event in a
    relation.
    """

    def __init__(self, error=0.23, seed=0):
        self.triples, self.truth, self.requests = Triples(error, seed), {}, []
        self.teach.__func__.__qualname__ = "Planted"

    def teach(self, request, sample):
        self.requests.append(request)
        asked = request.messages[-1]["content"]
        number = int(digest([self.triples.seed, self.triples.error, asked, sample], 8), 16)
        if "Event:" in asked:
            return Completion(
                text=f" {self.triples.triple(number)['head']}.", logprobs=[["", -float(number % 50), []]]
            )
        triple = self.triples.triple(number)
        self.truth[triple["tail"]] = triple["truth"]
        return triple["tail"] + "."

    def labels(self, project, count, **how):
        rows = [
            row | {"relation": name, "phrase": PHRASES[name]}
            for row, name in zip(self.triples.labels(count, **how), cycle(PHRASES), strict=False)
        ]
        project.rows("labels.jsonl", rows)
        return [
            "critic.labels=labels.jsonl",
            "critic.features=words",
            "critic.validation=0.125",
            "critic.test=0.125",
            "critic.passes=1",
        ]


def rows_of(run, stage):
    return [
        json.loads(line)
        for line in next((run.directory / "stages").glob(f"*-{stage}.jsonl")).read_text().splitlines()
    ]


def kept(rows):
    return [row for row in rows if "dropped" not in row["meta"]]


@pytest.fixture
def planted_run(project):
    planted = Planted()
    sets = ["critic=null", "train=null", "evaluate=null", "inferences.n=3"]
    return distillgen.run(
        "symbolic-knowledge", out="run", sets=sets, teachers={"teacher": planted.teach}
    ), planted


def test_each_request_shows_ten_seeds_in_its_own_order(planted_run):
    asked = [
        r.messages[-1]["content"] for r in planted_run[1].requests if "Event:" in r.messages[-1]["content"]
    ]
    shown = [tuple(re.findall(r"^\d+\. Event: (.+)$", text, re.M)) for text in asked]
    assert len(asked) == 64 == len(set(shown)) and {len(set(some)) for some in shown} == {10}
    assert all(text.endswith("\n11. Event:") and "\n\n\n2. Event: PersonX" in text for text in asked)


def test_the_least_likely_fifth_of_the_events_goes(planted_run):
    events = rows_of(planted_run[0], "likely")
    scores = [
        [row["meta"]["scores"]["events.logprob"] for row in some]
        for some in (kept(events), [r for r in events if "dropped" in r["meta"]])
    ]
    assert len(scores[1]) == round(0.2 * len(events)) and max(scores[1]) <= min(scores[0])


def test_seven_relations_with_sentences_and_examples(planted_run):
    run, planted = planted_run
    asked = [r.messages for r in planted.requests if "Event:" not in r.messages[-1]["content"]]
    heads = {row["head"] for row in kept(rows_of(run, "likely"))}
    made = kept(rows_of(run, "inferences"))
    assert Counter(Counter((row["head"], row["relation"]) for row in made).values()) == {3: 7 * len(heads)}
    assert {row["relation"] for row in made} == RELATIONS and len({row["phrase"] for row in made}) == 7
    for messages in asked:
        phrase = next(
            row["phrase"]
            for row in made
            if messages[-1]["content"].endswith(f". {row['phrase'].replace('PersonX', 'Alex')}")
        )
        examples, query = messages[1:-1:2], messages[-1]["content"]
        names = [shown["content"].split()[0] for shown in examples]
        assert query.startswith("Alex ") and len(set(names)) == 5 and not {"Alex", "Chris"} & set(names)
        assert all(
            shown["content"].endswith(f". {phrase.replace('PersonX', name)}")
            for shown, name in zip(examples, names, strict=True)
        )
        assert "Person" not in str(messages)
    assert len({messages[1]["content"].split()[0] for messages in asked}) > 20


def test_tails_are_trimmed_and_students_see_the_comet_form(project):
    planted = Planted()
    said = iter(["to thank Alex.", "To thank PersonX", "to", "Chris smiles at Christmas. "] * 7)

    def teach(request, sample):
        return (
            next(said) if "Event:" not in request.messages[-1]["content"] else planted.teach(request, sample)
        )

    sets = ["critic=null", "train=null", "evaluate=null", "likely=null", "inferences.n=4"]
    run = distillgen.run("symbolic-knowledge", out="run", sets=sets, limit=1, teachers={"teacher": teach})
    tails = [row for row in kept(rows_of(run, "student")) if row["relation"] == "xWant"]
    assert [row["completion"] for row in tails] == [" to thank PersonX", " PersonY smiles at Christmas"]
    assert tails[0]["prompt"] == f"<head> {tails[0]['head']} </head> <relation> xWant </relation> [GEN]"
    reasons = Counter(record.dropped.filter for record in run.dropped)
    assert reasons == {"length": 7, "unique": 7}


def test_what_one_head_says_stands_on_one_side_of_the_split(planted_run):
    sides = {}
    for row in kept(rows_of(planted_run[0], "student")):
        sides.setdefault(row["head"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values()) and {"train", "test"} == {
        s for side in sides.values() for s in side
    }


CRITIC = ["train=null", "evaluate=null", "inferences.n=6"]


def chosen(project, planted, out, target, sets):
    """How true the kept are, the share of the true that is kept, and how true all are."""
    run = distillgen.run(
        "symbolic-knowledge",
        out=out,
        sets=[*CRITIC, *sets, f"critic.target_recall={target}"],
        teachers={"teacher": planted.teach},
    )
    rows = [row for row in rows_of(run, "critic") if "critic" in row["meta"]["scores"]]
    truth = [planted.truth[row["tail"]] for row in rows]
    good = [planted.truth[row["tail"]] for row in kept(rows)]
    return fmean(good), sum(good) / sum(truth), fmean(truth)


@needs("sklearn")
def test_precision_rises_with_the_threshold_at_the_target_recall(project):
    """Over 5 seeds, 23 % of triples invalid, 30 % of tails of either kind, 8 % of 8,000 labels wrong, the
    threshold from 1,000.
    """
    precision, recall = {}, {}
    for seed in range(5):
        planted = Planted(0.23, seed)
        sets = planted.labels(project, 8000)
        for target in (0.9, 0.8, 0.7, 0.6, 0.5):
            good, found, raw = chosen(project, planted, f"run-{seed}", target, sets)
            precision.setdefault(target, []).append(good)
            recall.setdefault(target, []).append(found)
        precision.setdefault("raw", []).append(raw)
    means = {
        target: (round(fmean(precision[target]), 3), round(fmean(recall[target]), 3)) for target in recall
    }
    print(round(fmean(precision["raw"]), 3), means)
    ordered = [fmean(precision[target]) for target in ("raw", 0.9, 0.8, 0.7, 0.6, 0.5)]
    assert ordered == sorted(ordered) and ordered[1] > ordered[0] + 0.08 and ordered[-1] > 0.95
    assert all(abs(fmean(recall[target]) - target) < 0.04 for target in recall)


@needs("sklearn")
def test_a_critic_of_shuffled_labels_lifts_nothing(project):
    lifts = []
    for seed in range(3):
        planted = Planted(0.5, seed)
        good, _, raw = chosen(
            project, planted, f"run-{seed}", 0.5, planted.labels(project, 3000, shuffled=True)
        )
        lifts.append(good - raw)
    assert abs(fmean(lifts)) < 0.03


def tails_of_a_student(project, planted, out, pipeline, sets):
    """The share of a student's telling words, those that only valid or only invalid tails have, which are of
    valid ones.
    """
    run = distillgen.run(pipeline, out=out, sets=sets, teachers={"teacher": planted.teach})
    said = [
        json.loads(line)["answer"].split()
        for line in (run.directory / "evaluation.jsonl").read_text().splitlines()
    ]
    counts = Counter(
        "valid" if word in VALID else "invalid"
        for some in said
        for word in some
        if word in {*VALID, *INVALID}
    )
    known = sum(word in {*VALID, *INVALID, *EITHER} for some in said for word in some) / sum(map(len, said))
    trained = json.loads((run.directory / "student" / "manifest.json").read_text())["data"]["rows"]
    return counts["valid"] / counts.total(), known, trained["train"]


@needs("sklearn", "torch", "trl")
def test_a_student_of_critic_filtered_triples_beats_raw_ones(project):
    planted = Planted(0.5)
    learning = [
        "train.max_steps=250",
        "train.batch_size=16",
        "train.learning_rate=2e-3",
        "train.held_out=0",
        "evaluate.temperature=1",
    ]
    learning += ["evaluate.models=[student]", "evaluate.perplexity=false", "inferences.n=6"]
    sets = [*planted.labels(project, 4000), *learning, "critic.target_recall=0.5"]
    high, known, count = tails_of_a_student(project, planted, "high", "symbolic-knowledge", sets)
    shipped = yaml.safe_load((home("pipelines") / "symbolic-knowledge.yaml").read_text())
    at = next(i for i, stage in enumerate(shipped["stages"]) if "critic" in stage)
    chosen = len(kept(rows_of(Run(project.path / "high"), "critic")))
    shipped["stages"][at] = {"select": {"name": "as_many", "by": "random", "n": chosen}}
    raw, also_known, as_many = tails_of_a_student(project, planted, "raw", shipped, learning)
    held_out = {row["split"] for row in kept(rows_of(Run(project.path / "high"), "critic"))}
    assert held_out == {"train", "test"} and count < chosen  # what is evaluated on is not trained on
    print(
        f"valid: {high:.3f} of {count}, raw {raw:.3f} of {as_many}; words known {known:.2f}, {also_known:.2f}"
    )
    assert abs(count - as_many) < 0.15 * count
    assert high > raw + 0.2 and known > 0.5
