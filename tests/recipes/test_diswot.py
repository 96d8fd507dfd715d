"""diswot: its score by hand, its control, its bound, and what a search by a score trains."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import train_here


def recipe():
    file = home("pipelines") / "diswot.yaml"
    return read_yaml(file.read_text(encoding="utf-8"), file)[0]


def test_similarities_of_rows_by_hand():
    torch = pytest.importorskip("torch")
    from distillgen.scores.diswot import distance, gram

    # features (3, 4), (4, 3), (0, 5): their products are 25 24 20 / 24 25 15 / 20 15 25
    features = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 5.0]])
    norms = [(25**2 + 24**2 + 20**2) ** 0.5, (24**2 + 25**2 + 15**2) ** 0.5, (20**2 + 15**2 + 25**2) ** 0.5]
    by_hand = torch.tensor(
        [
            [v / n for v in row]
            for row, n in zip([(25, 24, 20), (24, 25, 15), (20, 15, 25)], norms, strict=True)
        ]
    )
    assert torch.allclose(gram(features), by_hand)
    assert torch.allclose(gram(7 * features), by_hand), "the score hangs on the scale of the features"
    assert torch.equal(gram(torch.zeros(2, 3)), torch.zeros(2, 2)), "dead features are no number"
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    assert distance(one, other) == pytest.approx(0.4**2 + 0.8**2)
    assert distance(one, one) == 0.0


class Fixed:
    """A student and its teacher with weights by hand: three rows, features and classes."""

    def __init__(self, torch, own, its):
        self.torch, self.weights = torch, {"own": own, "its": its}

    def _network(self, kind):
        torch = self.torch
        network = torch.nn.Module()
        network.heads = torch.nn.ModuleDict({"class": torch.nn.Linear(3, 3)})
        torch.nn.init.zeros_(network.heads["class"].weight)
        torch.nn.init.zeros_(network.heads["class"].bias)
        features = torch.tensor(self.weights[kind])

        def forward(batch):
            from distillgen.networks.network import Out

            chosen = features[batch["row"]]
            return Out({"class": network.heads["class"](chosen)}, batch["row"], chosen)

        network.forward = forward
        return network

    def network(self, draw=0):
        return self._network("own")

    def earlier(self, name, draw=0):
        return self._network("its")

    def batch(self, network, count):
        torch = self.torch
        return {"row": torch.arange(3)[:count], "label": torch.tensor([0, 1, 2])[:count]}


def rated(own, its, **options):
    torch = pytest.importorskip("torch")
    from distillgen.scores.diswot import Diswot

    return Diswot(teacher="big", draws=1, **options).rate(Fixed(torch, own, its))


def test_the_score_by_hand():
    same = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert rated(same, same) == {"": 0.0, "relation": 0.0, "semantic": 0.0}
    found = rated(same, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    # relation: the teacher's products are 1 0 0 / 0 r r / 0 r r, r = 1/√2; the student's, the identity
    r = 0.5**0.5
    assert found["relation"] == pytest.approx(-2 * (r**2 + (1 - r) ** 2) / 3**2, rel=1e-5)
    # semantic: with weights of 0 a class has probability 1/3. The gradients of the teacher's classes are
    # (-2, 2), (1, -1), (1, -1), those of the student's (-2, 1, 1), (1, -2, 1), (1, 1, -2), all by 1/9. Of the
    # normalised products, the first rows are equal, and the others are 1 apart: ‖(1, 1, -2)‖² / 6.
    assert found["semantic"] == pytest.approx(-2 / 3, rel=1e-5)
    assert found[""] == pytest.approx(found["relation"] + found["semantic"])
    twins = [same[0], same[1], same[1]]
    shuffled = [rated(twins, twins, shuffled=True) for _ in range(2)]
    assert shuffled[0] == shuffled[1] and shuffled[0][""] < -0.1 < rated(twins, twins)[""] == 0.0


def test_the_recipe_checks_its_teacher_and_its_bound(project, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    monkeypatch.chdir(project.path)
    pipeline = recipe()
    assert len(distillgen.load(pipeline).stages) == 8
    pipeline["stages"][2]["search"]["arms"] = {}
    pipeline["stages"][3]["evaluate"]["models"] = ["student"]
    with pytest.raises(
        ConfigError, match="no earlier stage trains 'student-bog'; did you mean 'student-big'"
    ):
        distillgen.load(pipeline, ["search.by={diswot: {teacher: student-bog}}"])
    with pytest.raises(ConfigError, match="there is no score 'weights'"):
        distillgen.load(pipeline, ["search.within={weights: 100}"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_only_the_best_within_the_bound_is_trained_and_arms_choose_by_their_own(project, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    monkeypatch.chdir(project.path)
    train_here(monkeypatch)
    pipeline = recipe()
    search = pipeline["stages"][2]["search"]
    search["space"] = {"train.student.with.width": [4, 16], "train.student.with.depth": [1, 3]}
    for train in (pipeline["stages"][1]["train"], search["stages"][0]["train"]):
        train["max_steps"] = 20
    del search["arms"]["shuffled"], search["arms"]["trained"]
    pipeline["stages"][3]["evaluate"]["models"] = ["student", "student-size", "student-big"]
    run = distillgen.run(pipeline, out="run")
    for name, score in (("search", "diswot"), ("search-size", "parameters")):
        lines = (run.directory / name / "trials.jsonl").read_text().splitlines()
        trials = [json.loads(line) for line in lines]
        small = [trial for trial in trials if trial["scores"]["parameters"] <= 3000]
        assert {trial["status"] for trial in trials if trial not in small} == {"skipped"}
        assert 0 < len(small) < len(trials) == 4 and all(t["value"] == t["scores"][score] for t in small)
        best = max(small, key=lambda trial: trial["value"])
        trained = [*(run.directory / name).glob("*/student/manifest.json")]
        assert {path.parent.parent.resolve() for path in trained} == {
            (run.directory / name / "best").resolve()
        }
        assert json.loads((run.directory / name / "search.json").read_text())["best"] == best["trial"]
