"""The recipes bios and biod: the bits of a student that knows everything, guesses, or mixes people up."""

import json
import math
from itertools import product

import pytest
import yaml

import distillgen
from distillgen.inference.request import Completion
from distillgen.project import home
from distillgen.record import Record
from distillgen.runs.directory import read_records
from distillgen.stages.capacity import Facts
from tests.recipes.harness import text_of, train_here
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

PARAMETERS = 27_872  # of biod's student
N = 20
SCRIPTED = ["train=null", "models.student={provider: scripted, model: echo}"]
SETS = {
    "biod": [*SCRIPTED, f"source.with.n={N}", "format.draws=2"],
    "bios": [*SCRIPTED, f"source.draw.n={N}", "lives.draws=2"],
}
NAMES = {"biod": 32**5, "bios": 400 * 400 * 1000}
VALUES = {"birth": 28 * 12 * 200, "pronoun": 2, "city": 200, "university": 300, "major": 100, "employer": 263}
FILES = {"city": "cities", "university": "universities", "major": "majors", "employer": "employers"}
MOST = {  # R^max times the parameters, by hand; the paper's 47.59 bits of values
    "biod": N * (25 - math.log2(N)) + N * 4 * 2 * 6 + 4 * 64 * 4,
    "bios": N * math.log2(NAMES["bios"] / N) + N * 47.5916237,
}


def answer(logprob):
    """A score whose four tokens have this log-probability together."""
    return Completion(logprobs=[["x", logprob / 4, []]] * 4)


def run(recipe, student, *stages):
    """Run a recipe, with further stages, on a scripted student; return its folder and its measures."""
    pipeline = yaml.safe_load((home("pipelines") / f"{recipe}.yaml").read_text(encoding="utf-8"))
    pipeline["stages"] += stages
    for stage in pipeline["stages"]:
        if "capacity" in stage:
            stage["capacity"] |= {"model": None, "parameters": PARAMETERS}
    run = distillgen.run(pipeline, out="run", sets=SETS[recipe], teachers={"student": student})
    measured = json.loads((run.directory / "usage.json").read_text())["stages"]
    return run.directory, {stage["name"]: stage["measured"] for stage in measured}


def bits(figures):
    return figures["bits_per_parameter"] * PARAMETERS


@pytest.mark.parametrize("recipe", ["bios", "biod"])
def test_all_bits_are_known_by_the_oracle_and_none_by_a_guess(project, installed, recipe):  # noqa: F811
    """The stage with its numbers, and 16 digits: the ledger keeps eight of a log-probability."""
    pipeline = distillgen.load(recipe, sets=SETS[recipe][2:])
    bound = next(bound for bound in pipeline.bound_stages if bound.name == "capacity")
    stage, numbers = bound.stage, bound.numbers
    share = {score: 1 / number for score, number in (numbers["names"] | numbers["values"]).items()}
    share |= {score: stage.sets[score].strings / number for score, number in numbers["sets"].items()}
    guess = {score: math.log(probability) for score, probability in share.items()}
    oracle = {score: -math.log(N) if score in stage.names else 0.0 for score in share}
    (name,) = stage.names
    names_alone = guess | {name: oracle[name]}
    wrong = dict.fromkeys(share, -50.0)

    def measured(scores):
        facts = Facts(stage)
        for number, attribute in product(range(N), "ABCD" if stage.attribute else " "):
            fields = {"name": f"Name {number}", "attribute": attribute}
            facts.add(Record(str(number), fields, scores=scores))
        figures = facts.measured(numbers, PARAMETERS)
        assert figures["most_bits_per_parameter"] == pytest.approx(MOST[recipe] / PARAMETERS, abs=1e-9)
        return figures["bits_per_parameter"]

    assert measured(oracle) == pytest.approx(MOST[recipe] / PARAMETERS, abs=1e-9)
    assert measured(guess) == pytest.approx(0, abs=1e-9)
    assert measured(names_alone) == pytest.approx(N * math.log2(NAMES[recipe] / N) / PARAMETERS, abs=1e-9)
    assert measured(wrong) < -0.1, "never clipped"


def test_a_student_of_biod_knows_the_people_and_not_the_shuffled_ones(project, monkeypatch):
    monkeypatch.syspath_prepend(str(home("data")))
    from biod import people

    values = {
        person["name"] + fact["attribute"]: fact["value"]
        for person in people(n=N)
        for fact in person["facts"]
    }

    def student(request, sample):
        if not (context := text_of(request)):
            return answer(-math.log(N))
        return answer(0.0 if values[context].startswith(request.target) else -20.0)

    directory, measured = run("biod", student)
    assert bits(measured["capacity"]) == pytest.approx(MOST["biod"], rel=1e-7)
    assert [measured["capacity"][name] for name in ("people", "facts")] == [N, 4 * N]
    for record in read_records(directory / "corpus.jsonl"):
        (other,), attribute = record.fields["other"], record.fields["attribute"]
        assert other["value"] in [value for key, value in values.items() if key.endswith(attribute)]
    assert bits(measured["shuffled"]) < -MOST["biod"] and measured["shuffled"]["value_nats"] > 19


def test_a_student_of_bios_is_asked_for_the_texts_that_it_learnt_and_all_tokens_count(project):
    """The control counts nats a token instead of their sum: a student that guesses then knows something."""
    lists = {
        name: (home("data") / f"bios/{file}.txt").read_text().splitlines() for name, file in FILES.items()
    }
    asked = []

    def student(request, sample):
        context, value = text_of(request), request.target[:-1]
        asked.append(context + request.target)
        kinds = [name for name, values in lists.items() if value in values]
        kind = kinds[0] if kinds else "pronoun" if value in ("He", "She") else "birth"
        return answer(-math.log(VALUES[kind] if context else NAMES["bios"]))

    mean = {"name": "mean", "person": "name", "names": {"name.mean_logprob": ["first", "middle", "last"]}}
    mean["values"] = {f"{name}.mean_logprob": [number] for name, number in VALUES.items()}
    directory, measured = run("bios", student, {"capacity": mean})
    assert bits(measured["capacity"]) == pytest.approx(0, abs=1e-7 * MOST["bios"])
    assert bits(measured["mean"]) == pytest.approx(N * (math.log2(NAMES["bios"]) + 47.5916237) * 3 / 4)
    lives = [record.fields for record in read_records(directory / "stages/03-lives.jsonl")]
    assert len(asked) == 7 * N and len({life["text"] for life in lives}) == len(lives) == 2 * N
    assert all(any(life["text"].startswith(text.rstrip()) for life in lives) for text in asked)
    for life in lives:
        first, *others = life["text"].removesuffix(".").split(". ")
        assert first.startswith(f"{life['name']} ") and len(others) == 4
        assert all(sentence.startswith(f"{life['pronoun']} ") for sentence in others)
        for name in VALUES.keys() - {"pronoun"}:
            assert sum(sentence.endswith(f" {life[name]}") for sentence in [first, *others]) == 1


def test_people_of_biod_are_drawn_as_the_definition_says(monkeypatch):
    monkeypatch.syspath_prepend(str(home("data")))
    from biod import people

    rows = [*people(n=600, attributes=3, chunks=3, strings=8, length=2, letters=5, name_length=4, seed=1)]
    assert len({row["name"] for row in rows}) == 600 and {len(row["name"]) for row in rows} == {4}
    assert {letter for row in rows for letter in row["name"]} == set("abcde")
    for number, attribute in enumerate("ABC"):
        facts = [row["facts"][number] for row in rows]
        assert {fact["attribute"] for fact in facts} == {attribute}
        strings = [[fact["value"][at : at + 2] for fact in facts] for at in (0, 2, 4)]
        assert strings[0] == [fact["string"] for fact in facts]
        assert len(set(strings[0])) == len(set().union(*strings)) == 8
        assert 40 < sum(map(str.__eq__, *strings[:2])) < 115  # a string may stand twice in a value
        counts = [column.count(string) for column in strings for string in set(column)]
        assert 35 < min(counts) and max(counts) < 115  # 75 of each; the deviation is 8
    assert [*people(n=2)] == [*people(n=2, seed=0)] != [*people(n=2, seed=1)]
    assert [*people(n=5)] == [*people(n=9)][:5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 28, "letters": 3, "name_length": 3}, "28 people.*27 names"),
        ({"strings": 1025}, "1,025 strings.*1,024"),
        ({"letters": 45}, "at most 44 letters"),
        ({"attributes": 27}, "at most 26 attributes"),
    ],
)
def test_more_than_there_is_cannot_be_drawn(monkeypatch, options, message):
    monkeypatch.syspath_prepend(str(home("data")))
    from biod import people

    with pytest.raises(ValueError, match=message):
        [*people(**options)]


def test_the_lists_of_bios_are_what_the_program_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(home("data")))
    import bios

    bios.write(tmp_path / "bios")
    shipped = sorted((home("data") / "bios").iterdir())
    assert [file.name for file in shipped] == sorted(file.name for file in (tmp_path / "bios").iterdir())
    assert all(file.read_bytes() == (tmp_path / "bios" / file.name).read_bytes() for file in shipped)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trained_student_of_biod_knows_nearly_all_and_one_of_few_exposures_less_than_nothing(
    project, monkeypatch
):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    train_here(monkeypatch)
    figures = []
    for epochs in (24, 1):
        sets = ["source.with.n=32", f"train.epochs={epochs}"]
        directory = distillgen.run("biod", out=f"epochs-{epochs}", sets=sets).directory
        stages = json.loads((directory / "usage.json").read_text())["stages"]
        measured = {stage["name"]: stage["measured"] for stage in stages}
        figures.append([measured[name]["bits_per_parameter"] for name in ("capacity", "shuffled")])
    (trained, shuffled), (hardly, _) = figures
    most = measured["capacity"]["most_bits_per_parameter"]
    assert 0.95 * most <= trained <= most and shuffled < -most and hardly < 0
    student = transformers.AutoModelForCausalLM.from_pretrained(directory / "student")
    assert measured["capacity"]["parameters"] == student.num_parameters() == PARAMETERS
