"""autodistil: a supernet ranks its subnets as a training of each alone does, and costs one training."""

import pytest

from data.digits import digits
from tests.recipes.harness import teach, train_here

SPACE = {"depth": [1, 2], "width": [8, 16, 32], "ratio": [1, 2]}
RELATIONS = [{"attention_relations": {"teacher": "student-big"}}]


def stage(name: str, space: dict, **options) -> dict:
    return {
        "train": {
            "name": name,
            "objective": "distil",
            "inputs": ["image"],
            "student": {"supernet": space, "shape": [8, 8]},
            "losses": RELATIONS,
            "batch_size": 32,
            "learning_rate": 0.003,
            **options,
        }
    }


def pipeline(subnets, *, steps: int, train: int = 1200, seed: int = 0) -> dict:
    """A teacher, a supernet with its control, and each of the subnets alone."""
    labels = {"label": "label", "losses": ["cross_entropy"], "max_steps": 2 * steps}
    control = {"shuffled": {"on": "shuffled"}}
    alone = [stage(name_of(one), dict(zip(SPACE, one, strict=True)), max_steps=steps) for one in subnets]
    stages = [
        {"source": {"script": "data/digits.py:digits", "with": {"train": train}}},
        stage("big", {"depth": 3, "width": 64}, **labels),
        stage("super", SPACE, max_steps=steps, arms=control),
        *alone,
    ]
    return {"version": 1, "seed": seed, "stages": stages}


def name_of(subnet) -> str:
    return "-".join(["alone", *map(str, subnet)])


def losses(folder, subnets, *, train: int = 1200, seed: int = 0) -> dict[str, list[float]]:
    """The loss of each subnet on the test pictures: alone, in the supernet, and in the control's."""
    import torch

    from distillgen.losses.attention_relations import AttentionRelations
    from distillgen.networks.network import load
    from distillgen.project import Project
    from distillgen.training.learner import Learner, Teachers

    test = [row for row in digits(seed=seed, train=train) if row["split"] == "test"]
    project = Project(folder)
    big = load(folder / "student-big", project)
    batch = big.batch([{"image": row["image"]} for row in test])

    def loss(network) -> float:
        learner = Learner(
            {"student": network}, [AttentionRelations(teacher="big")], {}, Teachers({"big": big})
        )
        with torch.no_grad():
            return learner.eval()(batch).item()

    def inside(name: str) -> list[float]:
        network, values = load(folder / name, project), []
        for network.body.subnet in subnets:
            values.append(loss(network))
        return values

    alone = [loss(load(folder / f"student-{name_of(one)}", project)) for one in subnets]
    return {"alone": alone, "super": inside("student-super"), "shuffled": inside("student-super-shuffled")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loss_in_the_supernet_ranks_subnets_as_the_loss_alone(tmp_path, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    from scipy.stats import spearmanr

    train_here(monkeypatch)
    subnets = [(1, 8, 1), (1, 32, 1), (2, 32, 2)]
    run = teach(pipeline(subnets, steps=60, train=1600), {}, out=tmp_path / "run")
    values = losses(run.directory, subnets, train=1600)
    assert spearmanr(values["super"], values["alone"]).statistic >= 0.7
    assert all(other > own for other, own in zip(values["shuffled"], values["super"], strict=True))
